"""What a sub-agent that is sent again has from the one before it: its files, and what it is told of it."""

from __future__ import annotations

from gearcase.run.returning import CONFLICTS, REJECTED
from gearcase.sandbox.manifest import Manifest
from gearcase.swarm.family import Kin


def left_by(earlier: Kin) -> frozenset[str]:
    """The printable paths in its parent's files at which what it made may lie."""
    copied = earlier.outcome.copied if earlier.outcome is not None else ()
    return frozenset((*copied, *(_aside(place, earlier).decode() for place in (REJECTED, CONFLICTS))))


def told_of(earlier: Kin, files: Manifest) -> str:
    """What is said of it to the one that has `files` now; empty while it has not ended."""
    if earlier.outcome is None:
        return ""
    place = _aside(REJECTED, earlier)
    if files.find(place) is not None:
        what = f"its check did not pass what it made, which lies below {place.decode()}"
    else:
        what = f"it ended as {earlier.outcome.status}, and what it brought is in these files"
    return f" {earlier.id} worked on this before you; {what}."


def _aside(place: bytes, earlier: Kin) -> bytes:
    return place + b"/" + earlier.id.encode()
