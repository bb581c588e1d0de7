#!/usr/bin/python3
"""`gear`: what an agent and its programs can ask of their box; `gearhelp.py` says what for.

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the door cannot be reached, 4 the answer cannot be written.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

ADDRESS = os.environ.get("GEARCASE_GEAR", "http://gear.box")
MOST_BYTES = 1024 * 1024
"""That the door takes."""


class Failed(Exception):
    """The door said no; holds its envelope."""


class Misused(Exception):
    """The command line makes no sense; says why."""


def call(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One operation; returns its answer. Raises Failed with the envelope, Misused for too much, OSError when there is no door."""
    body = json.dumps({key: value for key, value in arguments.items() if value is not None}).encode()
    if len(body) > MOST_BYTES:
        raise Misused(f"the arguments are over {MOST_BYTES} bytes: put large data into a file, and ask in parts")
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{ADDRESS}/v1/{operation}", data=body, headers=headers, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as reply:
            return cast("dict[str, Any]", json.load(reply))
    except urllib.error.HTTPError as error:
        raise Failed(envelope(error.read(), error.code)) from None


def envelope(body: bytes, status: int) -> dict[str, Any]:
    """The error that an answer carries, or one that says that it carries none."""
    try:
        error = json.loads(body)["error"]
        return {"code": error["code"], "message": error["message"], "remedy": error["remedy"], **error}
    except (ValueError, KeyError, TypeError):
        return {"code": "door", "message": f"the gear door answered with status {status}", "remedy": "try again", "cause": ""}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="gear", add_help=False)
    top.add_argument("--json", action="store_true")
    commands = top.add_subparsers(dest="operation")

    def add(name: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, add_help=False)
        sub.add_argument("--json", action="store_true", default=argparse.SUPPRESS)  # where it is not, the one before counts
        return sub

    add("status")
    add("doors")
    ask = add("ask")
    ask.add_argument("--model")
    ask.add_argument("--system")
    ask.add_argument("--schema")
    ask.add_argument("--max-output", type=int, dest="max_output")
    ask.add_argument("prompt", nargs="+")
    over, reduce = add("map"), add("reduce")
    for one in (over, reduce):
        one.add_argument("--over", nargs="+", required=True)
        worker = one.add_mutually_exclusive_group(required=True)
        worker.add_argument("--prompt")
        worker.add_argument("--run")
        one.add_argument("--out", required=True)
        one.add_argument("--model")
        one.add_argument("--schema")
        one.add_argument("--validator")
        one.add_argument("--give", nargs="+", default=[])
        one.add_argument("--deadline", type=float)
        for name in ("--concurrency", "--max-output", "--allow-failed"):
            one.add_argument(name, type=int, dest=name[2:].replace("-", "_"))
    over.add_argument("--split", required=True)
    over.add_argument("--max-failure-rate", type=float, dest="max_failure_rate")
    over.add_argument("--no-canary", action="store_false", dest="canary")
    over.add_argument("--repair-model", dest="repair_model")
    over.add_argument("--optimizer", choices=["gepa"])
    over.add_argument("--no-repair", action="store_false", dest="repair", default=None)
    over.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    reduce.add_argument("--split", default="lines:1")
    reduce.add_argument("--fan-in", type=int, default=8, dest="fan_in")
    spawn = add("spawn")
    for name in ("--name", "--model", "--usd", "--wall", "--egress", "--into", "--doors", "--branch", "--check", "--again"):
        spawn.add_argument(name)
    for name in ("--tokens", "--calls", "--steps"):
        spawn.add_argument(name, type=int)
    spawn.add_argument("--give", action="append")
    spawn.add_argument("--take", action="append")
    spawn.add_argument("--background", action="store_true")
    spawn.add_argument("goal", nargs="+")
    wait = add("wait")
    wait.add_argument("agents", nargs="*")
    wait.add_argument("--any", action="store_true")
    add("agents")
    tell = add("tell")
    tell.add_argument("agent")
    tell.add_argument("text", nargs="+")
    add("stop").add_argument("agent")
    result = add("result")
    result.add_argument("agent")
    result.add_argument("--trace", action="store_true")
    add("check").add_argument("name", nargs="?")
    add("snapshot").add_argument("--note")
    add("rewind").add_argument("snapshot", nargs="?")
    context = add("context")
    context.add_argument("action", choices=["show", "drop", "note"], nargs="?", default="show")
    context.add_argument("words", nargs="*")
    ask_for = add("ask-for")
    ask_for.add_argument("kind", choices=["net", "usd", "time", "egress", "tokens", "calls", "other"])
    ask_for.add_argument("what", nargs="+")
    ask_for.add_argument("--why", required=True)
    ask_for.add_argument("--no-wait", action="store_false", dest="wait")
    add("requests")
    done = add("done")
    done.add_argument("--note")
    done.add_argument("--as-is", action="store_true", dest="as_is")
    return top


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """The operation's arguments from the command line. Raises Misused."""
    given: dict[str, Any] = {key: value for key, value in vars(options).items() if key not in ("operation", "json")}
    if options.operation == "ask":
        prompt = " ".join(options.prompt)
        given["prompt"] = read_all() if prompt == "-" else prompt
        if options.schema:
            given["schema"] = read_schema(options.schema)
    if options.operation == "ask-for":
        given["what"] = " ".join(options.what)
    if options.operation == "tell":
        given["text"] = " ".join(options.text)
    if options.operation == "context":
        words: list[str] = given.pop("words")
        if options.action == "drop":
            if not all(word.isdecimal() for word in words):
                raise Misused("gear context drop takes the numbers that `gear context show` gives")
            given["ids"] = [int(word) for word in words]
        if options.action == "note":
            given["text"] = " ".join(words)
    return given


