"""OpenAI Chat Completions, as every compatible server speaks it: cost, cap, usage, answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols.answer import Answer
from gearcase.doors.model.protocols.request import (
    Address,
    ModelRequest,
    bad_request,
    denied,
    deny,
    deny_addresses,
    keep_known,
    measure,
    objects,
    whole_number,
)
from gearcase.doors.model.protocols.stream import Following, count, event, items, load, table
from gearcase.doors.model.protocols.usage import openai_details, openai_usage

PATH = "/v1/chat/completions"

KNOWN = frozenset(
    "model messages max_tokens max_completion_tokens stream stream_options temperature top_p top_k min_p n stop presence_penalty "
    "frequency_penalty repetition_penalty logit_bias logprobs top_logprobs user seed tools tool_choice parallel_tool_calls functions "
    "function_call response_format reasoning_effort reasoning service_tier store verbosity safety_identifier prompt_cache_key modalities "
    "chat_template_kwargs".split()
)
_DENIED = {"audio": "audio output has a price of its own", "web_search_options": "the provider would search for you"}
_KINDS = frozenset({"function", "custom"})


def read(body: dict[str, Any], hosted: frozenset[str], address: Address) -> ModelRequest:
    """What the door must know of a body. Raises Refused."""
    deny(body, _DENIED)
    messages = body.get("messages")
    if not isinstance(body.get("model"), str) or not isinstance(messages, list):
        raise bad_request("`model` and `messages` are required")
    if body.get("modalities") not in (None, ["text"]):
        raise denied("modalities other than text have prices of their own")
    told = items(body["messages"])
    request = ModelRequest(address.protocol, str(body["model"]), body, stream=body.get("stream") is True)
    keep_known(request, KNOWN)
    caps = [whole_number(body, name) for name in ("max_tokens", "max_completion_tokens")]
    request.asked = min((cap for cap in caps if cap is not None), default=None)
    request.choices = whole_number(body, "n") or 1
    request.tier = str(body.get("service_tier") or "")
    if body.get("store"):
        body["store"] = False
        request.edits.append("store: false")
    kept = [tool for tool in items(body.get("tools")) if str(table(tool).get("type")) in _KINDS]
    if len(kept) != len(items(body.get("tools"))):
        request.edits.append("removed hosted tools")
        body["tools"] = kept
    for item in objects(told):
        _look(item, request)
    measure(request, "messages", told)
    return request


def _look(item: Mapping[str, Any], request: ModelRequest) -> None:
    deny_addresses(item)
    match item.get("type"):
        case "image_url":
            request.images += 1
        case "file":
            if not table(item.get("file")).get("file_data"):
                raise denied("a file without its content: it is stored at the provider")
            request.unbounded = True
        case "input_audio" | "video_url" | "input_video":
            raise denied("audio and video have prices of their own")
        case _:
            return


def cap(request: ModelRequest, output: int) -> None:
    """Write the output ceiling into the body, in the field that the client used, and ask for the usage of a stream."""
    body = request.body
    fields = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    for name in fields or ["max_completion_tokens"]:
        body[name] = output
    if request.stream:
        options = table(body.get("stream_options"))
        if options.get("include_usage") is not True:
            body["stream_options"] = {**options, "include_usage": True}
            request.added_usage = True


def usage_of(answer: Mapping[str, Any]) -> TokenUsage | None:
    """The usage of a whole answer."""
    told = table(answer.get("usage"))
    if "prompt_tokens" not in told:
        return None
    details = table(told.get("prompt_tokens_details")) or {"cached_tokens": told.get("prompt_cache_hit_tokens")}
    return openai_usage(
        count(told.get("prompt_tokens")),
        details,
        count(told.get("completion_tokens")),
        table(told.get("completion_tokens_details")),
        str(answer.get("service_tier") or ""),
    )


class Scanner(Following):
    """Follows a streamed answer; drops the usage chunk that the door, not the client, asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._usage: TokenUsage | None = None
        self._final = False
        self._id = "chatcmpl-gearcase"

    def see(self, data: bytes, request: ModelRequest) -> bool:
        """Read one event; the usage that only the door wanted is not passed on."""
        if data == b"[DONE]":
            self.ended = True
            return True
        self.deltas += b'"delta"' in data
        if b'"usage"' not in data and self.served:
            return True
        told = load(data)
        self.served = self.served or str(told.get("model") or "")
        self._id = str(told.get("id") or self._id)
        usage = usage_of(told)
        self._usage = usage or self._usage
        alone = usage is not None and not told.get("choices")
        self._final |= alone
        return not (alone and request.added_usage)

    def usage(self) -> TokenUsage | None:
        """The reported usage, once the final report has come: some servers report in every chunk what was used so far."""
        return self._usage if self._final or self.ended else None

    def ending(self, reason: str) -> bytes:
        """End the stream in the protocol: `length` as if the output limit was met, else an error."""
        if reason != "length":
            return event({"error": {"message": reason, "type": "server_error", "code": None}}) + b"data: [DONE]\n\n"
        choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "length"}
        head = {"id": self._id, "object": "chat.completion.chunk", "created": 0, "model": self.served}
        return event({**head, "choices": [choice]}) + b"data: [DONE]\n\n"


def refusal(status: int, code: str, message: str) -> bytes:
    """An error body as the provider writes it."""
    kind = "insufficient_quota" if status == 402 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return orjson.dumps(
        {"error": {"message": message, "type": kind if status < 500 else "server_error", "param": None, "code": code}}
    )


def render(answer: Answer, stream: bool) -> Iterator[bytes]:
    """An answer in this protocol."""
    calls = [
        {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": orjson.dumps(dict(call.arguments)).decode()},
        }
        for index, call in enumerate(answer.calls)
    ]
    stop = "length" if answer.stop == "length" else "tool_calls" if calls else "stop"
    usage = _report(answer.usage)
    head = {"id": f"chatcmpl-{answer.id}", "created": 0, "model": answer.model}
    if not stream:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
        if calls:
            message["tool_calls"] = [{key: value for key, value in call.items() if key != "index"} for call in calls]
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": stop, "logprobs": None}
        yield orjson.dumps({**head, "object": "chat.completion", "choices": [choice], **({"usage": usage} if usage else {})})
        return
    head["object"] = "chat.completion.chunk"

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for part in answer.parts():
        yield chunk({"content": part})
    for call in calls:
        yield chunk({"tool_calls": [call]})
    yield chunk({}, stop)
    if usage:
        yield event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _report(usage: TokenUsage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    prompt = usage.total_input
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output,
        "total_tokens": prompt + usage.output,
        "prompt_tokens_details": openai_details(usage),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
