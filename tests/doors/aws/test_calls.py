"""Which operation a request is: what real clients send is told, what could mean two things is refused."""

import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from gearcase.doors.aws.calls import plain_body, read_call
from gearcase.errors import Refused

SCOPE = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"
JSON = "application/x-amz-json-1.0"
FORM = "application/x-www-form-urlencoded"


def read(service, method, path, query=b"", body=b"", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_call(method, path, query, {"authorization": SCOPE.format(service), **named}, body)


CASES = [
    ("s3", "list_buckets", {}),
    ("s3", "create_bucket", {"Bucket": "bucket"}),
    ("s3", "put_object", {"Bucket": "bucket", "Key": "a/../b c?d", "Body": b"x"}),
    ("s3", "copy_object", {"Bucket": "bucket", "Key": "k", "CopySource": "other/k"}),
    ("s3", "upload_part", {"Bucket": "bucket", "Key": "k", "UploadId": "u", "PartNumber": 1, "Body": b"x"}),
    ("s3", "upload_part_copy", {"Bucket": "bucket", "Key": "k", "UploadId": "u", "PartNumber": 1, "CopySource": "o/k"}),
    ("s3", "list_objects_v2", {"Bucket": "bucket", "Prefix": "a&policy="}),
    ("s3", "put_bucket_policy", {"Bucket": "bucket", "Policy": "{}"}),
    ("s3", "put_object_acl", {"Bucket": "bucket", "Key": "k", "ACL": "public-read"}),
    ("s3", "delete_objects", {"Bucket": "bucket", "Delete": {"Objects": [{"Key": "k"}]}}),
    ("s3", "abort_multipart_upload", {"Bucket": "bucket", "Key": "k", "UploadId": "u"}),
    ("s3", "get_bucket_notification_configuration", {"Bucket": "bucket"}),
    ("dynamodb", "delete_table", {"TableName": "t"}),
    ("dynamodbstreams", "list_streams", {}),
    ("sqs", "create_queue", {"QueueName": "q"}),
    ("sns", "create_topic", {"Name": "t"}),
    ("sts", "get_caller_identity", {}),
    ("ec2", "terminate_instances", {"InstanceIds": ["i-1"]}),
    ("lambda", "invoke", {"FunctionName": "f", "Payload": b"{}"}),
    ("lambda", "list_functions", {}),
    ("cloudwatch", "list_metrics", {}),
    ("stepfunctions", "list_state_machines", {}),
    ("logs", "create_log_group", {"logGroupName": "g"}),
]


@pytest.mark.parametrize(("service", "operation", "arguments"), CASES)
def test_what_a_real_client_sends_is_told(service, operation, arguments):
    client = botocore.session.get_session().create_client(
        service,
        region_name="us-east-1",
        endpoint_url="http://aws.box",
        aws_access_key_id="AKIA",
        aws_secret_access_key="x",
        config=Config(parameter_validation=False, retries={"total_max_attempts": 1}),
    )
    told = []

    def stop(request, **_):
        path, _, query = request.url.removeprefix("http://aws.box").partition("?")
        headers = {name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()}
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        told.append(read_call(request.method, path.encode(), query.encode(), headers, body))
        return AWSResponse(request.url, 500, {}, None)

    client.meta.events.register("before-send", stop)
    with pytest.raises(Exception):  # noqa: B017  whatever the client makes of no answer
        getattr(client, operation)(**arguments)
    assert (told[0].service, told[0].operation.lower()) == (service, operation.replace("_", ""))


@pytest.mark.parametrize(
    "request_",
    [
        lambda: read_call("GET", b"/", b"", {}, b""),  # nobody's
        lambda: read("s3", "GET", b"/bucket", b"list-type=2&policy"),  # a list, and the policy
        lambda: read("s3", "GET", b"/bucket", b"acl&policy="),
        lambda: read("s3", "GET", b"/bucket/k", b"acl&acl"),
        lambda: read("s3", "GET", b"/bucket/k", b"x-id=PutObject"),
        lambda: read("s3", "PUT", b"/../k"),
        lambda: read("s3", "POST", b"/bucket"),  # a form's upload, which is no operation
        lambda: read("s3", "GET", b"/bucket/k", b"response-content-type=a&%61cl"),
        lambda: read(
            "dynamodb", "POST", b"/", b"Action=DeleteTable", x_amz_target="DynamoDB_20120810.ListTables", content_type=JSON
        ),
        lambda: read("dynamodb", "POST", b"/", x_amz_target="Other.ListTables", content_type=JSON),
        lambda: read("dynamodb", "GET", b"/", x_amz_target="DynamoDB_20120810.ListTables", content_type=JSON),
        lambda: read("sts", "POST", b"/", b"", b"Action=GetCallerIdentity&Action=AssumeRole", content_type=FORM),
        lambda: read("sts", "POST", b"/", b"", b"Action=GetCallerIdentity&%41ction=AssumeRole", content_type=FORM),
        lambda: read("sts", "POST", b"/", b"Action=AssumeRole", b"Action=GetCallerIdentity", content_type=FORM),
        lambda: read("sts", "POST", b"/", b"", b"Action=GetCallerIdentity", content_type=FORM, x_amz_target="X.AssumeRole"),
        lambda: read("sts", "POST", b"/", b"", b"Action=GetCallerIdentity", content_type="multipart/form-data"),
        lambda: read("lambda", "GET", b"/2015-03-31/functions/../functions"),
        lambda: read("lambda", "GET", b"/2015-03-31/functions/%2e%2e"),
        lambda: read("nosuchservice", "GET", b"/"),
        lambda: read("../../etc", "GET", b"/"),
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused(request_):
    with pytest.raises(Refused) as caught:
        request_()
    assert caught.value.code == "bad_call"


def test_what_is_sent_on_holds_no_signature_of_the_client():
    call = read_call(
        "GET",
        b"/bucket/k",
        b"versionId=1&X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Signature=0",
        {},
        b"",
    )
    assert (str(call), call.target) == ("s3:GetObject", "/bucket/k?versionId=1")


def test_a_body_in_awss_own_chunks_is_read():
    body = b"5;chunk-signature=aa\r\nhello\r\n1\r\n!\r\n0\r\nx-amz-checksum-crc32:AAAA\r\nx-other:1\r\n\r\n"
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "content-encoding": "aws-chunked,gzip",
        "x-amz-decoded-content-length": "6",
    }
    kept, plain = plain_body(headers, body)
    assert plain == b"hello!"
    assert kept["content-encoding"] == "gzip"
    assert kept["x-amz-checksum-crc32"] == "AAAA"
    assert "x-other" not in kept
    assert "x-amz-decoded-content-length" not in kept
    for broken in (body[:8], b"zz\r\n", body.replace(b"hello\r\n", b"hello!!")):
        with pytest.raises(Refused):
            plain_body(headers, broken)