def read_all() -> str:
    """Standard input."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except (OSError, ValueError) as error:
        raise Misused(f"standard input is not UTF-8 text: {error}") from None


def read_schema(text: str) -> Any:
    """A JSON Schema: the text itself, or a file of that name."""
    try:
        return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Misused(f"--schema is neither a JSON Schema nor a file with one: {error}") from None


def show(operation: str, answer: dict[str, Any]) -> str:
    """The answer for a reader."""
    if operation == "ask":
        return json.dumps(answer["value"], indent=1) if "value" in answer else str(answer["text"])
    if operation == "done":
        return "handed in"
    if operation == "tell":
        return f"{answer['told']} is told"
    if operation == "ask-for":
        said = f" ({answer['said']})" if answer.get("said") else ""
        return f"request {answer['request']}: {answer['kind']} {answer['what']} is {answer['state']}{said}"
    return "\n".join(lines(answer))


def beside(name: str) -> Any:
    """A part of this command that lies beside it, loaded when it is used."""
    folder = str(Path(__file__).resolve().parent)  # also where a program puts its own folder first: it is ours
    if sys.path[0] != folder:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def do_map(options: argparse.Namespace) -> tuple[dict[str, Any], int, str]:
    """A whole map or reduce: its account, the exit status, the account for a reader. Raises Misused and what `call` raises."""
    schema = read_schema(options.schema) if options.schema else None
    mapping = beside("gearmap")
    working = beside("gearreduce") if options.operation == "reduce" else mapping
    try:
        account, code = working.run(options, schema, call)
    except mapping.Unusable as error:
        raise Misused(str(error)) from None
    return account, code, working.show(account)


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
            first, *more = one_of(item)
            yield f"{indent}- {first}"
            yield from (f"{indent}  {line}" for line in more)
    else:
        yield f"{indent}{value}"


def one_of(value: Any) -> list[str]:
    """One item of a list: a line, and below it what has lines of its own, the last 20 of each."""
    if not isinstance(value, dict):
        return [str(value)]
    table = {key: item for key, item in cast("dict[str, Any]", value).items() if item not in (None, "", [], {})}
    blocks = {key: item.splitlines() for key, item in table.items() if isinstance(item, str) and "\n" in item}
    told = [", ".join(f"{key}: {item}" for key, item in table.items() if key not in blocks)]
    for key, found in blocks.items():
        told += [f"  {key}:", *(f"    | {line}" for line in found[-20:])]
    return told


def complain(error: dict[str, Any], as_json: bool) -> int:
    """Say what the door said, with what to do about it."""
    if as_json:
        told(json.dumps({"error": error}))
    print(f"gear: {error['message']}", file=sys.stderr)
    if error.get("cause"):
        print(f"  cause: {error['cause']}", file=sys.stderr)
    print(f"  remedy: {error['remedy']}", file=sys.stderr)
    context: dict[str, Any] = error.get("context") or {}
    for check in context.get("checks", []):
        for line in one_of(check):
            print(f"  {line}", file=sys.stderr)
    return 1


def help_for(argv: list[str]) -> str | None:
    """The command that is to be explained, empty for all of them; None where none is. What stands behind `--` is no option."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    words = [word for word in options if not word.startswith("-")]
    if words[:1] == ["help"]:
        return "".join(words[1:2])
    return "".join(words[:1]) if "--help" in options or "-h" in options else None


def helped(command: str) -> int:
    """Explain a command, or all of them."""
    text = beside("gearhelp").explain(command)
    if text is None:
        print(f"gear: there is no command {command!r}; gear help lists them", file=sys.stderr)
        return 2
    return told(text)


def main(argv: list[str]) -> int:
    """The command; its exit status."""
    if (topic := help_for(argv)) is not None:
        return helped(topic)
    options = parser().parse_args(argv)
    if options.operation is None:
        return helped("")
    code, text = 0, ""
    try:
        if options.operation in ("map", "reduce"):
            answer, code, text = do_map(options)
        elif options.operation in ("spawn", "wait", "agents", "result", "stop"):
            answer, code, text = beside("gearspawn").run(options.operation, arguments_of(options), call)
        else:
            answer = call(options.operation, arguments_of(options))
            text = show(options.operation, answer)
    except Failed as failed:
        return complain(failed.args[0], options.json)
    except Misused as error:
        print(f"gear: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"gear: the answer of the gear door at {ADDRESS} cannot be read ({error}); is that its address?", file=sys.stderr)
        return 3
    except (OSError, http.client.HTTPException) as error:
        print(f"gear: the gear door at {ADDRESS} cannot be reached ({error}); the run is frozen, or has ended", file=sys.stderr)
        return 3
    return told(json.dumps(answer, indent=1) if options.json else text) or code


def told(text: str) -> int:
    """Print an answer; its exit status. Where it goes may be full, or closed."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's own last flush does not fail again
        print(f"gear: it is done, but the answer cannot be written: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
