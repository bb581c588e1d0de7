"""`gear` as programs inside call it: a process of its own, against a gear door on a socket."""

import ast
import asyncio
import importlib
import json
import os
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from gearcase.doors.gear import GearDoor, Operation
from gearcase.doors.server import Reply, serve
from gearcase.errors import Refused, UsageError
from gearcase.journal import Journal

SOURCE = Path(str(resources.files("gearcase.inbox").joinpath("gear.py")))
OPERATIONS = {"status", "doors", "ask", "check", "snapshot", "rewind", "context", "done"}
TEXT = {"type": "string"}
PARAMETERS = {
    "ask": {"prompt": TEXT, "model": TEXT, "system": TEXT, "schema": {"type": "object"}, "max_output": {"type": "integer"}},
    "check": {"name": TEXT},
    "snapshot": {"note": TEXT},
    "rewind": {"snapshot": TEXT},
    "context": {"action": {"type": "string", "enum": ["show", "drop", "note"]}, "ids": {"type": "array"}, "text": TEXT},
    "done": {"note": TEXT, "as_is": {"type": "boolean"}},
}
ANSWERS = {
    "status": {
        "phase": "work",
        "budget": {"usd": {"limit": "$1.00", "spent": "$0.10"}},
        "checks": [{"name": "a", "verdict": "failed"}],
    },
    "doors": {"doors": [{"name": "model.box", "address": "http://model.box"}], "note": "nothing else"},
    "check": {
        "passed": False,
        "checks": [{"name": "a", "verdict": "failed", "score": None}],
        "files": 3,
        "refused": [],
        "checks_left": 19,
    },
    "snapshot": {"snapshot": "s1", "files": 3, "bytes": 12},
    "rewind": {"snapshots": [{"snapshot": "s0", "files": 3, "note": "as given"}]},
    "context": {"entries": [{"id": 1, "tokens": 12, "text": "hello"}]},
    "done": {"done": True, "note": ""},
}


