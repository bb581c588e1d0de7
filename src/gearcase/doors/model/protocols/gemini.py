"""Gemini: `generateContent`, its stream, and `countTokens`. The model's name and the streaming stand in the path.

A body may write each field in two ways (`maxOutputTokens`, `max_output_tokens`): what is sent has one, and both at once are refused. At
every level whose fields mean something to the provider only the known ones pass; what a tool was called with, what it answered and
schemas are the caller's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast
from urllib.parse import parse_qs

import orjson

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols.answer import Answer
from gearcase.doors.model.protocols.request import (
    Address,
    ModelRequest,
    bad_request,
    denied,
    deny,
    measure,
    whole_number,
)
from gearcase.doors.model.protocols.stream import Following, count, event, items, load, table

ROOT = "/v1beta/"
PATH = "/v1beta/models/{model}:generateContent"
STREAM_PATH = "/v1beta/models/{model}:streamGenerateContent"
COUNT_PATH = "/v1beta/models/{model}:countTokens"

_PART_OF_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_CALLED = re.compile(
    rf"/v1beta/models/({_PART_OF_NAME}(?:/{_PART_OF_NAME}){{0,2}}):(generateContent|streamGenerateContent|countTokens)"
)
"""What stands in an address must be a name: nothing in it can lead elsewhere once it is sent on."""

KNOWN = frozenset("contents systemInstruction tools toolConfig safetySettings generationConfig".split())
_DENIED = {"cachedContent": "it is stored at the provider"}
_CONFIG = frozenset(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities candidateCount maxOutputTokens temperature "
    "topP topK seed presencePenalty frequencyPenalty responseLogprobs logprobs thinkingConfig mediaResolution".split()
)
_CONFIG_DENIED = {"speechConfig": "audio output has a price of its own", "imageConfig": "image output has a price of its own"}
_PART = frozenset(
    "text thought thoughtSignature functionCall functionResponse inlineData executableCode codeExecutionResult mediaResolution".split()
)
_RESULT = frozenset("id name response parts willContinue scheduling".split())
_OPENABLE = {"googleSearch": 10, "urlContext": 0, "codeExecution": 0}
"""Hosted tools that a box can open, and searches to be set aside for each. Others have fees that no price table tells."""

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    529: "UNAVAILABLE",
}
_LEAST_THINKING = 128
_LEAST_LOWERED = 1024  # output tokens below which a thinking budget stays as the client wrote it


def address(path: str, query: bytes) -> Address | None:
    """What a call to this path means; None for a path that is none of these."""
    found = _CALLED.fullmatch(path)
    if found is None:
        return None
    model, verb = found.groups()
    stream = verb == "streamGenerateContent"
    return Address(
        "gemini",
        path=f"/v1beta/models/{{model}}:{verb}",
        model=model,
        stream=stream,
        counts=verb == "countTokens",
        array=stream and parse_qs(query).get(b"alt") != [b"sse"],
    )


def listed(names: list[str]) -> bytes:
    """A list of models as the provider writes it."""
    methods = ["generateContent", "countTokens"]
    told = [{"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods} for name in names]
    return orjson.dumps({"models": told})


# --- a request -------------------------------------------------------------------------------------------------------------


def read(body: dict[str, Any], hosted: frozenset[str], address: Address) -> ModelRequest:
    """What the door must know of a call. Raises Refused."""
    if address.array:
        raise bad_request("a stream as one JSON array cannot be ended early: ask for events with `?alt=sse`")
    if address.counts:
        body = next((table(body[name]) for name in ("generateContentRequest", "generate_content_request") if name in body), body)
        body.pop("model", None)  # the path names it
    request = ModelRequest("gemini", address.model, body, stream=address.stream)
    _tidy(body, KNOWN, request, denied_=_DENIED)
    if not items(body.get("contents")):
        raise bad_request("`contents` are required, an array")
    _config(request)
    _tools(request, hosted)
    for content in items(body["contents"]):
        _content(content, request)
    if body.get("systemInstruction") is not None:
        _content(body["systemInstruction"], request)
    measure(request, "contents", items(body["contents"]))
    return request


def _tidy(
    holder: dict[str, Any],
    known: frozenset[str],
    request: ModelRequest,
    where: str = "",
    denied_: Mapping[str, str] | None = None,
) -> None:
    """One spelling for each field; what is not known is removed, on record."""
    refused = denied_ or {}
    for name in list(holder):
        plain = _camel(name)
        if plain != name and plain in holder:
            raise bad_request(f"`{plain[:40]}` is there twice, written in two ways")
        if plain in known or plain in refused:
            holder[plain] = holder.pop(name)
        else:
            del holder[name]
            request.edits.append(f"removed unknown field {where}{name[:40]}")
    deny(holder, refused)
    for name in refused:
        holder.pop(name, None)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def _objects(value: object, what: str) -> list[dict[str, Any]]:
    """An array of objects; refused where it is anything else, which a laxer reader might understand."""
    if value is None:
        return []
    told = items(value)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in told):
        raise bad_request(f"`{what}` must be an array of objects")
    return cast("list[dict[str, Any]]", told)


def _object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """The object below a name, made where it is missing."""
    value = holder.get(name)
    if value is not None and not isinstance(value, dict):
        raise bad_request(f"`{name}` must be an object")
    return cast("dict[str, Any]", holder.setdefault(name, {}) if value is not None else {})


def _config(request: ModelRequest) -> None:
    config = _object(request.body, "generationConfig")
    _tidy(config, _CONFIG, request, "generationConfig.", _CONFIG_DENIED)
    if any(str(kind).upper() != "TEXT" for kind in items(config.get("responseModalities"))):
        raise denied("modalities other than text have prices of their own")
    request.asked = whole_number(config, "maxOutputTokens")
    request.choices = whole_number(config, "candidateCount") or 1
    thinking = frozenset({"thinkingBudget", "thinkingLevel", "includeThoughts"})
    _tidy(_object(config, "thinkingConfig"), thinking, request, "thinkingConfig.")


def _content(content: object, request: ModelRequest) -> None:
    if not isinstance(content, dict):
        raise bad_request("each content is an object with `parts`")
    told = cast("dict[str, Any]", content)
    _tidy(told, frozenset({"role", "parts"}), request, "contents.")
    for part in _objects(told.get("parts"), "parts"):
        _part(part, request)


def _part(part: dict[str, Any], request: ModelRequest) -> None:
    _tidy(part, _PART, request, "parts.", {"fileData": "the provider would fetch it, or keeps it"})
    if "inlineData" in part:
        _inline(_object(part, "inlineData"), request)
    if "functionResponse" in part:
        result = _object(part, "functionResponse")
        _tidy(result, _RESULT, request, "functionResponse.")
        for inner in _objects(result.get("parts"), "functionResponse.parts"):
            _part(inner, request)


def _inline(data: dict[str, Any], request: ModelRequest) -> None:
    _tidy(data, frozenset({"mimeType", "data", "displayName"}), request, "inlineData.")
    kind = str(data.get("mimeType")).lower()
    if kind.startswith(("audio/", "video/")):
        raise denied("audio and video have prices of their own")
    if kind.startswith("image/"):
        request.images += 1
    elif not kind.startswith("text/"):
        request.unbounded = True


def _tools(request: ModelRequest, hosted: frozenset[str]) -> None:
    body, kept = request.body, list[dict[str, Any]]()
    for tool in _objects(body.get("tools"), "tools"):
        for name in list(tool):
            plain = _camel(name)
            opened = plain in _OPENABLE and bool(hosted & {name, plain, _snake(plain)})
            if plain != "functionDeclarations" and not opened:
                del tool[name]
                request.edits.append(f"removed hosted tool {plain[:40]}")
                continue
            if plain != name and plain in tool:
                raise bad_request(f"`{plain}` is there twice, written in two ways")
            tool[plain] = tool.pop(name)
            if opened:
                request.unbounded = True
                request.web_searches += _OPENABLE[plain]
        if tool:
            kept.append(tool)
    body["tools"] = kept
    if not kept:
        del body["tools"]
        body.pop("toolConfig", None)
    _tidy(_object(body, "toolConfig"), frozenset({"functionCallingConfig"}), request, "toolConfig.")


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def cap(request: ModelRequest, output: int) -> None:
    """Write the output ceiling, of each candidate, into the body. Thinking counts towards it and must leave room for an answer."""
    config = table(request.body.get("generationConfig"))
    request.body["generationConfig"] = {**config, "maxOutputTokens": output}
    thinking = table(config.get("thinkingConfig"))
    if output >= _LEAST_LOWERED and count(thinking.get("thinkingBudget")) >= output:
        lowered = max(_LEAST_THINKING, output - output // 4 - 1)
        request.body["generationConfig"]["thinkingConfig"] = {**thinking, "thinkingBudget": lowered}
        request.edits.append("lowered thinking")


def counting(request: ModelRequest, name: str) -> dict[str, Any]:
    """The body that asks how many tokens this request has."""
    if request.body.keys() == {"contents"}:
        return request.body
    return {"generateContentRequest": {"model": f"models/{name}", **request.body}}


# --- an answer -------------------------------------------------------------------------------------------------------------


def usage_of(answer: Mapping[str, Any]) -> TokenUsage | None:
    """The usage that an answer, or a chunk of one, reports."""
    told = table(answer.get("usageMetadata"))
    if "promptTokenCount" not in told:
        return None
    given, used_by_tools = count(told.get("promptTokenCount")), count(told.get("toolUsePromptTokenCount"))
    read = min(count(told.get("cachedContentTokenCount")), given)
    thoughts = count(told.get("thoughtsTokenCount"))
    output = count(told.get("candidatesTokenCount")) + thoughts
    # Thoughts are billed as output, and a report that leaves them out still has them in its total.
    hidden = max(0, count(told.get("totalTokenCount")) - given - used_by_tools - output)
    searches = [
        len(items(table(table(one).get("groundingMetadata")).get("webSearchQueries"))) for one in items(answer.get("candidates"))
    ]
    return TokenUsage(
        input=given - read + used_by_tools,
        cache_read=read,
        output=output + hidden,
        reasoning=thoughts + hidden,
        web_searches=sum(searches),
    )


class Scanner(Following):
    """Follows a streamed answer. Usage is reported all along; it counts once every candidate has its reason to end."""

    def __init__(self) -> None:
        super().__init__()
        self._usage: TokenUsage | None = None
        self._searches = 0
        self._candidates = 1
        self._finished: set[int] = set()

    def see(self, data: bytes, request: ModelRequest) -> bool:
        """Read one event; every one is passed on."""
        told = load(data)
        self._candidates = request.choices
        self.served = str(told.get("modelVersion") or self.served)
        for candidate in items(told.get("candidates")):
            if table(candidate).get("finishReason"):
                self._finished.add(count(table(candidate).get("index")))
        self.ended |= len(self._finished) >= self._candidates or bool(table(told.get("promptFeedback")).get("blockReason"))
        usage = usage_of(told)
        if usage is not None:
            self._searches = max(self._searches, usage.web_searches)
            self._usage = usage
        if told.get("candidates"):
            self.deltas += 1
        if usage is not None and not self.ended:
            self.deltas = max(self.deltas, usage.output)
        return True

    def usage(self) -> TokenUsage | None:
        """The reported usage, once the final report has come."""
        if self._usage is None or not self.ended:
            return None
        return replace(self._usage, web_searches=self._searches)

    def ending(self, reason: str) -> bytes:
        """End the stream in the protocol: `length` as if the output limit was met, else an error."""
        if reason != "length":
            return event({"error": {"code": 500, "message": reason, "status": "INTERNAL"}})
        open_ = [index for index in range(self._candidates) if index not in self._finished]
        return event(
            {"candidates": [_candidate([{"text": ""}], index, "MAX_TOKENS") for index in open_], "modelVersion": self.served}
        )


def refusal(status: int, code: str, message: str) -> bytes:
    """An error body as the provider writes it: a google.rpc.Status."""
    name = _STATUS.get(status, "INTERNAL")
    about = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code.upper(), "domain": "gearcase"}
    return orjson.dumps({"error": {"code": status, "message": message, "status": name, "details": [about]}})


def render(answer: Answer, stream: bool) -> Iterator[bytes]:
    """An answer in this protocol."""
    calls: list[dict[str, Any]] = [
        {"functionCall": {"id": call.id, "name": call.name, "args": dict(call.arguments)}} for call in answer.calls
    ]
    stop = "MAX_TOKENS" if answer.stop == "length" else "STOP"
    head = {"modelVersion": answer.model, "responseId": answer.id}
    usage = {"usageMetadata": _report(answer.usage)} if answer.usage else {}
    if not stream:
        parts = [{"text": answer.text}] * bool(answer.text) + calls
        yield orjson.dumps({"candidates": [_candidate(parts, 0, stop)], **usage, **head})
        return
    given = answer.usage.total_input if answer.usage else 0
    for at, part in enumerate([*({"text": text} for text in answer.parts()), *calls], start=1):
        so_far = {"promptTokenCount": given, "candidatesTokenCount": at, "totalTokenCount": given + at}
        yield event({"candidates": [_candidate([part], 0)], **({"usageMetadata": so_far} if usage else {}), **head})
    yield event({"candidates": [_candidate([{"text": ""}], 0, stop)], **usage, **head})


def _candidate(parts: list[dict[str, Any]], index: int, finish: str = "") -> dict[str, Any]:
    told = {"content": {"role": "model", "parts": parts}, "index": index}
    return {**told, "finishReason": finish} if finish else told


def _report(usage: TokenUsage) -> dict[str, int]:
    thoughts = min(usage.reasoning, usage.output)
    told = {"cachedContentTokenCount": usage.cache_read, "thoughtsTokenCount": thoughts}
    return {
        "promptTokenCount": usage.total_input,
        "candidatesTokenCount": usage.output - thoughts,
        "totalTokenCount": usage.total_input + usage.output,
        **{name: tokens for name, tokens in told.items() if tokens},
    }
