"""One model call for a program in the box, in whichever protocol its model speaks: `gear ask`, and what a worker sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from gearcase.agent.asking import read_whole
from gearcase.agent.dialects import DIALECTS
from gearcase.agent.transcript import BadAnswer, Said
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.headers import is_out_of_budget
from gearcase.doors.model.routing import Route
from gearcase.doors.server import HttpRequest, Reply
from gearcase.errors import GearcaseError, Refused, RunError

MAX_OUTPUT = 4096
_HEADERS = ((b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"), (b"user-agent", b"gearcase"))
_ANSWER = "answer"


async def ask(door: ModelDoor, caller: Caller, route: Route, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ask once. With a `schema` the answer is asked for in that shape and must be JSON. Raises Refused with the door's reason."""
    schema = arguments.get("schema")
    body = request_body(route, str(arguments["prompt"]), str(arguments.get("system") or ""), schema, arguments.get("max_output"))
    dialect = DIALECTS[route.protocol]
    reply = await door.exchange(caller, http_request(dialect.path, body))
    received = await read_whole(reply)
    if reply.status != 200:
        raise _refused(reply, received)
    try:
        answer = dialect.parse(received)
    except BadAnswer as error:
        raise RunError("bad_answer", "the model's answer cannot be read", cause=str(error), remedy="ask again") from error
    told: dict[str, Any] = {"text": answer.said.text, "model": route.name, "stop": answer.said.stop}
    if schema is not None:
        try:
            told["value"] = value_of(answer.said)
        except ValueError as error:
            raise RunError(
                "bad_answer", "the model's answer is not JSON", cause=str(error), remedy="ask again, or ask in other words"
            ) from None
    return told


def http_request(path: str, body: Mapping[str, Any]) -> HttpRequest:
    """A call as the model door takes it."""
    return HttpRequest("POST", path, b"", _HEADERS, orjson.dumps(body))


def request_body(route: Route, prompt: str, system: str, schema: Any, max_output: Any) -> dict[str, Any]:
    """One question in the route's protocol. With a `schema` the answer is asked for in that shape; the provider need not obey."""
    # By its reference: two upstreams may have a model of the same name, and the door would take the lead's.
    cap = min(int(max_output or MAX_OUTPUT), route.price.max_output)
    if route.protocol == "anthropic":
        body: dict[str, Any] = {"model": route.reference, "max_tokens": cap, "messages": [{"role": "user", "content": prompt}]}
        if system:
            body["system"] = system
        if schema is not None:
            body["tools"] = [{"name": _ANSWER, "description": "Give the answer.", "input_schema": schema}]
            body["tool_choice"] = {"type": "tool", "name": _ANSWER}
        return body
    if route.protocol == "chat":
        messages = [{"role": "system", "content": system}] if system else []
        body = {
            "model": route.reference,
            "max_completion_tokens": cap,
            "messages": [*messages, {"role": "user", "content": prompt}],
        }
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": _ANSWER, "schema": schema}}
        return body
    body = {"model": route.reference, "max_output_tokens": cap, "input": [{"role": "user", "content": prompt}], "store": False}
    if system:
        body["instructions"] = system
    if schema is not None:
        body["text"] = {"format": {"type": "json_schema", "name": _ANSWER, "schema": schema}}
    return body


def value_of(said: Said) -> Any:
    """The JSON value of an answer that was asked for in a shape. Raises ValueError, which tells how the text begins."""
    arguments = [call.arguments for call in said.calls if call.name == _ANSWER]
    if arguments and arguments[0] is not None:
        return arguments[0]
    bare = said.text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return json.loads(bare)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{error}; it begins {said.text[:120]!r}") from None


def _refused(reply: Reply, body: bytes) -> GearcaseError:
    status = reply.status
    text = body[:500].decode("utf-8", "replace")
    try:
        error = json.loads(body).get("error", {})
        text = str(error.get("message", text))
    except (ValueError, AttributeError):
        text = text or f"status {status}"
    if is_out_of_budget(reply.headers):
        return Refused("budget", text, remedy="see `gear status`; a smaller prompt or --max-output may fit", status=402)
    return Refused(
        "model", f"the model door answered {status}: {text}", remedy="see `gear doors` and `gear status`", status=status
    )
