"""Tools for a model that cannot call them: they are told in its prompt, a grammar forces the form, and the form is read back.

A request of any protocol becomes one chat request without tools; what the model wrote becomes words and calls. Invariants: a call is
only ever one of the tools that the request offers; every text that the grammar allows has a most length, so that an answer ends; an
answer that was cut at its ceiling holds no call, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from gearcase.doors.model.local.calls import ANSWER, read
from gearcase.doors.model.protocols import chat
from gearcase.doors.model.protocols.answer import Answer, ToolCall
from gearcase.doors.model.protocols.stream import items, table
from gearcase.doors.model.upstreams.conversation import pieces, readable
from gearcase.seams import UpstreamRequest

LONGEST = 4000
"""Characters of one text that the grammar allows."""
_MOST_ITEMS = 32
_DEEPEST = 6
_KEPT = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty")
_CEILINGS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_PLAIN = ("integer", "number", "boolean", "null")

_HOW = """# Tools
You act by calling tools. These are there:
{tools}

Answer with one JSON object and nothing else. {forms}"""
_CALL_FORM = 'To call a tool: {"name": "TOOL", "arguments": {...}}.'
_ANSWER_FORM = 'Only when no tool is needed any more: {"answer": "TEXT"}.'
_RESULT = "Result of the call:\n{text}"


def offered(request: UpstreamRequest) -> dict[str, Mapping[str, Any]]:
    """The tools that a request lets the model call: name -> what is said of it. Empty where it forbids them."""
    choice = request.parsed.get("tool_choice")
    if choice == "none" or table(choice).get("type") == "none":
        return {}
    told = [table(tool) for tool in items(request.parsed.get("tools"))]
    named = [table(tool.get("function")) or tool for tool in told]
    tools: dict[str, Mapping[str, Any]] = {str(tool["name"]): tool for tool in named if isinstance(tool.get("name"), str)}
    only = table(choice).get("name") or table(table(choice).get("function")).get("name")
    return {only: tools[only]} if only in tools else tools


def asked(request: UpstreamRequest, tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The chat request that stands for one with tools."""
    forced = _forced(request)
    forms = _CALL_FORM if forced else f"{_CALL_FORM} {_ANSWER_FORM}"
    listed = "\n".join(_told(name, tool) for name, tool in tools.items())
    how = _HOW.format(tools=listed, forms=forms)
    messages = _messages(request)
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] += f"\n\n{how}"
    else:
        messages.insert(0, {"role": "system", "content": how})
    body = {key: request.parsed[key] for key in _KEPT if request.parsed.get(key) is not None}
    ceiling = next((request.parsed[key] for key in _CEILINGS if request.parsed.get(key)), None)
    form = {"type": "json_schema", "json_schema": {"name": "act", "schema": _form(tools, forced)}}
    return {**body, "model": request.model, "messages": messages, "max_tokens": ceiling, "response_format": form}


def answered(told: Mapping[str, Any], request: UpstreamRequest, tools: Mapping[str, Mapping[str, Any]]) -> Answer:
    """The answer to a request with tools, from the server's answer to `asked`."""
    choice = table(next(iter(items(told.get("choices"))), None))
    written = str(table(choice.get("message")).get("content") or "")
    number = str(told.get("id") or "local").removeprefix("chatcmpl-")
    usage = chat.usage_of(told)
    bare = Answer(written, usage=usage, model=request.model, id=number)
    if choice.get("finish_reason") == "length":
        return replace(bare, stop="length")
    found = read(written, {name: _schema(tool) for name, tool in tools.items()})
    calls = tuple(ToolCall(f"call_{number}_{at}", name, arguments) for at, (name, arguments) in enumerate(found.calls))
    return replace(bare, text=found.text, calls=calls)


# --- the prompt ------------------------------------------------------------------------------------------------------------


def _messages(request: UpstreamRequest) -> list[dict[str, str]]:
    """The conversation in words. Neighbours of one role become one message, as the template of the model wants it."""
    messages: list[dict[str, str]] = []
    for piece in pieces(request):
        if piece.role == "tools":
            continue
        for label, text in readable(piece):
            role = {"system": "system", "developer": "system", "assistant": "assistant"}.get(piece.role, "user")
            said = text
            if label.startswith("call of "):
                said = _written(label.removeprefix("call of "), text)
                role = "assistant"
            elif label == "result":
                said, role = _RESULT.format(text=text), "user"
            if role == "system" and messages and messages[0]["role"] != "system":
                role = "user"  # its template knows one system message, the first
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] += f"\n\n{said}"
            else:
                messages.append({"role": role, "content": said})
    return messages


def _written(name: str, arguments: str) -> str:
    """An earlier call in the very form that is asked for. What is no object is a command: so `readable` shows it."""
    try:
        value: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return json.dumps({"name": name, "arguments": table(value) or {"command": arguments}})


def _told(name: str, tool: Mapping[str, Any]) -> str:
    told = {"name": name, "description": str(tool.get("description") or ""), "parameters": _schema(tool)}
    return json.dumps({key: value for key, value in told.items() if value})


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    return next((schema for key in ("parameters", "input_schema") if (schema := table(tool.get(key)))), dict[str, Any]())


def _forced(request: UpstreamRequest) -> bool:
    if request.lead:
        return True  # an agent's own loop takes nothing but calls, and ends by one
    choice = request.parsed.get("tool_choice")
    kind = choice if isinstance(choice, str) else table(choice).get("type")
    return kind in ("required", "any", "tool", "function")


# --- the form --------------------------------------------------------------------------------------------------------------


def _form(tools: Mapping[str, Mapping[str, Any]], forced: bool) -> dict[str, Any]:
    forms = [_object({"name": {"const": name}, "arguments": bounded(_schema(tool))}) for name, tool in tools.items()]
    if not forced:
        forms.append(_object({ANSWER: {"type": "string", "maxLength": LONGEST}}))
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def bounded(schema: Any, depth: int = 0) -> dict[str, Any]:
    """What of a JSON schema can be forced: its shape. Every text and list gets a most length; what is not known becomes text."""
    told = table(schema)
    for key in ("const", "enum"):
        if key in told:
            return {key: told[key]}
    for key in ("anyOf", "oneOf"):
        if (choices := items(told.get(key))) and depth < _DEEPEST:
            return {"anyOf": [bounded(choice, depth + 1) for choice in choices]}
    kind = told.get("type")
    if isinstance(kind, list):
        return {"anyOf": [bounded({**told, "type": one}, depth + 1) for one in cast("list[Any]", kind)]}
    if kind in _PLAIN:
        return {"type": kind}
    if kind == "array" and depth < _DEEPEST:
        return {"type": "array", "items": bounded(told.get("items"), depth + 1), "maxItems": _MOST_ITEMS}
    properties = table(told.get("properties"))
    if (kind == "object" or properties or not depth) and depth < _DEEPEST:
        shaped = {name: bounded(one, depth + 1) for name, one in properties.items()}
        return _object(shaped, [name for name in items(told.get("required")) if name in shaped])
    longest = told.get("maxLength")
    return {"type": "string", "maxLength": min(longest, LONGEST) if isinstance(longest, int) and longest > 0 else LONGEST}
