"""The model door against LiteLLM's proxy (one worker, no database), on the same fake provider, in one run.

    python benchmarks/door.py --litellm PATH/TO/litellm

Both carry the same requests to `provider.py`; ours meters, holds and journals each call, grouped and strict. `wrk` is the client. All
places are measured in turn, several times over, so that a busy moment of the machine meets each of them. Processor time is what the
kernel booked to the process: it says more than a rate where others work on the same machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import load
from figures import Figure, show
from places import Place, litellm, serving
from provider import CHUNKS, INTERVAL

HERE = Path(__file__).parent
ROUNDS, SECONDS, STREAMS = 3, 3, 64
CONNECTIONS = 8
"""With eight at once the peer does best."""
IDEAL = (CHUNKS - 1) * INTERVAL


def measure(program: str) -> list[Figure]:
    """Every figure of the door."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))  # on a disk, where a sync means something
        direct = stack.enter_context(serving(str(HERE / "provider.py")))
        grouped, strict = (
            stack.enter_context(serving(str(HERE / "our_door.py"), direct.base, durability, f"{folder}/{durability}"))
            for durability in ("grouped", "strict")
        )
        peer = stack.enter_context(litellm(program, direct.base))
        _load([direct, grouped, strict, peer])
        return [
            *_calls("grouped", grouped, direct, peer, rate=20, wait=1 / 15),
            *_calls("strict", strict, direct, peer),
            *_streams(grouped, direct, peer),
            *_process(grouped, peer),
        ]


def _load(places: list[Place]) -> None:
    for place in places:
        load.warm(place.base)
        load.calls(place.base, CONNECTIONS, 1)
    for _ in range(ROUNDS):
        for place in places:
            before = place.worked()
            told = load.calls(place.base, CONNECTIONS, SECONDS)
            place.costs.append((place.worked() - before) / told.count)
            place.rates.append(told.rate)
            place.waits.append(load.calls(place.base, 1, SECONDS).median)
    for place in places:
        before = place.worked()
        place.flow = load.streams(place.base, STREAMS)
        place.chunk_cost = (place.worked() - before) / (STREAMS * CHUNKS)


def _calls(
    journal: str, ours: Place, direct: Place, peer: Place, *, rate: float | None = None, wait: float | None = None
) -> list[Figure]:
    added, peer_added = ours.wait - direct.wait, peer.wait - direct.wait
    return [
        Figure(
            f"calls a second, {CONNECTIONS} connections, {journal} journal",
            f"{ours.rate:,.0f}/s",
            f"LiteLLM {peer.rate:,.0f}/s",
            ours.rate / peer.rate,
            at_least=rate,
        ),
        Figure(
            f"added median wait, 1 connection, {journal} journal",
            f"{added * 1000:.2f} ms",
            f"LiteLLM {peer_added * 1000:.1f} ms",
            added / peer_added,
            at_most=wait,
        ),
        Figure(
            f"processor time a call, {journal} journal",
            f"{ours.cost * 1e6:.0f} us",
            f"LiteLLM {peer.cost * 1e6:,.0f} us",
            ours.cost / peer.cost,
        ),
    ]


def _streams(ours: Place, direct: Place, peer: Place) -> list[Figure]:
    beside = f"ideal {IDEAL:.2f} s, direct {direct.flow:.3f} s, LiteLLM {peer.flow:.2f} s"
    what = f"{STREAMS} streams of {CHUNKS} chunks at {1 / INTERVAL:.0f}/s"
    cost, peer_cost = ours.chunk_cost, peer.chunk_cost
    return [
        Figure(what, f"{ours.flow:.3f} s", beside, ours.flow / IDEAL, at_most=1.03),
        Figure(
            "processor time a chunk", f"{cost * 1e6:.0f} us", f"LiteLLM {peer_cost * 1e6:.0f} us", cost / peer_cost, at_most=0.1
        ),
    ]


def _process(ours: Place, peer: Place) -> list[Figure]:
    return [
        Figure(
            "peak memory of the door, under all that load",
            f"{ours.memory:.1f} MB",
            f"LiteLLM {peer.memory:.0f} MB",
            ours.memory,
            at_most=60,
            unit="MB",
        ),
        Figure(
            "start of the door", f"{ours.started:.2f} s", f"LiteLLM {peer.started:.1f} s", ours.started, at_most=1.5, unit="s"
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", required=True)
    sys.exit(show(measure(parser.parse_args().litellm)))
