"""The gear door: its operations, its errors, its document."""

import asyncio
import json

import jsonschema
import openapi_spec_validator
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.doors.gear import MOST_BYTES, GearDoor, Operation
from gearcase.doors.server import HttpRequest
from gearcase.errors import Refused, RunError, UnsafeError, UsageError
from gearcase.journal import Journal, read

TEXT, COUNT = {"type": "string"}, {"type": "integer"}
FIELDS = {
    "text": TEXT,
    "count": COUNT,
    "ratio": {"type": "number"},
    "sure": {"type": "boolean"},
    "table": {"type": "object"},
    "many": {"type": "array"},
    "kind": {"type": "string", "enum": ["one", "two"]},
}
ERRORS = {
    "refused": (Refused("no_model", "no", remedy="do this"), 403),
    "broke": (Refused("budget", "no money", remedy="ask for less", needed=3), 402),
    "often": (Refused("too_many_checks", "enough", remedy="hand in"), 429),
    "wrong": (UsageError("odd", "wrong", remedy="right it"), 400),
    "failed": (RunError("upstream", "down", remedy="wait"), 502),
    "unsafe": (UnsafeError("unsafe", "weak", remedy="strengthen"), 502),
    "defect": (RuntimeError("/home/operator/secret"), 500),
}


def _object(properties, *required):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


async def echo(agent, arguments):
    return {"agent": agent, "got": dict(arguments)}


def _raises(error):
    async def handler(agent, arguments):
        raise error

    return handler


@pytest.fixture
def journal(tmp_path):
    journal = Journal.create(tmp_path / "journal")
    yield journal
    journal.close()


@pytest.fixture
def door(journal):
    table = {
        "echo": Operation(echo, "Say it again.", _object(FIELDS, "text")),
        "plain": Operation(echo, "No words.", _object({})),
    }
    table |= {name: Operation(_raises(error), name, _object({})) for name, (error, _) in ERRORS.items()}
    return GearDoor(table, journal)


def ask(door, path, body=b"{}", method="POST"):
    """(status, JSON) of one request of the agent `lead`."""
    reply = asyncio.run(door.handler("lead")(HttpRequest(method, path, b"", (), body)))
    return reply.status, json.loads(reply.chunks)


def used(journal):
    journal.flush()
    return [(r.event.operation, r.event.ok, r.event.detail.get("code")) for r in read(journal.folder)]


def is_envelope(value):
    error = value["error"]
    assert set(value) == {"error"} and set(error) == {"code", "message", "cause", "remedy", "context"}
    return all(isinstance(error[key], str) for key in ("code", "message", "cause", "remedy")) and bool(error["remedy"])


def test_an_operation_gets_the_agent_of_its_listener_and_its_arguments(door, journal):
    status, told = ask(door, "/v1/echo", b'{"text": "x", "count": 3, "ratio": 2, "table": {"a": [1]}, "kind": "two"}')
    assert status == 200
    assert told == {"agent": "lead", "got": {"text": "x", "count": 3, "ratio": 2, "table": {"a": [1]}, "kind": "two"}}
    assert used(journal) == [("echo", True, None)]


def test_an_empty_body_means_no_arguments_and_null_means_left_out(door):
    assert ask(door, "/v1/plain", b"")[0] == 200
    assert ask(door, "/v1/echo", b'{"text": "x", "count": null}')[0] == 200


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_the_envelope_with_a_status_that_fits(door, journal, name):
    status, told = ask(door, f"/v1/{name}")
    error, expected = ERRORS[name]
    assert status == expected and is_envelope(told)
    assert told["error"]["code"] == getattr(error, "code", "internal")
    assert used(journal) == [(name, False, told["error"]["code"])]


def test_a_defect_of_ours_tells_the_agent_nothing_of_the_host(door):
    _, told = ask(door, "/v1/defect")
    assert "secret" not in json.dumps(told) and told["error"]["remedy"]


@pytest.mark.parametrize(
    "path", ["/v1/no", "/v1/", "/v1/ech", "/echo", "/v2/echo", "/v1/echo/x", "/v1/../v1/echo", "//v1/echo", "/v1/" + "x" * 9999]
)
def test_an_unknown_operation_is_refused_and_named_no_longer_than_needed(door, journal, path):
    status, told = ask(door, path)
    assert status == 404 and is_envelope(told) and told["error"]["code"] == "unknown_operation"
    assert len(told["error"]["message"]) < 200 and all(len(name) <= 40 for name, _, _ in used(journal))


