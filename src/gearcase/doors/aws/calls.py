"""Which operation of which service a request of an AWS client is, told by the models that botocore ships.

An operation is judged by its name, so one request must never mean two: what the service's own protocol does not use to name an operation
(a query string, a target header, a second Action) is refused, not passed on. Of calls in REST, what tells two operations of one path apart
must be there exactly.

Threat: an agent that is allowed to read, and words a write so that it is judged as a read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from gearcase.box.calls import normal_path
from gearcase.errors import Refused

_SCOPE = re.compile(r"Credential=[^/,\s]*/\d{8}/([a-z0-9-]*)/([a-z0-9-]+)/aws4_request")
_ELSEWHERE = {
    "dynamodb": ("dynamodb", "dynamodbstreams"),
    "elasticfilesystem": ("efs",),
    "elasticloadbalancing": ("elbv2",),
    "elasticmapreduce": ("emr",),
    "es": ("opensearch",),
    "monitoring": ("cloudwatch",),
    "ses": ("sesv2", "ses"),
    "states": ("stepfunctions",),
    "tagging": ("resourcegroupstaggingapi",),
}
"""Names in signatures, and the services that sign with them, where that is not the service's own name."""
_OTHER_HOSTS = {"ListDirectoryBuckets"}
"""Told from another operation by its host alone."""
_BUCKET = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PRESIGNED = frozenset(
    "X-Amz-Algorithm X-Amz-Credential X-Amz-Date X-Amz-Expires X-Amz-SignedHeaders X-Amz-Signature X-Amz-Security-Token".split()
)
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Call:
    """One operation, named as botocore names it: `s3`, `GetObject`. `target` is the path and query to be sent, without a signature."""

    service: str
    operation: str
    target: str

    def __str__(self) -> str:
        return f"{self.service}:{self.operation}"


def read_call(method: str, raw_path: bytes, query: bytes, headers: Mapping[str, str], body: bytes) -> Call:
    """The operation of a request; header names are lower case. Raises Refused `bad_call`."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True)
    except UnicodeDecodeError:
        raise _bad("its query cannot be read") from None
    scope = _SCOPE.search(headers.get("authorization", "")) or _SCOPE.search(
        f"Credential={dict(pairs).get('X-Amz-Credential', '')}"
    )
    if scope is None:
        raise _bad("it is not signed", "sign it with the credentials that are set inside: AWS_ACCESS_KEY_ID")
    pairs = [(name, value) for name, value in pairs if name not in _PRESIGNED]
    for name in _ELSEWHERE.get(scope[2], (scope[2],)):
        found = _service(name)
        if found is not None and (call := found.read(method, raw_path, pairs, headers, body)) is not None:
            return call
    raise _bad(f"{scope[2][:60]} has no such operation: {method} {raw_path[:200].decode('latin-1')}")


class Service:
    """One service's model."""

    def __init__(self, name: str, model: Mapping[str, Any]) -> None:
        metadata = model["metadata"]
        self.name = name
        self.operations: Mapping[str, Any] = model["operations"]
        self._protocols = frozenset(metadata.get("protocols") or [metadata["protocol"]])
        self._prefix = str(metadata.get("targetPrefix", ""))
        gone = {one for one, told in self.operations.items() if told.get("deprecated")} | _OTHER_HOSTS
        self._routes = [Route(one, told, model["shapes"]) for one, told in self.operations.items() if one not in gone]
        self._telling = frozenset(key for route in self._routes for key in route.literal)

    def read(self, method: str, raw_path: bytes, pairs: Pairs, headers: Mapping[str, str], body: bytes) -> Call | None:
        """The operation, or None where it is none of this service. Raises Refused `bad_call` where it could be two."""
        if self._protocols & {"rest-xml", "rest-json"}:
            return self._read_rest(method, raw_path, pairs, headers)
        if method != "POST" or pairs:
            raise _bad("this service takes POST without a query")
        kind, target = headers.get("content-type", "").partition(";")[0].strip().lower(), headers.get("x-amz-target", "")
        if raw_path.startswith(b"/service/") and "smithy-rpc-v2-cbor" in self._protocols:
            operation = raw_path.rpartition(b"/")[2].decode("latin-1")
            fits = raw_path == f"/service/{self._prefix}/operation/{operation}".encode() and not target
            return self._named(operation, raw_path) if fits else None
        if raw_path != b"/":
            raise _bad("this service takes its calls at /")
        if "json" in self._protocols and target:
            prefix, _, operation = target.rpartition(".")
            fits = prefix == self._prefix and kind.startswith("application/x-amz-json")
            return self._named(operation, raw_path) if fits else None
        if self._protocols & {"query", "ec2"} and not target:
            if kind != "application/x-www-form-urlencoded":
                raise _bad("this service takes forms")
            actions = [value for name, value in parse_qsl(body.decode("latin-1"), keep_blank_values=True) if name == "Action"]
            return self._named(actions[0], raw_path) if len(actions) == 1 else None
        return None

    def _named(self, operation: str, raw_path: bytes) -> Call | None:
        return Call(self.name, operation, raw_path.decode("ascii")) if operation in self.operations else None

    def _read_rest(self, method: str, raw_path: bytes, pairs: Pairs, headers: Mapping[str, str]) -> Call | None:
        if headers.get("x-amz-target"):
            raise _bad("this service names no target")
        path, segments = self._segments(raw_path)
        named = dict(pairs)
        if len(named) != len(pairs) and any(name in self._telling for name in named):
            raise _bad("its query says something twice")
        meant = named.pop("x-id", "")
        fitting = [
            route
            for route in self._routes
            if route.fits(method, segments, named, headers, self._telling) and meant in ("", route.operation)
        ]
        if not fitting:
            return None
        most = max(route.needs for route in fitting)
        chosen = [route for route in fitting if route.needs == most]
        if len(chosen) > 1:
            raise _bad("it could be " + " or ".join(route.operation for route in chosen))
        query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs if name != "x-id")
        return Call(self.name, chosen[0].operation, path + (f"?{query}" if query else ""))

    def _segments(self, raw_path: bytes) -> tuple[str, list[bytes]]:
        """A path as it will be sent, and its segments. A key of S3 may be anything, and is nobody's path."""
        try:
            if self.name != "s3":
                path = normal_path(raw_path)
                return path.decode("ascii"), path.strip(b"/").split(b"/") if path != b"/" else []
            bucket, slash, key = raw_path[1:].partition(b"/")
            if not bucket and not key:
                return "/", []
            if not _BUCKET.fullmatch(bucket) or not raw_path.isascii():
                raise ValueError("its bucket has no such name")
        except ValueError as error:
            raise _bad(f"its path cannot be judged: {error}") from None
        return (raw_path if key else raw_path.removesuffix(slash)).decode("ascii"), [bucket, key] if key else [bucket]


