"""Anthropic Messages: what a request may cost, its cap, its usage, and how to answer in it."""

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

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
LEAST_THINKING = 1024

KNOWN = frozenset(
    "model messages system max_tokens stream temperature top_p top_k stop_sequences tools tool_choice metadata thinking "
    "output_config output_format service_tier context_management".split()
)
_HOSTED = ("web_search", "web_fetch", "code_execution", "mcp_toolset", "advisor", "tool_search")
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_DENIED = {"container": "it holds state at the provider", "mcp_servers": "the provider would call servers for you"}


def read(body: dict[str, Any], hosted: frozenset[str], address: Address) -> ModelRequest:
    """What the door must know of a body. Raises Refused."""
    deny(body, _DENIED)
    messages = body.get("messages")
    if not isinstance(body.get("model"), str) or not isinstance(messages, list):
        raise bad_request("`model` and `messages` are required")
    told = items(body["messages"])
    request = ModelRequest(address.protocol, str(body["model"]), body, stream=body.get("stream") is True)
    keep_known(request, KNOWN)
    request.asked = whole_number(body, "max_tokens")
    request.tier = str(body.get("service_tier") or "")
    _tools(request, hosted)
    for item in objects([told, body.get("system")]):
        _look(item, request)
    for tool in items(body.get("tools")):
        _mark(table(tool), request)
    measure(request, "messages", told)
    return request


def _look(item: Mapping[str, Any], request: ModelRequest) -> None:
    kind = item.get("type")
    deny_addresses(item)
    if kind in ("image", "document") or isinstance(item.get("source"), dict):
        source = table(item.get("source"))
        if source.get("type") not in ("base64", "text", "content"):
            raise denied(f"{str(kind)[:40]} by {str(source.get('type'))[:40]}: the provider would fetch it")
        request.images += kind == "image"
        request.unbounded |= kind == "document" and source.get("type") == "base64"
    elif kind == "container_upload":
        raise denied("container_upload: it holds state at the provider")
    _mark(item, request)


def _mark(item: Mapping[str, Any], request: ModelRequest) -> None:
    mark = table(item.get("cache_control"))
    if mark:
        long = mark.get("ttl") == "1h"
        request.cache_write = "1h" if long or request.cache_write == "1h" else "5m"


def _tools(request: ModelRequest, hosted: frozenset[str]) -> None:
    if "tools" not in request.body:
        return
    kept: list[Any] = []
    for tool in items(request.body["tools"]):
        kind = str(table(tool).get("type") or "custom")
        name = next((name for name in _HOSTED if kind.startswith(name)), "")
        if name and name not in hosted:
            request.edits.append(f"removed hosted tool {kind[:40]}")
            if table(request.body.get("tool_choice")).get("name") == table(tool).get("name"):
                raise denied(f"the hosted tool {kind[:40]}")
            continue
        if name:
            request.unbounded = True
            request.web_searches += count(table(tool).get("max_uses")) or 10
        kept.append(tool)
    request.body["tools"] = kept
    if not kept:
        del request.body["tools"]
        request.body.pop("tool_choice", None)


