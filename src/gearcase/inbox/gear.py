#!/usr/bin/python3
"""gear: what an agent and its programs can ask of their box.

gear status                                limits, what is spent, time left, deliverables, checks
gear doors                                 the names that can be reached from here
gear ask [--model M] [--system TEXT] [--schema FILE] [--max-output N] PROMPT|-
                                           one model call, paid from the budget; - reads the prompt from standard input
gear check [NAME]                          run the acceptance checks now, on a copy of the deliverables
gear snapshot [--note TEXT]                keep the present state of /workspace
gear rewind [SNAPSHOT]                     return to one; without a name: list them
gear context show | drop ID... | note TEXT see and shrink what the agent remembers
gear done [--note TEXT] [--as-is]          hand in; the checks run, --as-is hands in whatever they say

--json anywhere prints the answer as JSON. The same as an HTTP API: /box/openapi.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

ADDRESS = os.environ.get("GEARCASE_GEAR", "http://gear.box")


class Failed(Exception):
    """The door said no; holds its envelope."""


def call(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One operation; returns its answer. Raises Failed with the envelope, OSError when there is no door."""
    body = json.dumps({key: value for key, value in arguments.items() if value is not None}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{ADDRESS}/v1/{operation}", data=body, headers=headers, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            raise Failed(json.loads(text)["error"]) from None
        except (ValueError, KeyError, TypeError):
            raise Failed({"code": "door", "message": f"status {error.code}", "remedy": "try again", "cause": ""}) from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="gear", add_help=False)
    commands = top.add_subparsers(dest="operation")

    def add(name: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, add_help=False)
        sub.add_argument("--json", action="store_true")
        return sub

    add("status")
    add("doors")
    add("help")
    ask = add("ask")
    ask.add_argument("--model")
    ask.add_argument("--system")
    ask.add_argument("--schema")
    ask.add_argument("--max-output", type=int, dest="max_output")
    ask.add_argument("prompt", nargs="+")
    add("check").add_argument("name", nargs="?")
    add("snapshot").add_argument("--note")
    add("rewind").add_argument("snapshot", nargs="?")
    context = add("context")
    context.add_argument("action", choices=["show", "drop", "note"], nargs="?", default="show")
    context.add_argument("words", nargs="*")
    done = add("done")
    done.add_argument("--note")
    done.add_argument("--as-is", action="store_true", dest="as_is")
    return top


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """The operation's arguments from the command line."""
    given: dict[str, Any] = {key: value for key, value in vars(options).items() if key not in ("operation", "json")}
    if options.operation == "ask":
        prompt = " ".join(options.prompt)
        given["prompt"] = sys.stdin.read() if prompt == "-" else prompt
        if options.schema:
            text: str = options.schema
            if not text.lstrip().startswith("{"):
                text = Path(text).read_text(encoding="utf-8")
            given["schema"] = json.loads(text)
    if options.operation == "context":
        words: list[str] = given.pop("words")
        if options.action == "drop":
            given["ids"] = [int(word) for word in words]
        if options.action == "note":
            given["text"] = " ".join(words)
    return given


def show(operation: str, answer: dict[str, Any]) -> str:
    """The answer for a reader."""
    if operation == "ask":
        return json.dumps(answer["value"], indent=1) if "value" in answer else str(answer["text"])
    if operation == "done":
        return "handed in"
    return "\n".join(lines(answer))


def lines(value: Any, indent: str = "") -> Iterator[str]:
    """Nested values as indented lines; what is empty is left out."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        for key, item in table.items():
            if item and isinstance(item, (dict, list)):
                yield f"{indent}{key}:"
                yield from lines(item, indent + "  ")
            elif item not in ({}, [], ""):
                yield f"{indent}{key}: {item}"
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield f"{indent}- {flat(item)}"
    else:
        yield f"{indent}{value}"


def flat(value: Any) -> str:
    """One item of a list, on one line."""
    if not isinstance(value, dict):
        return str(value)
    table = cast("dict[str, Any]", value)
    return ", ".join(f"{key}: {item}" for key, item in table.items() if item not in (None, "", [], {}))


def complain(error: dict[str, Any], as_json: bool) -> int:
    """Say what the door said, with what to do about it."""
    if as_json:
        print(json.dumps({"error": error}))
    print(f"gear: {error['message']}", file=sys.stderr)
    if error.get("cause"):
        print(f"  cause: {error['cause']}", file=sys.stderr)
    print(f"  remedy: {error['remedy']}", file=sys.stderr)
    context: dict[str, Any] = error.get("context") or {}
    for check in context.get("checks", []):
        print(f"  {flat(check)}", file=sys.stderr)
    return 1


def main(argv: list[str]) -> int:
    """Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the door cannot be reached."""
    if not argv or argv[0] in ("help", "--help", "-h"):
        print((__doc__ or "").strip())
        return 0
    options = parser().parse_args(argv)
    try:
        answer = call(options.operation, arguments_of(options))
    except Failed as failed:
        return complain(failed.args[0], options.json)
    except ValueError as error:
        print(f"gear: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gear: the gear door at {ADDRESS} cannot be reached ({error}); the run is frozen, or has ended", file=sys.stderr)
        return 3
    print(json.dumps(answer, indent=1) if options.json else show(options.operation, answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