class Route:
    """How one operation in REST is called."""

    def __init__(self, operation: str, told: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
        path, _, query = str(told["http"]["requestUri"]).partition("?")
        given: Mapping[str, Any] = shapes[told["input"]["shape"]] if "input" in told else {}
        members: Mapping[str, Any] = given.get("members", {})
        needed = [members[name] for name in given.get("required", ()) if name in members]
        self.operation = operation
        self.literal = dict(parse_qsl(query, keep_blank_values=True))
        self._method = str(told["http"]["method"])
        self._segments = path.strip("/").split("/") if path.strip("/") else []
        self._queries = frozenset(
            one["locationName"] for one in members.values() if one.get("location") == "querystring" and "locationName" in one
        )
        self._any = any(shapes[one["shape"]]["type"] == "map" for one in members.values() if one.get("location") == "querystring")
        self._needed_queries = [one["locationName"] for one in needed if one.get("location") == "querystring"]
        self._needed_headers = [one["locationName"].lower() for one in needed if one.get("location") == "header"]
        self.needs = len(self._needed_queries) + len(self._needed_headers)

    def fits(
        self,
        method: str,
        segments: Sequence[bytes],
        query: Mapping[str, str],
        headers: Mapping[str, str],
        telling: frozenset[str],
    ) -> bool:
        """Whether a request is this operation, by all that tells it from others."""
        return (
            method == self._method
            and self._fits_path(segments)
            and {name for name in query if name in telling and name not in self._queries} <= set(self.literal)
            and all(name in query and value in ("", query[name]) for name, value in self.literal.items())
            and all(self._any or name in self._queries or name in self.literal for name in query)
            and all(name in query for name in self._needed_queries)
            and all(name in headers for name in self._needed_headers)
        )

    def _fits_path(self, segments: Sequence[bytes]) -> bool:
        for at, wanted in enumerate(self._segments):
            if wanted.endswith("+}"):
                return len(segments) > at
            if at >= len(segments) or not (segments[at] if wanted.startswith("{") else wanted.encode() == segments[at]):
                return False
        return len(segments) == len(self._segments)


@functools.lru_cache(maxsize=64)
def _service(name: str) -> Service | None:
    from botocore.exceptions import UnknownServiceError
    from botocore.loaders import Loader

    try:
        return Service(name, Loader().load_service_model(name, "service-2"))
    except UnknownServiceError:
        return None


def plain_body(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """A body that came in AWS's own chunks, without them; what its trailer says becomes headers. Raises Refused `bad_call`."""
    if not headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        return dict(headers), body
    kept = {name: value for name, value in headers.items() if name not in ("x-amz-decoded-content-length", "x-amz-trailer")}
    encodings = [one.strip() for one in kept.pop("content-encoding", "").split(",") if one.strip() not in ("aws-chunked", "")]
    if encodings:
        kept["content-encoding"] = ",".join(encodings)
    parts: list[bytes] = []
    at = 0
    try:
        while True:
            end = body.index(b"\r\n", at)
            size = int(body[at:end].partition(b";")[0], 16)
            at = end + 2
            if not size:
                break
            if body[at + size : at + size + 2] != b"\r\n":
                raise ValueError
            parts.append(body[at : at + size])
            at += size + 2
    except ValueError:
        raise _bad("its body is not in the chunks that its headers announce") from None
    kept |= {name: value for name, value in _trailer(body[at:]) if name.startswith("x-amz-checksum-")}
    return kept, b"".join(parts)


def _trailer(text: bytes) -> Iterator[tuple[str, str]]:
    for line in text.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            yield name.decode("latin-1").strip().lower(), value.decode("latin-1").strip()


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="-_.~")


def bucket_of(target: str) -> str:
    """The bucket that a call of S3 is about."""
    return unquote_to_bytes(target.partition("?")[0][1:].partition("/")[0]).decode("latin-1")


def _bad(why: str, remedy: str = "make it with the AWS client of your language, which finds the door by itself") -> Refused:
    return Refused("bad_call", f"the call cannot be judged: {why}", remedy=remedy)
