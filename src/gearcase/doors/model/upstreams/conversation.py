"""A model call as pieces of conversation, the same for each protocol: what cassettes compare and a person reads.

Pieces are in the order system, tools, messages. Marks for the provider's cache are left out: they move from call to call and mean
nothing to the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gearcase.seams import Protocol_, UpstreamRequest

_SYSTEM: Mapping[Protocol_, str] = {"responses": "instructions", "gemini": "systemInstruction"}
_MESSAGES: Mapping[Protocol_, str] = {"responses": "input", "gemini": "contents"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of a call. `role`: system, tools, user, assistant, tool, ..."""

    role: str
    value: Any


def pieces(request: UpstreamRequest) -> list[Piece]:
    """The pieces of a call."""
    body = request.parsed
    system = body.get(_SYSTEM.get(request.protocol, "system"))
    found = [Piece("system", _unmarked(system))] if system else []
    if body.get("tools"):
        found.append(Piece("tools", _unmarked(body["tools"])))
    messages = body.get(_MESSAGES.get(request.protocol, "messages"))
    if isinstance(messages, str):
        found.append(Piece("user", messages))
    elif isinstance(messages, list):
        found += [_piece(message) for message in cast("list[Any]", messages)]
    return found


def tools_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a request says of each tool that it offers, in whichever protocol: name, description, schema."""
    told: list[dict[str, Any]] = []
    for tool in _dicts(body.get("tools")):
        several = _dicts(tool.get("functionDeclarations"))
        told += several or [_dict(tool.get("function")) or tool]
    return told


def offers_tool(request: UpstreamRequest, name: str) -> bool:
    """Whether the call lets the model use a tool of this name."""
    return any(tool.get("name") == name for tool in tools_of(request.parsed))


def ceiling_of(body: Mapping[str, Any]) -> int | None:
    """The most output tokens that a request lets its answer have; None where it does not say."""
    told = [body.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    told.append(_dict(body.get("generationConfig")).get("maxOutputTokens"))
    return next((tokens for tokens in told if isinstance(tokens, int) and tokens), None)


def readable(piece: Piece) -> Iterator[tuple[str, str]]:
    """(what it is, its text) for each part of a piece: texts, tool calls, results; parts of other kinds by name alone."""
    value = piece.value
    if isinstance(value, str):
        yield piece.role, value
        return
    blocks = cast("list[Any]", value) if isinstance(value, list) else [value]
    for block in _dicts(blocks):
        yield from _block(piece.role, block)


def _block(role: str, block: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kind = str(block.get("type", ""))
    content = block.get("content", block.get("parts"))
    if kind in ("tool_result", "function_call_output") or role == "tool":
        shown = block.get("output") if kind == "function_call_output" else content
        yield (
            "result",
            shown if isinstance(shown, str) else "\n".join(text for _, text in readable(Piece(role="result", value=shown))),
        )
    elif isinstance(block.get("text"), str):
        yield role, block["text"]
    elif "functionCall" in block:
        call = _dict(block["functionCall"])
        yield f"call of {call.get('name')}", _arguments(call.get("args"))
    elif "functionResponse" in block:
        yield "result", _result(_dict(block["functionResponse"]))
    elif kind in ("tool_use", "function_call"):
        yield f"call of {block.get('name')}", _arguments(block.get("input", block.get("arguments")))
    elif isinstance(content, str | list):
        yield from readable(Piece(role, content))
    elif kind:
        yield f"{role}, {kind}", "(not shown)"
    for call in _dicts(block.get("tool_calls")):
        function = _dict(call.get("function"))
        yield f"call of {function.get('name')}", _arguments(function.get("arguments"))


def _result(result: dict[str, Any]) -> str:
    """What a function answered: the one text that it is, else the object, and how many parts come with it."""
    response = _dict(result.get("response"))
    told = next(iter(response.values()), None) if len(response) == 1 else None
    shown = told if isinstance(told, str) else json.dumps(response, ensure_ascii=False)
    parts = _dicts(result.get("parts"))
    return f"{shown}\n({len(parts)} parts, not shown)" if parts else shown


def _arguments(value: object) -> str:
    command = _dict(value).get("command")
    if isinstance(command, str):
        return command
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _piece(message: Any) -> Piece:
    told = _dict(message)
    if "parts" in told:  # Gemini's: who has no role is the user
        return Piece("assistant" if told.get("role") == "model" else "user", _unmarked(message))
    role = told.get("role") or ("tool" if told.get("type") == "function_call_output" else "assistant")
    return Piece(str(role), _unmarked(message))


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _unmarked(item) for key, item in _dict(cast("object", value)).items() if key != "cache_control"}
    return value


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]