class Box:
    """A gear door whose operations say what they were asked."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = []
        self.journal = Journal.create(folder / "journal")
        self.port = 0

    def table(self):
        return {
            name: Operation(
                self._handler(name),
                name,
                {"type": "object", "properties": PARAMETERS.get(name, {}), "additionalProperties": False},
            )
            for name in OPERATIONS
        }

    def _handler(self, name):
        async def handle(agent, arguments):
            self.asked.append((name, dict(arguments)))
            if name == "ask":
                return self._answer(arguments)
            if name == "done" and not arguments.get("as_is"):
                raise Refused(
                    "checks_failed",
                    "the checks do not pass",
                    remedy="mend it",
                    cause="a: failed",
                    checks=[{"name": "a", "verdict": "failed"}],
                )
            if name == "rewind" and arguments.get("snapshot") == "s9":
                raise UsageError("no_snapshot", "there is no snapshot 's9'", remedy="kept are: s0")
            return ANSWERS[name]

        return handle

    def _answer(self, arguments):
        told = {"text": f"you said {arguments['prompt']}", "model": "m", "stop": "end"}
        return {**told, "value": {"n": 1}} if "schema" in arguments else told

    def types(self, *arguments, handler=None, **options):
        """`gear ARGUMENTS` to its end, in a folder of its own."""

        async def scenario():
            sock = socket.create_server(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
            server = await serve(sock, handler or GearDoor(self.table(), self.journal).handler("lead"))
            try:
                return await asyncio.to_thread(self.calls, *arguments, **options)
            finally:
                await server.close()

        return asyncio.run(scenario())

    def calls(self, *arguments, python=(sys.executable, "-I", "-S"), stdin=b"", environment=None, stdout=subprocess.PIPE):
        around = {
            "GEARCASE_GEAR": f"http://127.0.0.1:{self.port}",
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **(environment or {}),
        }
        return subprocess.run(
            [*python, SOURCE, *arguments],
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=around,
            cwd=self.folder,
            timeout=60,
        )


@pytest.fixture
def box(tmp_path):
    box = Box(tmp_path)
    yield box
    box.journal.close()


def test_it_needs_no_more_than_python_3_8_and_the_standard_library():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", sorted(OPERATIONS - {"ask", "done"}))
def test_each_operation_is_asked_for_and_shown_to_a_reader_and_to_a_program(box, name):
    shown, told = box.types(name), box.types(name, "--json")
    assert (shown.returncode, told.returncode, shown.stderr) == (0, 0, b"")
    assert json.loads(told.stdout) == ANSWERS[name]
    first = next(iter(ANSWERS[name]))
    assert first in shown.stdout.decode() and "{" not in shown.stdout.decode()
    assert [asked for asked, _ in box.asked] == [name, name]


def test_json_may_stand_before_the_operation_too(box):
    assert json.loads(box.types("--json", "status").stdout) == ANSWERS["status"]


def test_ask_takes_words_or_standard_input_and_prints_the_text(box):
    assert box.types("ask", "how", "many").stdout == b"you said how many\n"
    assert box.types("ask", "-", stdin="ünïcode\n".encode()).stdout == "you said ünïcode\n\n".encode()
    full = box.types("ask", "--model", "m", "--system", "s", "--max-output", "7", "x")
    assert full.returncode == 0
    assert box.asked[-1] == ("ask", {"prompt": "x", "model": "m", "system": "s", "max_output": 7})


def test_ask_takes_a_shape_as_text_or_as_a_file_and_prints_the_value(box):
    (box.folder / "shape.json").write_text('{"type": "object"}')
    for shape in ('{"type": "object"}', "shape.json"):
        assert json.loads(box.types("ask", "--schema", shape, "x").stdout) == {"n": 1}
        assert box.asked[-1][1]["schema"] == {"type": "object"}


def test_the_words_of_context_become_its_arguments(box):
    box.types("context")
    box.types("context", "drop", "3", "4")
    box.types("context", "note", "the", "milk")
    assert [arguments for _, arguments in box.asked] == [
        {"action": "show"},
        {"action": "drop", "ids": [3, 4]},
        {"action": "note", "text": "the milk"},
    ]


def test_done_is_refused_with_the_verdicts_and_taken_as_it_is(box):
    refused = box.types("done", "--note", "n")
    assert (refused.returncode, refused.stdout) == (1, b"")
    for part in (b"the checks do not pass", b"cause: a: failed", b"remedy: mend it", b"name: a, verdict: failed"):
        assert part in refused.stderr
    taken = box.types("done", "--as-is", "--note", "n")
    assert (taken.returncode, taken.stdout) == (0, b"handed in\n")
    assert box.asked[-1] == ("done", {"note": "n", "as_is": True})


def test_what_a_check_printed_stands_in_lines_of_its_own(box):
    text = "\n".join(f"line {number}" for number in range(30)) + "\n"
    failed = {"name": "a", "verdict": "failed", "output": text, "reason": "exit 1"}

    def answers(status, answer):
        return _answers((status, {"content-type": "application/json"}, json.dumps(answer).encode()))

    shown = box.types("check", handler=answers(200, {"passed": False, "checks": [failed], "files": 1})).stdout.decode()
    lines = ["  - name: a, verdict: failed, reason: exit 1", "      output:", "        | line 10"]
    assert "\n".join(["checks:", *lines]) in shown and shown.splitlines()[-2:] == ["        | line 29", "files: 1"]
    error = {"code": "checks_failed", "message": "no", "remedy": "mend it", "context": {"checks": [failed]}}
    refused = box.types("done", handler=answers(403, {"error": error})).stderr.decode()
    assert "  name: a, verdict: failed, reason: exit 1\n    output:\n      | line 10\n" in refused


def test_a_refusal_for_a_program_is_the_envelope_on_standard_output(box):
    refused = box.types("rewind", "s9", "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stdout)["error"]
    assert (error["code"], error["remedy"]) == ("no_snapshot", "kept are: s0")


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",), ("-h",)])
def test_help_names_every_operation_and_needs_no_door(box, arguments):
    told = box.calls(*arguments)
    assert told.returncode == 0 and told.stderr == b""
    assert all(f"gear {name}" in told.stdout.decode() for name in OPERATIONS)


def commands():
    """Every command of `gear` with its options."""
    sys.path.insert(0, str(SOURCE.parent))
    try:
        found = importlib.import_module("gear").parser()._subparsers._group_actions[0].choices
    finally:
        sys.path.remove(str(SOURCE.parent))
    return {name: {text for one in parser._actions for text in one.option_strings} for name, parser in found.items()}


@pytest.mark.parametrize(("name", "options"), commands().items())
def test_each_command_explains_itself_and_each_of_its_options_in_a_line(box, name, options):
    told = box.calls(name, "--help")
    text = told.stdout.decode()
    assert told.returncode == 0 and told.stderr == b"" and text.startswith(f"gear {name}")
    assert box.calls("help", name).stdout == box.calls(name, "-h", "x").stdout == told.stdout
    explained = {line.split()[0]: line.split(maxsplit=2) for line in text.splitlines() if line.startswith("  --")}
    assert set(explained) == options and all(len(words) == 3 for words in explained.values())


def test_the_help_of_spawn_says_where_a_check_runs_and_what_no_door_means(box):
    text = " ".join(box.calls("spawn", "--help").stdout.decode().split())
    assert "runs in /workspace on a copy of all your files" in text and "below $DELIVERED" in text
    assert "none: no door and no host; model.box and gear.box stay" in text and "None with --doors none" in text


def test_help_for_what_is_none_says_so(box):
    told = box.calls("help", "spwan")
    assert told.returncode == 2 and told.stderr == b"gear: there is no command 'spwan'; gear help lists them\n"


WRONG = {
    ("nothing-like-it",): "invalid choice",
    ("ask",): "required: prompt",
    ("status", "more"): "unrecognized arguments",
    ("ask", "--max-output", "many", "x"): "invalid int value",
    ("context", "burn"): "invalid choice",
    ("context", "drop", "x"): "context show",
    ("ask", "--schema", "no-such-file", "x"): "neither a JSON Schema nor a file",
    ("ask", "--schema", "{", "x"): "neither a JSON Schema nor a file",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments_say_what_is_wrong_and_ask_nothing(box, arguments):
    told = box.types(*arguments)
    assert told.returncode == 2 and WRONG[arguments] in told.stderr.decode()
    assert b"Traceback" not in told.stderr and box.asked == []


def test_input_that_is_no_text_is_refused(box):
    told = box.types("ask", "-", stdin=b"\xff\xfe")
    assert told.returncode == 2 and b"is not UTF-8 text" in told.stderr


def test_more_than_the_door_takes_is_refused_before_it_is_sent(box):
    told = box.types("ask", "-", stdin=b"x" * 40_000_000)
    assert told.returncode == 2 and b"file" in told.stderr and box.asked == []
    assert box.types("ask", "-", stdin=b"x" * 1_000_000).returncode == 0


def test_a_door_that_is_away_is_told_with_its_address(box):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        box.port = gone.getsockname()[1]
    told = box.calls("status")
    assert told.returncode == 3 and f"127.0.0.1:{box.port}".encode() in told.stderr
    assert b"Traceback" not in told.stderr


def _answers(data):
    """A handler that answers every request with these bytes."""

    async def handle(request):
        return Reply(*data)

    return handle


async def _breaks_off(request):
    async def chunks():
        yield b'{"phase": '
        raise ConnectionError("gone")

    return Reply(200, {"content-type": "application/json"}, chunks())


STRANGE = {
    "no JSON": (_answers((200, {}, b"<html>")), 3),
    "an error that is no envelope": (_answers((502, {}, b"<html>")), 1),
    "an envelope of another kind": (_answers((500, {}, b'{"error": "text"}')), 1),
    "the middle of an answer": (_breaks_off, 3),
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_answer_that_is_none_is_told_without_a_traceback(box, name):
    handler, code = STRANGE[name]
    told = box.types("status", handler=handler)
    assert told.returncode == code and told.stderr and b"Traceback" not in told.stderr


def test_a_door_that_speaks_no_http_is_told_without_a_traceback(box):
    async def scenario():
        async def nonsense(reader, writer):
            await reader.read(100)
            writer.write(b"nonsense\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        box.port = server.sockets[0].getsockname()[1]
        told = await asyncio.to_thread(box.calls, "status")
        server.close()
        return told

    told = asyncio.run(scenario())
    assert told.returncode == 3 and b"Traceback" not in told.stderr


def test_an_answer_for_a_full_disk_or_a_closed_pipe_is_told_of(box):
    with Path("/dev/full").open("wb") as full:
        told = box.types("status", stdout=full)
    assert told.returncode == 4 and b"No space left" in told.stderr and b"Traceback" not in told.stderr
    reading, writing = os.pipe()
    os.close(reading)
    try:
        told = box.types("status", "--json", stdout=writing)
    finally:
        os.close(writing)
    assert told.returncode == 4 and b"Traceback" not in told.stderr and b"Exception ignored" not in told.stderr


def test_proxies_and_modules_of_the_agent_do_not_get_in_the_way(box):
    for name in ("json", "argparse", "urllib"):
        (box.folder / f"{name}.py").write_text("raise SystemExit('the agent's module')")
    proxies = {name: "http://127.0.0.1:1" for name in ("http_proxy", "HTTP_PROXY", "all_proxy")}
    told = box.types("status", environment=proxies, python=(sys.executable,))
    assert told.returncode == 0, told.stderr


def test_the_systems_own_python_runs_it(box):
    assert json.loads(box.types("status", "--json", python=("/usr/bin/python3", "-I", "-S")).stdout) == ANSWERS["status"]
