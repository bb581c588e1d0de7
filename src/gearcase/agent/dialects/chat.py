"""OpenAI Chat Completions, and the many servers that speak it.

An answer goes back with whatever its server put beside the text (reasoning_content, reasoning_details, signatures in tool
calls), but for fields that requests may not carry. Arguments that are not a JSON object go back wrapped in one: templates of
local servers parse them and fail on anything else.
"""

from __future__ import annotations

import json
from typing import Any

from gearcase.agent.transcript import (
    TOOL,
    TOOL_DESCRIPTION,
    TOOL_SCHEMA,
    Answer,
    BadAnswer,
    Call,
    Message,
    Model,
    Said,
    Stop,
    Tokens,
    Told,
    clip,
    clip_arguments,
    count,
    encode,
    listing,
    own_id,
    read_arguments,
    read_object,
    table,
)

_ONLY_IN_ANSWERS = frozenset({"annotations", "audio", "function_call", "refusal"})
_STOPS: dict[str, Stop] = {"tool_calls": "calls", "length": "length", "content_filter": "refused"}


class Chat:
    """POST /v1/chat/completions."""

    path = "/v1/chat/completions"

    def request(self, model: Model, system: str, messages: list[Message], max_output: int) -> bytes:
        """See `Dialect`."""
        function = {"name": TOOL, "description": TOOL_DESCRIPTION, "parameters": TOOL_SCHEMA}
        cap = "max_completion_tokens" if model.name.startswith(("openai/", "gpt-", "o1", "o3", "o4")) else "max_tokens"
        body: dict[str, Any] = {
            "model": model.name,
            cap: max_output,
            "messages": [{"role": "system", "content": system}, *_turns(messages)],
            "tools": [{"type": "function", "function": function}],
        }
        return encode(body | dict(model.options or {}))

    def parse(self, body: bytes) -> Answer:
        """See `Dialect`."""
        answer = read_object(body)
        choices = listing(answer.get("choices"))
        message = choices[0].get("message") if choices else None
        if not isinstance(message, dict):
            raise BadAnswer("the answer has no message")
        kept = {key: value for key, value in table(message).items() if key not in _ONLY_IN_ANSWERS and value is not None}  # pyright: ignore[reportUnknownArgumentType]
        text = clip(str(kept.get("content") or ""))
        calls, native_calls = _calls(kept.get("tool_calls"))
        native = {**kept, "role": "assistant", "content": text}
        native.pop("tool_calls", None)
        if native_calls:
            native["tool_calls"] = native_calls
        stop = _STOPS.get(str(choices[0].get("finish_reason")), "calls" if calls else "end")
        return Answer(Said(text, tuple(calls), (native,), stop), _tokens(answer.get("usage")))


def _calls(value: object) -> tuple[list[Call], list[dict[str, Any]]]:
    calls: list[Call] = []
    native: list[dict[str, Any]] = []
    taken: set[str] = set()
    for item in listing(value):
        function = table(item.get("function"))
        call = read_arguments(own_id(item.get("id"), taken), str(function.get("name") or ""), function.get("arguments"))
        shown = call.arguments if call.arguments is not None else {"unreadable": clip(str(function.get("arguments")))}
        arguments = json.dumps(clip_arguments(shown), ensure_ascii=False)
        calls.append(call)
        native.append({**item, "id": call.id, "type": "function", "function": {**function, "arguments": arguments}})
    return calls, native


def _tokens(usage: object) -> Tokens:
    told = table(usage)
    if not told:
        return Tokens()
    return Tokens(count(told.get("prompt_tokens")), count(told.get("completion_tokens")))


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, Said):
            turns.extend(dict(item) for item in message.native if item.get("content") or item.get("tool_calls"))
        elif isinstance(message, Told) and turns and turns[-1]["role"] == "user":
            turns[-1]["content"] += f"\n\n{message.text}"
        elif isinstance(message, Told):
            turns.append({"role": "user", "content": message.text})
        else:
            turns.append({"role": "tool", "tool_call_id": message.call, "content": message.text})
    return turns
