"""What ended a run that nobody helped: a monitor, a limit of its budget, or the check."""

from __future__ import annotations

from gearcase.run.record import EndRecord

_HOLDING = ("latch", "freeze", "end")


def stopped_by(record: EndRecord) -> str:
    """Who ended it, with what was seen; empty where it ended by itself and no check had a word in it, or where it was accepted."""
    holding = [alarm for alarm in record.alarms if alarm.get("action") in _HOLDING]
    if record.status in ("stopped", "failed") and holding:
        return f"the monitor {holding[-1]['name']}: {holding[-1]['message']}"
    if record.status == "exhausted":
        return f"its limit of {record.limit}"
    if record.status == "rejected":
        failed = [f"{check['name']} ({check['verdict']})" for check in record.checks if check.get("verdict") != "passed"]
        return f"the check {', '.join(failed)}: nothing is delivered"
    return ""
