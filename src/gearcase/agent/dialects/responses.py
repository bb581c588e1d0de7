"""OpenAI Responses, stateless: the provider stores nothing, so reasoning comes encrypted and is sent back as it came."""

from __future__ import annotations

import json
from collections.abc import Mapping
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

_NO_REASONING = ("gpt-3", "gpt-4", "chatgpt")
"""Models that answer 400 when they are asked for encrypted reasoning."""


class Responses:
    """POST /v1/responses."""

    path = "/v1/responses"

    def request(self, model: Model, system: str, messages: list[Message], max_output: int) -> bytes:
        """See `Dialect`."""
        tool = {"type": "function", "name": TOOL, "description": TOOL_DESCRIPTION, "parameters": TOOL_SCHEMA, "strict": False}
        body: dict[str, Any] = {
            "model": model.name,
            "max_output_tokens": max_output,
            "instructions": system,
            "input": [item for message in messages for item in _items(message)],
            "tools": [tool],
            "store": False,
        }
        if not model.name.rpartition("/")[2].startswith(_NO_REASONING):
            body["include"] = ["reasoning.encrypted_content"]
        return encode(body | dict(model.options or {}))

    def parse(self, body: bytes) -> Answer:
        """See `Dialect`."""
        answer = read_object(body)
        if not isinstance(answer.get("output"), list) or answer.get("status") == "failed":
            raise BadAnswer(f"the answer failed: {str(answer.get('error'))[:200]}")
        native: list[Mapping[str, Any]] = []
        texts: list[str] = []
        calls: list[Call] = []
        taken: set[str] = set()
        for item in listing(answer["output"]):
            match item.get("type"):
                case "message":
                    parts = [_clipped(part) for part in listing(item.get("content"))]
                    texts += [str(part.get("text") or part.get("refusal") or "") for part in parts]
                    native.append({**item, "content": parts})
                case "function_call":
                    call = read_arguments(own_id(item.get("call_id"), taken), str(item.get("name") or ""), item.get("arguments"))
                    calls.append(call)
                    native.append({**item, "call_id": call.id, "arguments": _arguments(call, item.get("arguments"))})
                case _:
                    native.append(item)
        text = "\n".join(text for text in texts if text.strip())
        return Answer(Said(text, tuple(calls), tuple(native), _stop(answer, calls)), _tokens(answer.get("usage")))


def _stop(answer: Mapping[str, Any], calls: list[Call]) -> Stop:
    if reason := table(answer.get("incomplete_details")).get("reason"):
        return "refused" if reason == "content_filter" else "length"
    return "calls" if calls else "end"


def _clipped(part: Mapping[str, Any]) -> dict[str, Any]:
    return {**part, "text": clip(part["text"])} if isinstance(part.get("text"), str) else dict(part)


def _arguments(call: Call, told: object) -> str:
    if call.arguments is None:
        return clip(str(told))
    return json.dumps(clip_arguments(call.arguments), ensure_ascii=False)


def _tokens(usage: object) -> Tokens:
    told = table(usage)
    if not told:
        return Tokens()
    return Tokens(count(told.get("input_tokens")), count(told.get("output_tokens")))


def _items(message: Message) -> list[dict[str, Any]]:
    """Input items. Reasoning that nothing follows (the answer was cut there) is refused by the API, so it is left out."""
    if isinstance(message, Told):
        return [{"role": "user", "content": [{"type": "input_text", "text": message.text}]}]
    if isinstance(message, Said):
        items = [dict(item) for item in message.native]
        while items and items[-1].get("type") == "reasoning":
            items.pop()
        return items
    return [{"type": "function_call_output", "call_id": message.call, "output": message.text}]
