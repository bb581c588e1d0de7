"""Holds an answer against its line: what it says must stand there. It knows nothing of what is right beyond that."""

import json
import os
import re
import sys


def check_time(line, answer):
    assert answer["time"] in line and re.search(r"\d", answer["time"]), "time is not a part of the line, as it stands there"


def check_message(line, answer):
    assert answer["message"].strip() and line.endswith(answer["message"]), "message is not the end of the line, unchanged"


def check_head(line, answer):
    head = line[: len(line) - len(answer["message"])]
    for name in ("time", "level", "component"):
        assert answer[name] in head, f"{name} does not stand before the message; it is empty where a line has none"
    for word in re.findall(r"\b(?:notice|error|warn|warning|info|INFO|WARN|ERROR|DEBUG|FATAL)\b", head):
        assert answer["level"] == word, "level is not the word for it that stands before the message"


def check_template(line, answer):
    first, begins = answer["template"].split()[:1], answer["message"].split()[0]
    assert first and (first[0] == begins or "<*>" in first[0]), "template does not begin as the message does"
    assert not re.search(r"\d{3}|/\w+/", answer["template"]), "template still holds a value: a number, an address, a path"


if __name__ == "__main__":
    with open(os.environ["ITEM"], encoding="utf-8") as file:
        line = file.read().strip()
    answer = json.load(sys.stdin)
    for check in (check_time, check_message, check_head, check_template):
        check(line, answer)
