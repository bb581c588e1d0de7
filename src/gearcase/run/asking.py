"""`gear ask`: one model call for a program in the box, in whichever protocol its model speaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gearcase.agent.dialects import DIALECTS
from gearcase.agent.transcript import BadAnswer
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
    body = _request(route, str(arguments["prompt"]), str(arguments.get("system") or ""), schema, arguments.get("max_output"))
    dialect = DIALECTS[route.protocol]
    reply = await door.exchange(caller, HttpRequest("POST", dialect.path, b"", _HEADERS, json.dumps(body).encode()))
    received = await _whole(reply)
    if reply.status != 200:
        raise _refused(reply, received)
    try:
        answer = dialect.parse(received)
    except BadAnswer as error:
        raise RunError("bad_answer", "the model's answer cannot be read", cause=str(error), remedy="ask again") from error
    told: dict[str, Any] = {"text": answer.said.text, "model": route.name, "stop": answer.said.stop}
    if schema is not None:
        told["value"] = _value(answer.said.text, [call.arguments for call in answer.said.calls if call.name == _ANSWER])
    return told


def _request(route: Route, prompt: str, system: str, schema: Any, max_output: Any) -> dict[str, Any]:
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


def _value(text: str, arguments: list[Mapping[str, Any] | None]) -> Any:
    if arguments and arguments[0] is not None:
        return arguments[0]
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return json.loads(bare)
    except (ValueError, RecursionError) as error:
        cause = f"{error}; it begins {text[:120]!r}"
        raise RunError(
            "bad_answer", "the model's answer is not JSON", cause=cause, remedy="ask again, or ask in other words"
        ) from None


async def _whole(reply: Reply) -> bytes:
    if isinstance(reply.chunks, bytes):
        return reply.chunks
    return b"".join([chunk async for chunk in reply.chunks])


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
