"""What a run made in a live account: tagged with the run, removed in the end, or listed where it cannot be.

Kinds that are not known here are on record all the same, and stay: their removal is the operator's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from gearcase.doors.aws.account import Account
from gearcase.doors.aws.calls import Call, bucket_of

_CREATING = ("Create", "Run", "Allocate", "Start", "Register", "Request", "Restore", "Copy", "Import")
_GONE = ("NotFound", "NoSuch", "NonExistent", "DoesNotExist")
_TAG = "gearcase-run"

Told = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resource: how what was made is named, how it is tagged and removed.

    `was_there` tells whether a call would only find what exists already; such a thing is not the run's, and is never removed. None where
    the service itself refuses to make something twice.
    """

    noun: str
    name: Callable[[Call, bytes, Told], str]
    tag: Callable[[Any, str, str], object]
    remove: Callable[[Any, str], object]
    was_there: Callable[[Any, Call, bytes], bool] | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """One resource. `kind` is None where only its making is known."""

    service: str
    noun: str
    name: str
    kind: Kind | None

    def __str__(self) -> str:
        return f"{self.service} {self.noun} {self.name}".strip()


def _remove_bucket(client: Any, name: str) -> None:
    for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
        found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        if found:
            gone = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]
            client.delete_objects(Bucket=name, Delete={"Objects": gone, "Quiet": True})
    client.delete_bucket(Bucket=name)


def _has_bucket(client: Any, call: Call, body: bytes) -> bool:
    return _answers(lambda: client.head_bucket(Bucket=bucket_of(call.target)), "404")


def _has_queue(client: Any, call: Call, body: bytes) -> bool:
    return _answers(lambda: client.get_queue_url(QueueName=_json(body, "QueueName")), *_GONE)


def _has_topic(client: Any, call: Call, body: bytes) -> bool:
    name = dict(parse_qsl(body.decode("latin-1"))).get("Name", "")
    pages = client.get_paginator("list_topics").paginate()
    return any(topic["TopicArn"].endswith(f":{name}") for page in pages for topic in page["Topics"])


def _answers(ask: Callable[[], object], *gone: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        ask()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        return not any(word in code for word in gone)
    return True


def _json(body: bytes, key: str) -> str:
    import orjson

    return str(orjson.loads(body)[key])


KINDS: Mapping[str, Kind] = {
    "s3:CreateBucket": Kind(
        "bucket",
        lambda call, body, told: bucket_of(call.target),
        lambda client, name, run: client.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": _TAG, "Value": run}]}),
        _remove_bucket,
        _has_bucket,
    ),
    "sqs:CreateQueue": Kind(
        "queue",
        lambda call, body, told: told["QueueUrl"],
        lambda client, name, run: client.tag_queue(QueueUrl=name, Tags={_TAG: run}),
        lambda client, name: client.delete_queue(QueueUrl=name),
        _has_queue,
    ),
    "sns:CreateTopic": Kind(
        "topic",
        lambda call, body, told: told["TopicArn"],
        lambda client, name, run: client.tag_resource(ResourceArn=name, Tags=[{"Key": _TAG, "Value": run}]),
        lambda client, name: client.delete_topic(TopicArn=name),
        _has_topic,
    ),
    "dynamodb:CreateTable": Kind(
        "table",
        lambda call, body, told: told["TableDescription"]["TableArn"],
        lambda client, name, run: client.tag_resource(ResourceArn=name, Tags=[{"Key": _TAG, "Value": run}]),
        lambda client, name: client.delete_table(TableName=name.rpartition("/")[2]),
    ),
    "lambda:CreateFunction": Kind(
        "function",
        lambda call, body, told: told["FunctionArn"],
        lambda client, name, run: client.tag_resource(Resource=name, Tags={_TAG: run}),
        lambda client, name: client.delete_function(FunctionName=name),
    ),
    "logs:CreateLogGroup": Kind(
        "log group",
        lambda call, body, told: _json(body, "logGroupName"),
        lambda client, name, run: client.tag_log_group(logGroupName=name, tags={_TAG: run}),
        lambda client, name: client.delete_log_group(logGroupName=name),
    ),
}


def makes(call: Call) -> bool:
    """Whether a call may leave something behind that costs money."""
    return str(call) in KINDS or (
        call.operation.startswith(_CREATING) and str(call) not in ("s3:CreateMultipartUpload", "s3:CopyObject")
    )


def was_there(account: Account, call: Call, request: bytes) -> bool:
    """Whether what a call asks for exists before it is made; also where that cannot be told. Blocking."""
    from botocore.exceptions import BotoCoreError, ClientError

    kind = KINDS.get(str(call))
    if kind is None or kind.was_there is None:
        return False
    try:
        return kind.was_there(account.client(call.service), call, request)
    except (BotoCoreError, ClientError, ValueError, KeyError):
        return True


def read_made(account: Account, call: Call, request: bytes, status: int, headers: Mapping[str, str], answer: bytes) -> Made:
    """What a call that succeeded has made."""
    kind = KINDS.get(str(call))
    if kind is None:
        return Made(call.service, call.operation, "", None)
    return Made(call.service, kind.noun, kind.name(call, request, account.parse(call, status, headers, answer)), kind)


def tag(account: Account, made: Made, run: str) -> str:
    """Tag it; returns why that failed, or nothing. Blocking."""
    from botocore.exceptions import BotoCoreError, ClientError

    if made.kind is None:
        return "this kind cannot be tagged here"
    try:
        made.kind.tag(account.client(made.service), made.name, run)
    except (BotoCoreError, ClientError) as error:
        return str(error)[:300]
    return ""


def remove(account: Account, made: Made) -> str:
    """Remove it; returns why that failed, or nothing where it is gone. Blocking."""
    from botocore.exceptions import BotoCoreError, ClientError

    if made.kind is None:
        return "this kind cannot be removed here"
    try:
        made.kind.remove(account.client(made.service), made.name)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        return "" if any(word in code for word in _GONE) else str(error)[:300]
    except BotoCoreError as error:
        return str(error)[:300]
    return ""
