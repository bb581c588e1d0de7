"""How a command of a map ended: its verdict, its evidence, and the answer of one that ended well."""

import pytest

from gearcase.seams import CommandResult, Output
from gearcase.swarm import commands
from gearcase.swarm.commands import MOST_ANSWER, failure
from gearcase.swarm.schema import Schema
from gearcase.swarm.signature import signature_of
from gearcase.swarm.worker import KEPT, Answered, Fault

TRACE = """Traceback (most recent call last):
  File "/workspace/check.py", line 9, in <module>
    main({n})
  File "/workspace/lib/rows.py", line {n}, in read
    json.loads(text)
  File "/usr/lib/python3.11/json/decoder.py", line 355, in raw_decode
    raise JSONDecodeError("Expecting value", s, err.value) from None
json.decoder.JSONDecodeError: Expecting value: line {n} column 1 (char 0)
"""


def output(data):
    data = data if isinstance(data, bytes) else data.encode()
    return Output(data, b"", len(data))


def result(code=0, out="", err="", ended="exited", limits=()):
    return CommandResult(ended, code, output(out), output(err), b"", 0.1, 0.1, tuple(limits))


def told(stage="validator", **how):
    return failure(result(**how), stage, 5, 64 << 20)


def test_the_place_of_a_failure_is_the_top_frame_of_own_code():
    fault = told(code=1, err=TRACE.format(n=7))
    assert (fault.code, fault.path, fault.keyword) == ("rejected", "rows.py in read", "json.decoder.JSONDecodeError")
    assert fault.trace.startswith("Traceback") and fault.message.startswith("exit 1: json.decoder.JSONDecodeError: Expecting")
    other = told(code=1, err=TRACE.format(n=1234))
    assert signature_of(fault) == signature_of(other) and signature_of(fault).stage == "validator"
    assert signature_of(told(stage="command", code=1, err=TRACE.format(n=7))) != signature_of(fault)


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ({"code": 1}, "rejected", "exit 1"),
        ({"code": 137, "ended": "signalled", "limits": ["memory"]}, "limit", "memory (64 MiB)"),
        ({"code": 139, "ended": "signalled"}, "signal", "ended by SIGSEGV"),
        ({"code": 1, "limits": ["disk"]}, "limit", "a limit struck: disk"),
        ({"code": 137, "ended": "deadline"}, "time", "it did not end within 5 s"),
        ({"code": 200, "ended": "signalled"}, "signal", "exit 200"),
    ],
)
def test_how_it_ended_is_told(how, code, message):
    fault = told(**how)
    assert fault.kind == "content" and fault.code == code and message in fault.message


def test_evidence_is_bounded_and_noise_is_no_frame():
    fault = told(code=1, err="x" * 100_000)
    assert len(fault.trace) == KEPT and len(fault.message) < 400 and fault.path == ""
    assert told(code=0) is None
    assert told(stage="command", code=137, ended="lost").kind == "transient"


def answer(out, schema=None, total=None):
    data = out if isinstance(out, bytes) else out.encode()
    said = CommandResult("exited", 0, Output(data, b"", total or len(data)), output(""), b"", 0.1, 0.1)
    return commands._answer(said, Schema.read(schema) if schema else None)


def test_what_a_command_prints_is_its_answer_where_it_fits():
    shape = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert answer("two\nlines\n") == Answered('"two\\nlines"') and answer("") == Answered('""')
    assert answer('{"n": 1}\n', shape) == Answered('{"n": 1}')
    wrong = [answer("x", shape), answer('{"n": "x"}', shape), answer(b"\xff"), answer("x", total=MOST_ANSWER + 1)]
    assert [fault.code for fault in wrong] == ["not_json", "schema", "not_utf8", "too_long"]
    assert all(isinstance(fault, Fault) and fault.kind == "content" for fault in wrong)
    assert signature_of(wrong[0]).stage == "command" and signature_of(wrong[1]).stage == "schema"
    assert [answer(text, shape).code for text in ('{"n": NaN}', "[" * 100_000, '{"n": 1')] == ["not_json"] * 3
