"""Spans in OTLP: as a file of JSON, a line for each batch, or sent to a receiver over HTTP in protobuf.

A file needs nothing; what is sent is put into messages that are compiled from OTLP's own schema (extra `otel`). The headers that a
receiver wants are read from OTEL_EXPORTER_OTLP_HEADERS (`name=value,name=value`), as every exporter reads them.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gearcase import __version__
from gearcase.errors import RunError, UsageError
from gearcase.journal.spans import Span, Value

_BATCH = 500
_TIMEOUT = 30.0
_PATH = "/v1/traces"
_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_ERROR = 2
"""Status code of a span that failed. Otherwise it is left unset, as the conventions want."""


def write(spans: Iterable[Span], file: Path) -> int:
    """Write a new file of JSON lines; returns how many spans. Raises UsageError `export`."""
    count = 0
    try:
        with file.open("x") as out:
            for batch in _batches(spans):
                out.write(json.dumps(as_json(batch), ensure_ascii=True, separators=(",", ":")) + "\n")
                count += len(batch)
    except OSError as error:
        remedy = "name a file that does not exist yet, in a folder that you can write to"
        raise UsageError("export", f"cannot write {file}", cause=str(error), remedy=remedy) from error
    return count


async def send(spans: Iterable[Span], endpoint: str) -> int:
    """Send to a receiver; returns how many spans. Sending again what had arrived changes nothing there: the ids are the same.

    Raises UsageError `missing_extra`, `export`; RunError `export` when the receiver does not take them.
    """
    import aiohttp

    count = 0
    url = endpoint if endpoint.rstrip("/").endswith(_PATH) else endpoint.rstrip("/") + _PATH
    headers = {**_given_headers(os.environ.get(_HEADERS, "")), "Content-Type": "application/x-protobuf"}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session:
        for batch in _batches(spans):
            try:
                async with session.post(url, data=_message(as_json(batch)), allow_redirects=False) as answer:
                    said = await answer.content.read(4096)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise _refused(endpoint, count, f"{type(error).__name__}: {error}") from error
            if answer.status != 200:
                raise _refused(endpoint, count, f"status {answer.status}: {said[:300].decode('utf-8', 'replace')}")
            if why := _rejected(said):
                raise _refused(endpoint, count, why)
            count += len(batch)
    return count


def as_json(spans: Iterable[Span]) -> dict[str, Any]:
    """One batch as OTLP's JSON: ids in hexadecimal, 64-bit integers as text."""
    scope = {"scope": {"name": "gearcase", "version": __version__}, "spans": [_span(one) for one in spans]}
    resource = {"attributes": _attributes({"service.name": "gearcase", "service.version": __version__})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}


def _span(span: Span) -> dict[str, Any]:
    return {
        "traceId": span.trace,
        "spanId": span.id,
        **({"parentSpanId": span.parent} if span.parent else {}),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.begin),
        "endTimeUnixNano": str(span.end),
        "attributes": _attributes(span.attributes),
        "status": {"code": _ERROR} if span.error else {},
    }


def _attributes(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Value) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}


def _batches(spans: Iterable[Span]) -> Iterator[list[Span]]:
    rest = iter(spans)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield batch


def _message(batch: dict[str, Any]) -> bytes:
    """The same in protobuf, whose own JSON has ids in base64."""
    ParseDict, ExportTraceServiceRequest, _ = _protobuf()
    for span in batch["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in span:
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return ParseDict(batch, ExportTraceServiceRequest()).SerializeToString()


def _rejected(said: bytes) -> str:
    """Why a receiver that answered 200 took only a part; empty when it took all. What is no such answer says nothing."""
    from google.protobuf.message import DecodeError

    _, _, ExportTraceServiceResponse = _protobuf()
    answer = ExportTraceServiceResponse()
    try:
        answer.ParseFromString(said)
    except DecodeError:
        return ""
    part = answer.partial_success
    return f"{part.rejected_spans} spans were rejected: {part.error_message}" if part.rejected_spans else ""


def _protobuf() -> Any:
    try:
        from google.protobuf.json_format import ParseDict
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
    except ImportError:
        message = "spans are sent in OTLP's messages, which are not installed"
        raise UsageError("missing_extra", message, remedy="pip install 'gearcase[otel]'", extra="otel") from None
    return ParseDict, service.ExportTraceServiceRequest, service.ExportTraceServiceResponse


def _given_headers(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        raise UsageError("export", f"{_HEADERS} cannot be read", remedy="write name=value,name=value")
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def _refused(endpoint: str, count: int, cause: str) -> RunError:
    return RunError(
        "export",
        f"{endpoint} did not take the spans; {count} had arrived",
        cause=cause,
        remedy="see that a receiver of OTLP over HTTP listens there (4318 is its usual port), then export again",
    )