def test_a_near_name_is_proposed(door):
    assert "did you mean echo" in ask(door, "/v1/ecko")[1]["error"]["remedy"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_only_post_asks_for_an_operation(door, method):
    assert ask(door, "/v1/plain", b"", method)[0] == 404


WRONG = {
    "no JSON": b"{",
    "not UTF-8": b'{"text": "\xff"}',
    "a list": b"[]",
    "a text": b'"text"',
    "nothing needed": b"null",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "half a pair": b'{"text": "\\ud800"}',
    "missing": b'{"count": 1}',
    "unknown": b'{"text": "x", "txet": "y"}',
    "number for text": b'{"text": 1}',
    "text for number": b'{"text": "x", "count": "1"}',
    "fraction for whole": b'{"text": "x", "count": 1.5}',
    "true for number": b'{"text": "x", "count": true}',
    "number for truth": b'{"text": "x", "sure": 1}',
    "list for object": b'{"text": "x", "table": []}',
    "object for list": b'{"text": "x", "many": {}}',
    "not of the choice": b'{"text": "x", "kind": "three"}',
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named_before_a_handler_sees_them(door, journal, name):
    status, told = ask(door, "/v1/echo", WRONG[name])
    assert status == 400 and is_envelope(told) and told["error"]["code"] == "bad_arguments"
    assert used(journal) == [("echo", False, "bad_arguments")]


def test_every_mistake_is_told_at_once(door):
    message = ask(door, "/v1/echo", b'{"count": "x", "other": 1}')[1]["error"]["message"]
    for part in ("missing: text", "unknown: other", "count must be integer"):
        assert part in message


def test_a_huge_body_is_refused(door):
    body = json.dumps({"text": "x" * MOST_BYTES}).encode()
    status, told = ask(door, "/v1/echo", body)
    assert status == 413 and is_envelope(told) and "file" in told["error"]["remedy"]
    assert ask(door, "/v1/echo", json.dumps({"text": "x" * (MOST_BYTES - 20)}).encode())[0] == 200


def test_a_thousand_unknown_arguments_give_a_short_answer(door):
    body = json.dumps({f"{'x' * 500}{n}": 1 for n in range(1000)}).encode()
    status, told = ask(door, "/v1/echo", body)
    assert status == 400 and len(json.dumps(told)) < 5000


def test_numbers_that_json_does_not_know_are_refused(door):
    assert ask(door, "/v1/echo", b'{"text": "x", "ratio": NaN}')[0] == 400
    assert ask(door, "/v1/echo", b'{"text": "x", "ratio": Infinity}')[0] == 400
    assert ask(door, "/v1/echo", b'{"text": "x", "count": ' + b"9" * 5000 + b"}")[0] == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIELDS, "else"]), inner, max_size=4),
    max_leaves=6,
)


class Nowhere:
    """A recorder that keeps nothing."""

    def append(self, event, agent=""):
        return 0

    def flush(self):
        pass

    async def durable(self):
        pass


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=64) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_is_answered_with_what_was_declared_or_with_the_envelope(body):
    door = GearDoor({"echo": Operation(echo, "Say it again.", _object(FIELDS))}, Nowhere())
    status, told = ask(door, "/v1/echo", body)
    if status == 200:
        kinds = {"text": str, "count": int, "ratio": (int, float), "sure": bool, "table": dict, "many": list, "kind": str}
        assert all(value is None or isinstance(value, kinds[key]) for key, value in told["got"].items())
    else:
        assert status == 400 and is_envelope(told)


# --- the document --------------------------------------------------------------------------------------------------------------


def test_the_document_is_valid_and_describes_every_operation(door):
    document = json.loads(door.openapi())
    openapi_spec_validator.validate(document)
    assert ask(door, "/openapi.json", b"", "GET") == (200, document)
    assert set(document["paths"]) == {"/v1/echo", "/v1/plain", *(f"/v1/{name}" for name in ERRORS)}
    for path, item in document["paths"].items():
        operation = item["post"]
        assert operation["operationId"] == path.removeprefix("/v1/")
        assert operation["summary"] and operation["responses"].keys() == {"200", "default"}
    schema = document["paths"]["/v1/echo"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"] == FIELDS and schema["required"] == ["text"]


def test_the_document_says_where_a_body_is_needed(door):
    paths = json.loads(door.openapi())["paths"]
    assert paths["/v1/echo"]["post"]["requestBody"]["required"] is True
    assert paths["/v1/plain"]["post"]["requestBody"]["required"] is False


def test_every_error_fits_the_documents_schema(door):
    schema = json.loads(door.openapi())["components"]["schemas"]["Error"]
    for name in ERRORS:
        jsonschema.validate(ask(door, f"/v1/{name}")[1], schema)


def test_the_root_names_the_operations(door):
    reply = asyncio.run(door.handler("lead")(HttpRequest("GET", "/", b"", (), b"")))
    assert reply.status == 200 and b"echo, plain" in reply.chunks