def cap(request: ModelRequest, output: int) -> None:
    """Write the output ceiling into the body; thinking must stay below it."""
    request.body["max_tokens"] = output
    thinking = table(request.body.get("thinking"))
    if count(thinking.get("budget_tokens")) >= output:
        if output > LEAST_THINKING:
            request.body["thinking"] = {**thinking, "budget_tokens": max(LEAST_THINKING, output - output // 4 - 1)}
        else:
            request.body["thinking"] = {"type": "disabled"}
        request.edits.append("lowered thinking")


def counting(request: ModelRequest, name: str) -> dict[str, Any]:
    """The body that asks how many tokens this request has: counting takes less than a call does."""
    left_out = ("max_tokens", "stream", "metadata", "service_tier", "stop_sequences", "temperature", "top_k", "top_p")
    return {**{key: value for key, value in request.body.items() if key not in left_out}, "model": name}


def usage_of(answer: Mapping[str, Any]) -> TokenUsage | None:
    """The usage of a whole answer."""
    usage = table(answer.get("usage"))
    return _usage(usage) if "output_tokens" in usage else None


def _usage(usage: Mapping[str, Any]) -> TokenUsage:
    written = count(usage.get("cache_creation_input_tokens"))
    detail = table(usage.get("cache_creation"))
    hour = min(count(detail.get("ephemeral_1h_input_tokens")), written)
    return TokenUsage(
        input=count(usage.get("input_tokens")),
        cache_read=count(usage.get("cache_read_input_tokens")),
        cache_write_5m=written - hour,
        cache_write_1h=hour,
        output=count(usage.get("output_tokens")),
        web_searches=count(table(usage.get("server_tool_use")).get("web_search_requests")),
        tier=str(usage.get("service_tier") or ""),
    )


class Scanner(Following):
    """Follows a streamed answer: its usage, the model that served it, how far it came."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, Any] = {}
        self._final = False
        self._open: int | None = None

    def see(self, data: bytes, request: ModelRequest) -> bool:
        """Read one event; every one is passed on."""
        if b'"content_block_delta"' in data:
            self.deltas += 1
        else:
            self._read(load(data))
        return True

    def _read(self, told: Mapping[str, Any]) -> None:
        match told.get("type"):
            case "message_start":
                message = table(told.get("message"))
                self._told |= table(message.get("usage"))
                self.served = str(message.get("model") or "")
            case "content_block_start":
                self._open = count(told.get("index"))
            case "content_block_stop":
                self._open = None
            case "message_delta":
                usage = table(told.get("usage"))
                self._final |= "output_tokens" in usage
                self._told |= {key: value for key, value in usage.items() if value is not None}
            case "message_stop":
                self.ended = True
            case _:
                return

    def usage(self) -> TokenUsage | None:
        """The reported usage, once the final report has come."""
        return _usage(self._told) if self._final else None

    def ending(self, reason: str) -> bytes:
        """End the stream in the protocol: `length` as if the output limit was met, else an error event."""
        if reason != "length":
            return event({"type": "error", "error": {"type": "api_error", "message": reason}}, "error")
        done = (
            [event({"type": "content_block_stop", "index": self._open}, "content_block_stop")] if self._open is not None else []
        )
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": 0},
        }
        return b"".join([*done, event(delta, "message_delta"), event({"type": "message_stop"}, "message_stop")])


def refusal(status: int, code: str, message: str) -> bytes:
    """An error body as the provider writes it."""
    kind = _ERRORS.get(status, "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": f"gearcase_{code}"})


def render(answer: Answer, stream: bool) -> Iterator[bytes]:
    """An answer in this protocol."""
    calls = [{"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)} for call in answer.calls]
    stop = "max_tokens" if answer.stop == "length" else "tool_use" if calls else "end_turn"
    usage = _report(answer.usage)
    head = {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "model": answer.model}
    if not stream:
        content = [{"type": "text", "text": answer.text}] * bool(answer.text) + calls
        whole = {**head, "content": content, "stop_reason": stop, "stop_sequence": None}
        yield orjson.dumps(whole | ({"usage": usage} if usage else {}))
        return
    opening = {**usage, "output_tokens": 1} if usage else {}
    start: dict[str, Any] = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": opening}
    yield event({"type": "message_start", "message": start}, "message_start")
    if answer.text:
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        yield event(block, "content_block_start")
        for part in answer.parts():
            delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
            yield event(delta, "content_block_delta")
        yield event({"type": "content_block_stop", "index": 0}, "content_block_stop")
    for index, call in enumerate(calls, start=bool(answer.text)):
        block = {"type": "content_block_start", "index": index, "content_block": {**call, "input": {}}}
        written = {"type": "input_json_delta", "partial_json": orjson.dumps(call["input"]).decode()}
        yield event(block, "content_block_start")
        yield event({"type": "content_block_delta", "index": index, "delta": written}, "content_block_delta")
        yield event({"type": "content_block_stop", "index": index}, "content_block_stop")
    end: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}}
    yield event(end | ({"usage": {"output_tokens": usage["output_tokens"]}} if usage else {}), "message_delta")
    yield event({"type": "message_stop"}, "message_stop")


def _report(usage: TokenUsage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output,
        "service_tier": usage.tier or "standard",
    }
