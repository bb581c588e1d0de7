"""Load on a door: chat completions through `wrk`, and streams read side by side."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_SCRIPT = Path(__file__).with_name("chat.lua")
_STREAM = (
    b'{"model": "gpt-5-mini", "max_completion_tokens": 1000, "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
)


@dataclass(frozen=True, slots=True)
class Load:
    """What `wrk` saw: answers, how many a second, and the median wait in seconds."""

    count: int
    rate: float
    median: float


def warm(base: str) -> None:
    """One call, awaited however long it takes: whatever is read or imported at the first one is not measured."""
    headers = {"content-type": "application/json", "authorization": "Bearer sk-bench"}
    body = {"model": "gpt-5-mini", "max_completion_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(f"{base}/v1/chat/completions", data=json.dumps(body).encode(), headers=headers)
    urllib.request.urlopen(request, timeout=60).read()


def calls(base: str, connections: int, seconds: int) -> Load:
    """Chat completions over so many connections. Raises RuntimeError when any of them is refused."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(_SCRIPT), base]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+)", told)
    if found is None or int(found[2]) or not int(found[1]):
        raise RuntimeError(f"{base} did not answer as it should: {told}")
    return Load(int(found[1]), int(found[1]) / (float(found[3]) / 1e6), float(found[4]) / 1e6)


def streams(base: str, count: int) -> float:
    """Seconds until so many streamed answers, begun at once, have all ended."""
    return asyncio.run(_streams(base, count))


async def _streams(base: str, count: int) -> float:
    host, port = urlsplit(base).hostname, urlsplit(base).port
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer sk-bench\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_STREAM), _STREAM)
    )

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        last = b""
        while b"[DONE]" not in last:
            data = await reader.read(65536)
            if not data:
                raise RuntimeError(f"a stream of {base} broke off: {last[-300:]!r}")
            last = last[-16:] + data
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - began
