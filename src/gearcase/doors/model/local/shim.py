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
from gearcase.doors.model.upstreams.conversation import ceiling_of, pieces, readable, tools_of
from gearcase.seams import UpstreamRequest

LONGEST = 4000
"""Characters of one text that the grammar allows."""
_MOST_ITEMS = 32
_DEEPEST = 6
_KEPT = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty")
_OF_GEMINI = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "seed": "seed",
    "frequencyPenalty": "frequency_penalty",
    "presencePenalty": "presence_penalty",
    "stopSequences": "stop",
}
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
    choice = _choice(request)
    if choice == "none" or table(choice).get("type") == "none":
        return {}
    named = tools_of(request.parsed)
    tools: dict[str, Mapping[str, Any]] = {str(tool["name"]): tool for tool in named if isinstance(tool.get("name"), str)}
    only = table(choice).get("name") or table(table(choice).get("function")).get("name")
    among = items(table(choice).get("names")) or [only]
    return {name: tools[name] for name in among if name in tools} or tools


def _choice(request: UpstreamRequest) -> Any:
    """What a request says of how tools are to be used. Gemini's words for it become those of the others."""
    if request.protocol != "gemini":
        return request.parsed.get("tool_choice")
    told = table(table(request.parsed.get("toolConfig")).get("functionCallingConfig"))
    mode = str(told.get("mode") or "AUTO").lower()
    return {"type": mode, "names": items(told.get("allowedFunctionNames"))}


def asked(request: UpstreamRequest, tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The chat request that stands for one with tools, or for one of a protocol that the server does not speak."""
    messages = _messages(request)
    form = _wanted(request)
    if tools:
        forced = _forced(request)
        forms = _CALL_FORM if forced else f"{_CALL_FORM} {_ANSWER_FORM}"
        listed = "\n".join(_told(name, tool) for name, tool in tools.items())
        how = _HOW.format(tools=listed, forms=forms)
        if messages and messages[0]["role"] == "system":
            messages[0]["content"] += f"\n\n{how}"
        else:
            messages.insert(0, {"role": "system", "content": how})
        form = {"type": "json_schema", "json_schema": {"name": "act", "schema": _form(tools, forced)}}
    config = table(request.parsed.get("generationConfig"))
    given = {**request.parsed, **{ours: config.get(theirs) for theirs, ours in _OF_GEMINI.items()}} if config else request.parsed
    kept = _KEPT if tools else (*_KEPT, "stop")  # a stop would cut a call in two
    body = {key: given[key] for key in kept if given.get(key) is not None}
    body |= {"response_format": form} if form else {}
    return {**body, "model": request.model, "messages": messages, "max_tokens": ceiling_of(request.parsed)}


def counted(request: UpstreamRequest) -> dict[str, Any]:
    """The request for a count of tokens, in the protocol in which the server counts."""
    inner = table(request.parsed.get("generateContentRequest"))
    messages = _messages(replace(request, parsed=inner) if inner else request)
    system = {"system": messages.pop(0)["content"]} if messages and messages[0]["role"] == "system" else {}
    return {**system, "model": request.model, "messages": messages}


def _wanted(request: UpstreamRequest) -> dict[str, Any]:
    """The form that Gemini's protocol asks of an answer without tools."""
    config = table(request.parsed.get("generationConfig"))
    if config.get("responseMimeType") != "application/json":
        return {}
    schema = table(config.get("responseJsonSchema")) or table(config.get("responseSchema"))
    named = {"name": "answer", "schema": bounded(schema)}
    return {"type": "json_schema", "json_schema": named} if schema else {"type": "json_object"}


def answered(told: Mapping[str, Any], request: UpstreamRequest, tools: Mapping[str, Mapping[str, Any]]) -> Answer:
    """The answer to a request with tools, from the server's answer to `asked`."""
    choice = table(next(iter(items(told.get("choices"))), None))
    written = str(table(choice.get("message")).get("content") or "")
    number = str(told.get("id") or "local").removeprefix("chatcmpl-")
    usage = chat.usage_of(told)
    bare = Answer(written, usage=usage, model=request.model, id=number)
    if choice.get("finish_reason") == "length":
        return replace(bare, stop="length")
    if not tools:
        return bare
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
    schemas = [table(tool.get(key)) for key in ("parameters", "input_schema", "parametersJsonSchema")]
    return next((schema for schema in schemas if schema), dict[str, Any]())


def _forced(request: UpstreamRequest) -> bool:
    if request.lead:
        return True  # an agent's own loop takes nothing but calls, and ends by one
    choice = _choice(request)
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
    kind = kind.lower() if isinstance(kind, str) else kind  # Gemini has them in capitals
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
