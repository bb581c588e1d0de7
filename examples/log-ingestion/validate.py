"""Holds an answer against its line: what it says must stand there. It knows nothing of what is right beyond that, and of levels nothing.

Every failure is one kind, with its reason in quotes: a prompt that is rewritten for one of them alone would break the others.
"""

import json
import os
import re
import sys


def wrong(line, answer):
    """The first thing that is wrong with an answer."""
    time, component, message, template = (answer[name] for name in ("time", "component", "message", "template"))
    if not message.strip() or not line.endswith(message):
        return "message is not the end of the line, unchanged"
    head = line[: len(line) - len(message)]
    if time not in head or not re.search(r"\d", time):
        return "time is not a part of the line before the message, as it stands there"
    if component not in head:
        return "component does not stand before the message; it is empty where a line has none"
    if not template.strip() or (template.split()[0] != message.split()[0] and "<*>" not in template.split()[0]):
        return "template does not begin as the message does"
    if re.search(r"\d{3}|/\w+/", template):
        return "template still holds a value: a number, an address, a path"
    return ""


if __name__ == "__main__":
    with open(os.environ["ITEM"], encoding="utf-8") as file:
        reason = wrong(file.read().strip(), json.load(sys.stdin))
    assert not reason, repr(reason)
