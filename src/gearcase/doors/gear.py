"""The gear door: the operations that an agent and its programs have inside, as an HTTP API.

It is given a table `operation -> handler`, so it imports nothing above it. `POST /v1/OPERATION` with a JSON object answers with a
JSON object, or with the error envelope of errors.py. `GET /openapi.json` describes it.

Threat: arguments are the agent's. They are length-capped JSON, checked against the operation's declared types before a handler sees
them; an error of ours says nothing about the host.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gearcase import __version__
from gearcase.doors.server import Handler as HttpHandler
from gearcase.doors.server import HttpRequest, Reply
from gearcase.errors import GearcaseError, Refused, RunError, UsageError
from gearcase.events import GearUsed
from gearcase.seams import Handler, Recorder

MOST_BYTES = 1024 * 1024
"""Of a request's body."""

_NAMED = 10
_log = logging.getLogger(__name__)
_JSON = {"content-type": "application/json"}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}
_STATUS = {"budget": 402, "unknown_operation": 404, "bad_arguments": 400, "too_large": 413, "too_many_checks": 429}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its handler, what it does, and the JSON Schema of its arguments (a flat object).

    A `tied` one is cancelled when the program that asks is gone; the others go on to their end.
    """

    handler: Handler
    summary: str
    parameters: Mapping[str, Any]
    tied: bool = False


class GearDoor:
    """Serves a table of operations."""

    def __init__(self, operations: Mapping[str, Operation], recorder: Recorder) -> None:
        self._operations = operations
        self._recorder = recorder

    def handler(self, agent: str) -> HttpHandler:
        """The handler for an agent's own listener."""

        async def handle(request: HttpRequest) -> Reply:
            return await self._handle(agent, request)

        return handle

    def tied(self, request: HttpRequest) -> bool:
        """Whether this request ends with its connection."""
        operation = self._operations.get(request.path.removeprefix("/v1/"))
        return operation is not None and operation.tied

    def openapi(self) -> bytes:
        """The OpenAPI 3.1 document of this door."""
        paths = {f"/v1/{name}": _path(name, operation) for name, operation in self._operations.items()}
        document = {
            "openapi": "3.1.0",
            "info": {"title": "gear", "version": __version__, "description": "What an agent and its programs can ask for."},
            "servers": [{"url": "http://gear.box"}],
            "paths": paths,
            "components": {"schemas": {"Error": _ERROR}},
        }
        return json.dumps(document, indent=1).encode()

    async def _handle(self, agent: str, request: HttpRequest) -> Reply:
        if request.method == "GET" and request.path == "/openapi.json":
            return Reply(200, _JSON, self.openapi())
        if request.method == "GET" and request.path == "/":
            names = ", ".join(self._operations)
            return Reply(200, {"content-type": "text/plain"}, f"POST /v1/OPERATION with a JSON object: {names}\n".encode())
        name = request.path.removeprefix("/v1/")
        try:
            arguments = self._arguments(name, request)
            result = await self._operations[name].handler(agent, arguments)
        except GearcaseError as error:
            self._recorder.append(GearUsed(name[:40], ok=False, detail={"code": error.code}), agent)
            return Reply(_status(error), _JSON, json.dumps({"error": error.envelope()}, default=str).encode())
        except Exception:
            _log.exception("the operation %r failed", name)
            self._recorder.append(GearUsed(name[:40], ok=False, detail={"code": "internal"}), agent)
            error = RunError(
                "internal", "Gearcase itself failed", remedy="try once more; the operator finds the cause in the run's log"
            )
            return Reply(500, _JSON, json.dumps({"error": error.envelope()}).encode())
        about = arguments.get("agent")
        self._recorder.append(GearUsed(name, ok=True, detail={"agent": about[:80]} if isinstance(about, str) else {}), agent)
        return Reply(200, _JSON, json.dumps(result, default=str).encode())

    def _arguments(self, name: str, request: HttpRequest) -> Mapping[str, Any]:
        operation = self._operations.get(name)
        if operation is None or request.method != "POST" or not request.path.startswith("/v1/"):
            near = difflib.get_close_matches(name, self._operations, 1)
            remedy = f"did you mean {near[0]}?" if near else f"POST /v1/ and one of: {', '.join(self._operations)}"
            raise UsageError("unknown_operation", f"there is no operation {name[:40]!r}", remedy=remedy)
        if len(request.body) > MOST_BYTES:
            raise UsageError("too_large", f"the arguments are over {MOST_BYTES} bytes", remedy="put large data into a file")
        try:
            arguments = json.loads(request.body or b"{}", parse_constant=_no_number)
            json.dumps(arguments, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise UsageError(
                "bad_arguments", "the body is not JSON", cause=str(error)[:200], remedy="send a JSON object"
            ) from None
        _validate(name, arguments, operation.parameters)
        return arguments


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _validate(name: str, arguments: Any, schema: Mapping[str, Any]) -> None:
    properties: Mapping[str, Any] = schema.get("properties", {})
    known = ", ".join(properties) or "none"
    if not isinstance(arguments, dict):
        raise UsageError("bad_arguments", "the arguments are not a JSON object", remedy=f"arguments of {name}: {known}")
    given: dict[str, Any] = arguments  # pyright: ignore[reportUnknownVariableType]
    missing = [key for key in schema.get("required", []) if key not in given]
    unknown = [key for key in given if key not in properties]
    wrong = [key for key, value in given.items() if key in properties and not _fits(value, properties[key])]
    if missing or unknown or wrong:
        faults = [f"missing: {', '.join(missing)}"] * bool(missing)
        faults += [f"unknown: {', '.join(key[:40] for key in unknown[:_NAMED])}"] * bool(unknown)
        faults += [f"wrong type: {', '.join(f'{key} must be {_say(properties[key])}' for key in wrong)}"] * bool(wrong)
        raise UsageError(
            "bad_arguments", f"wrong arguments for {name}: {'; '.join(faults)}", remedy=f"arguments of {name}: {known}"
        )


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    if value is None:
        return True  # left out
    kind = str(schema.get("type", "object"))
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, _TYPES[kind]) and ("enum" not in schema or value in schema["enum"])


def _say(schema: Mapping[str, Any]) -> str:
    return " | ".join(map(str, schema["enum"])) if "enum" in schema else str(schema.get("type"))


def _status(error: GearcaseError) -> int:
    if error.code in _STATUS:
        return _STATUS[error.code]
    if isinstance(error, UsageError):
        return 400
    return 403 if isinstance(error, Refused) else 502


def _path(name: str, operation: Operation) -> dict[str, Any]:
    failed = {
        "description": "why not, and what to do",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    return {
        "post": {
            "operationId": name,
            "summary": operation.summary,
            "requestBody": {
                "required": bool(operation.parameters.get("required")),
                "content": {"application/json": {"schema": dict(operation.parameters)}},
            },
            "responses": {
                "200": {"description": "done", "content": {"application/json": {"schema": {"type": "object"}}}},
                "default": failed,
            },
        }
    }


_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "cause": {"type": "string"},
                "remedy": {"type": "string"},
                "context": {"type": "object"},
            },
            "required": ["code", "message", "remedy"],
        }
    },
    "required": ["error"],
}
