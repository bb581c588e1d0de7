"""Anthropic Messages.

Thinking blocks go back with their signatures, untouched. The prompt is cached at three marks: after tools and system, after the
last message, and after the one before it, which is where the previous request wrote its cache.
"""

from __future__ import annotations

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

_MARK = {"type": "ephemeral"}
_THINKING = ("thinking", "redacted_thinking")
_STOPS: dict[str, Stop] = {"tool_use": "calls", "max_tokens": "length", "refusal": "refused"}


class Anthropic:
    """POST /v1/messages."""

    path = "/v1/messages"

    def request(self, model: Model, system: str, messages: list[Message], max_output: int) -> bytes:
        """See `Dialect`."""
        turns = _turns(messages)
        for turn in [turn for turn in turns if turn["role"] == "user"][-2:]:
            turn["content"][-1]["cache_control"] = _MARK
        body: dict[str, Any] = {
            "model": model.name,
            "max_tokens": max_output,
            "system": [{"type": "text", "text": system, "cache_control": _MARK}],
            "tools": [{"name": TOOL, "description": TOOL_DESCRIPTION, "input_schema": TOOL_SCHEMA}],
            "messages": turns,
        }
        return encode(body | dict(model.options or {}))

    def parse(self, body: bytes) -> Answer:
        """See `Dialect`."""
        answer = read_object(body)
        if not isinstance(answer.get("content"), list):
            raise BadAnswer("the answer has no content")
        native: list[Mapping[str, Any]] = []
        texts: list[str] = []
        calls: list[Call] = []
        taken: set[str] = set()
        for block in listing(answer["content"]):
            match block.get("type"):
                case "text":
                    text = clip(str(block.get("text") or ""))
                    texts.append(text)
                    native.append({**block, "text": text})
                case "tool_use":
                    call = read_arguments(own_id(block.get("id"), taken), str(block.get("name") or ""), block.get("input"))
                    calls.append(call)
                    native.append({**block, "id": call.id, "input": clip_arguments(call.arguments or {})})
                case _:
                    native.append(block)
        stop = _STOPS.get(str(answer.get("stop_reason")), "calls" if calls else "end")
        said = Said("\n".join(text for text in texts if text.strip()), tuple(calls), tuple(native), stop)
        return Answer(said, _tokens(answer.get("usage")))


def _tokens(usage: object) -> Tokens:
    told = table(usage)
    if not told:
        return Tokens()
    read = sum(count(told.get(key)) for key in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
    return Tokens(read, count(told.get("output_tokens")))


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    """User and assistant messages; what stands between two answers is one user message, results first as they come first."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role, blocks = ("assistant", _said(message)) if isinstance(message, Said) else ("user", [_heard(message)])
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _said(said: Said) -> list[dict[str, Any]]:
    """The blocks that the API takes back: blank text is refused, and so is thinking that nothing follows."""
    blocks = [dict(block) for block in said.native if block.get("type") != "text" or str(block.get("text")).strip()]
    while blocks and blocks[-1].get("type") in _THINKING:
        blocks.pop()
    return blocks


def _heard(message: Message) -> dict[str, Any]:
    if isinstance(message, Told):
        return {"type": "text", "text": message.text}
    assert not isinstance(message, Said)
    return {"type": "tool_result", "tool_use_id": message.call, "content": message.text, "is_error": message.failed}
