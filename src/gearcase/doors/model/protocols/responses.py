"""OpenAI Responses: cost, cap, usage, answers. Nothing is stored at the provider and no stored state is used."""

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

PATH = "/v1/responses"

KNOWN = frozenset(
    "model input instructions max_output_tokens stream stream_options temperature top_p top_logprobs tools tool_choice "
    "parallel_tool_calls max_tool_calls reasoning text truncation store include metadata user service_tier prompt_cache_key "
    "safety_identifier client_metadata".split()
)
_DENIED = {
    "previous_response_id": "it is stored at the provider",
    "conversation": "it is stored at the provider",
    "background": "it goes on out of sight",
    "prompt": "it is stored at the provider",
}
_TOOLS = frozenset({"function", "custom", "local_shell", "apply_patch", "namespace"})
_INCLUDE = "reasoning.encrypted_content"


def read(body: dict[str, Any], hosted: frozenset[str], address: Address) -> ModelRequest:
    """What the door must know of a body. Raises Refused."""
    deny(body, _DENIED)
    given = body.get("input")
    if not isinstance(body.get("model"), str) or not isinstance(given, str | list):
        raise bad_request("`model` and `input` are required")
    request = ModelRequest(address.protocol, str(body["model"]), body, stream=body.get("stream") is True)
    keep_known(request, KNOWN)
    request.asked = whole_number(body, "max_output_tokens")
    request.tier = str(body.get("service_tier") or "")
    if body.get("store") is not False:
        body["store"] = False
        request.edits.append("store: false")
    if body.get("include"):
        body["include"] = [name for name in items(body["include"]) if name == _INCLUDE]
    _tools(request, hosted)
    messages = [given] if isinstance(given, str) else items(body["input"])
    for item in objects(messages):
        _look(item, request)
    measure(request, "input", messages)
    return request


def _tools(request: ModelRequest, hosted: frozenset[str]) -> None:
    if "tools" not in request.body:
        return
    kept: list[Any] = []
    for tool in items(request.body["tools"]):
        kind = str(table(tool).get("type") or "")
        if kind in _TOOLS:
            kept.append(tool)
        elif kind in hosted:
            request.unbounded = True
            request.web_searches += 10 * kind.startswith("web_search")
            kept.append(tool)
        else:
            request.edits.append(f"removed hosted tool {kind[:40]}")
    request.body["tools"] = kept


def _look(item: Mapping[str, Any], request: ModelRequest) -> None:
    deny_addresses(item)
    match item.get("type"):
        case "input_image" | "computer_screenshot":
            request.images += 1
        case "input_file":
            if not item.get("file_data"):
                raise denied("a file without its content: it is stored at the provider")
            request.unbounded = True
        case "input_audio" | "input_video":
            raise denied("audio and video have prices of their own")
        case "item_reference":
            raise denied("an item by reference: it is stored at the provider")
        case _:
            return


def cap(request: ModelRequest, output: int) -> None:
    """Write the output ceiling into the body."""
    request.body["max_output_tokens"] = output


def usage_of(answer: Mapping[str, Any]) -> TokenUsage | None:
    """The usage of a whole answer."""
    told = table(answer.get("usage"))
    if "input_tokens" not in told:
        return None
    return openai_usage(
        count(told.get("input_tokens")),
        table(told.get("input_tokens_details")),
        count(told.get("output_tokens")),
        table(told.get("output_tokens_details")),
        str(answer.get("service_tier") or ""),
    )


class Scanner(Following):
    """Follows a streamed answer."""

    def __init__(self) -> None:
        super().__init__()
        self._usage: TokenUsage | None = None
        self._response: dict[str, Any] = {"id": "resp_gearcase", "object": "response"}

    def see(self, data: bytes, request: ModelRequest) -> bool:
        """Read one event; every one is passed on."""
        if b'"response"' in data:  # as a key: in a text its quotes would be escaped
            self._read(load(data))
        elif b'.delta"' in data:
            self.deltas += 1
        return True

    def _read(self, told: Mapping[str, Any]) -> None:
        response = table(told.get("response"))
        if not response:
            return
        self._response = response
        self.served = str(response.get("model") or self.served)
        self._usage = usage_of(response) or self._usage
        self.ended |= told.get("type") in ("response.completed", "response.incomplete", "response.failed")

    def usage(self) -> TokenUsage | None:
        """The reported usage, once it has come."""
        return self._usage

    def ending(self, reason: str) -> bytes:
        """End the stream in the protocol: `length` as if the output limit was met, else a failed response."""
        if reason == "length":
            response = {**self._response, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
            return event({"type": "response.incomplete", "response": response}, "response.incomplete")
        response = {**self._response, "status": "failed", "error": {"code": "server_error", "message": reason}}
        return event({"type": "response.failed", "response": response}, "response.failed")


def refusal(status: int, code: str, message: str) -> bytes:
    """An error body as the provider writes it."""
    kind = "insufficient_quota" if status == 402 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return orjson.dumps(
        {"error": {"message": message, "type": kind if status < 500 else "server_error", "param": None, "code": code}}
    )


def render(answer: Answer, stream: bool) -> Iterator[bytes]:
    """An answer in this protocol."""
    text: dict[str, Any] = {"type": "output_text", "text": answer.text, "annotations": []}
    message: dict[str, Any] = {
        "type": "message",
        "id": f"msg_{answer.id}",
        "status": "completed",
        "role": "assistant",
        "content": [text],
    }
    calls = [
        {
            "type": "function_call",
            "id": f"fc_{call.id}",
            "call_id": call.id,
            "name": call.name,
            "arguments": orjson.dumps(dict(call.arguments)).decode(),
            "status": "completed",
            **({"namespace": call.namespace} if call.namespace else {}),
        }
        for call in answer.calls
    ]
    output = [message] * bool(answer.text) + calls
    cut = answer.stop == "length"
    whole: dict[str, Any] = {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": 0,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "error": None,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    usage = _report(answer.usage)
    if not stream:
        yield orjson.dumps(whole | ({"usage": usage} if usage else {}))
        return
    sequence = iter(range(10**9))

    def send(kind: str, **more: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(sequence), **more}, kind)

    yield send("response.created", response={**whole, "status": "in_progress", "incomplete_details": None, "output": []})
    for index, item in enumerate(output):
        where = {"output_index": index}
        if item["type"] == "message":
            place = {"item_id": item["id"], **where, "content_index": 0}
            yield send("response.output_item.added", **where, item={**item, "status": "in_progress", "content": []})
            yield send("response.content_part.added", **place, part={**text, "text": ""})
            for part in answer.parts():
                yield send("response.output_text.delta", **place, delta=part, logprobs=[])
            yield send("response.output_text.done", **place, text=answer.text, logprobs=[])
            yield send("response.content_part.done", **place, part=text)
        else:
            place = {"item_id": item["id"], **where}
            yield send("response.output_item.added", **where, item={**item, "status": "in_progress", "arguments": ""})
            yield send("response.function_call_arguments.delta", **place, delta=item["arguments"])
            yield send("response.function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"])
        yield send("response.output_item.done", **where, item=item)
    kind = "response.incomplete" if cut else "response.completed"
    yield send(kind, response=whole | ({"usage": usage} if usage else {}))


def _report(usage: TokenUsage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    return {
        "input_tokens": usage.total_input,
        "input_tokens_details": openai_details(usage),
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total_input + usage.output,
    }
