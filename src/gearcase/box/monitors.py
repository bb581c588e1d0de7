"""The keys of `[monitors]`: what each detector may do in this box."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gearcase.box.fields import Table

Level = Literal["off", "shadow", "note", "latch", "freeze"]


def _level(description: str) -> Level | None:
    return Field(default=None, description=description)


class Monitors(Table):
    """What each detector may do: off, shadow (on record only), note (the agent is told), latch (the doors shut), freeze.

    Without a word a detector does what its own rule says, or stays in shadow where that is said here. See `docs/monitors.md`.
    """

    never_started: Level | None = _level("no model answered, or nothing moves; else it ends or latches the run")
    burn_rate: Level | None = _level("money goes much faster than the budget lasts; else note, then latch")
    out_of_range: Level | None = _level("more money or steps than accepted runs of this box; else shadow")
    no_progress: Level | None = _level("the best check score stands still; else shadow")
    volume_without_score: Level | None = _level("much is written and no check score moves; else shadow")
    no_contact: Level | None = _level(
        "a table that the work is about (must_touch) was never read; else handing in is refused, note, latch"
    )
    local_green_host_red: Level | None = _level("its own tests pass and the check outside fails; else note, then latch")
    tamper: Level | None = _level("tests that were given become weaker, a protected file changes; else shadow")
    destructive: Level | None = _level("what was given is nowhere any more, a branch loses tables or rows; else freeze")
    disk_remedy: Level | None = _level("a full disk is answered by removing what was given; else freeze")
    regression: Level | None = _level("check scores far under the best; else shadow")
    thrash: Level | None = _level("a file goes back and forth while the same error stays; else note, then latch")
    repetition: Level | None = _level("the same commands with the same outcome; else shadow")
    error_storm: Level | None = _level("an upstream fails again and again; else its calls rest")
    fan_out: Level | None = _level("sub-agents are spawned faster than they can be used; else spawning waits")
    exfiltration: Level | None = _level("names and uploads that carry data out; else freeze")

    def levels(self) -> dict[str, Level]:
        """What the box says, by detector."""
        return {name: level for name in type(self).model_fields if (level := getattr(self, name)) is not None}


def plainly(detector: str) -> str:
    """What a detector speaks of, in words that hold nothing of a run."""
    field = Monitors.model_fields.get(detector)
    return (field.description or "").partition(";")[0] if field is not None else "see the report"
