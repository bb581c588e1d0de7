"""A cloud account in a box: boto3 and the AWS CLI unmodified; a live account whose credentials nobody inside can find."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

PACKAGES = Path(boto3.__file__).parents[1]
BIN = Path(sys.executable).parent
REGION = "eu-central-1"
INSIDE = "PYTHONPATH=/given/site-packages PYTHONDONTWRITEBYTECODE=1"


def box(user, text, *programs):
    for name, body in programs:
        (user.folder / name).write_text(body)
    give = json.dumps([name for name, _ in programs])
    file = user.folder / "box.toml"
    file.write_text(f'[files]\ngive = {give}\nsee = ["{PACKAGES}"]\n{text}')
    return file


def executes(user, file, script):
    return user.types("exec", "-f", file, "--", "sh", "-c", script, code=0)


def facts(user, type_):
    return [one for one in user.journal() if one["type"] == type_]


def residue(user):
    return facts(user, "run_ended")[0]["record"]["residue"]


WORK = """
import boto3, io, zipfile
s3 = boto3.client("s3")
s3.create_bucket(Bucket="reports")
s3.put_object(Bucket="reports", Key="2026/a b.txt", Body=b"hello")
s3.upload_fileobj(io.BytesIO(b"x" * 9_000_000), "reports", "big")
print(sorted((one["Key"], one["Size"]) for one in s3.list_objects_v2(Bucket="reports")["Contents"]))
sqs = boto3.client("sqs")
queue = sqs.create_queue(QueueName="work")["QueueUrl"]
sqs.send_message(QueueUrl=queue, MessageBody="first")
print(sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"])
dynamo = boto3.resource("dynamodb")
key = [{"AttributeName": "id", "KeyType": "HASH"}]
table = dynamo.create_table(
    TableName="orders", KeySchema=key, AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}], BillingMode="PAY_PER_REQUEST"
)
table.put_item(Item={"id": "1", "total": 3})
print(table.get_item(Key={"id": "1"})["Item"]["total"])
packed = io.BytesIO()
with zipfile.ZipFile(packed, "w") as file:
    file.writestr("f.py", "def f(event, context): return event")
role = boto3.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
functions = boto3.client("lambda")
functions.create_function(FunctionName="f", Runtime="python3.12", Role=role, Handler="f.f", Code={"ZipFile": packed.getvalue()})
print([one["FunctionName"] for one in functions.list_functions()["Functions"]])
"""


def test_boto3_and_the_aws_cli_work_unmodified_in_a_simulated_account(user):
    file = box(user, "[doors.aws]\n", ("work.py", WORK), ("aws", (BIN / "aws").read_text()))
    script = (
        f"export {INSIDE}; python3 work.py && echo here > here.txt && python3 aws s3 cp here.txt s3://reports/here.txt --quiet && "
        "python3 aws s3 ls s3://reports/ && python3 aws sts get-caller-identity --query Account --output text; gear doors"
    )
    told = executes(user, file, script).out
    assert "[('2026/a b.txt', 5), ('big', 9000000)]\nfirst\n3\n['f']\n" in told
    assert "5 here.txt" in told
    assert "123456789012" in told
    assert "a cloud account (simulated, us-east-1)" in told
    calls = facts(user, "cloud_called")
    assert {("s3", "PutObject"), ("sqs", "SendMessage"), ("dynamodb", "PutItem"), ("lambda", "CreateFunction")} <= {
        (one["service"], one["operation"]) for one in calls
    }
    assert sum(one["estimate"] for one in calls) > 0
    assert residue(user) == []
    assert not facts(user, "cloud_made")


def test_only_what_is_allowed_is_called_and_the_client_shows_why(user):
    work = """
import boto3
from botocore.exceptions import ClientError
for service, operation, arguments in [
    ("s3", "list_buckets", {}), ("s3", "create_bucket", {"Bucket": "b-b"}), ("dynamodb", "list_tables", {}),
    ("sts", "get_caller_identity", {}), ("lambda", "list_functions", {}),
]:
    try:
        getattr(boto3.client(service), operation)(**arguments)
        print("done", operation)
    except ClientError as error:
        print(operation, error)
"""
    file = box(user, '[doors.aws]\nallow = ["s3:List*"]\ncalls = 2\n', ("work.py", work))
    told = executes(user, file, f"{INSIDE} python3 work.py; {INSIDE} python3 work.py").out
    assert told.count("done list_buckets") == 2
    for call in ("s3:CreateBucket", "dynamodb:ListTables", "sts:GetCallerIdentity", "lambda:ListFunctions"):
        assert f"gearcase: {call} is not allowed; allowed here: s3:List*" in told
    assert (
        executes(user, file, f"for n in 1 2 3; do {INSIDE} python3 work.py; done").out.count(
            "the 2 calls of this box are used up"
        )
        == 1
    )


class Account:
    """A server that plays AWS and demands valid signatures; `owner` are the credentials of its operator."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.owner = {}

    def client(self, service):
        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION, config=Config(retries={"total_max_attempts": 1}), **self.owner
        )


@contextmanager
def aws(folder):
    ours = {"PATH": os.environ["PATH"], "HOME": str(folder), "INITIAL_NO_AUTH_ACTION_COUNT": "3"}
    with (folder / "moto.log").open("wb") as log:
        serving = subprocess.Popen([BIN / "moto_server", "-H", "127.0.0.1", "-p", "0"], env=ours, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while "Running on http://127.0.0.1:" not in (told := (folder / "moto.log").read_text()):
            assert serving.poll() is None and time.monotonic() < until, told
            time.sleep(0.1)
        account = Account(int(told.partition("Running on http://127.0.0.1:")[2].split()[0]))
        account.owner = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        iam = account.client("iam")
        iam.create_user(UserName="owner")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="owner", PolicyName="all", PolicyDocument=json.dumps(everything))
        made = iam.create_access_key(UserName="owner")["AccessKey"]
        account.owner = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
        yield account
    finally:
        serving.kill()
        serving.wait()


SUBSCRIBE = """
import boto3, sys
sns = boto3.client("sns", **({"endpoint_url": sys.argv[2]} if len(sys.argv) > 2 else {}))
topic = sns.create_topic(Name="outward")["TopicArn"]
sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=sys.argv[1])
sns.publish(TopicArn=topic, Message="the canary was reached")
print("published")
"""


@contextmanager
def canary():
    """A web server of the host's own; what it was sent."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            """Nothing is said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hears", heard
        finally:
            server.shutdown()


def test_a_simulated_account_reaches_nothing_of_the_host_though_a_subscription_leads_there(user, tmp_path):
    with canary() as (url, heard):
        file = box(user, "[doors.aws]\n", ("subscribe.py", SUBSCRIBE))
        told = executes(user, file, f"{INSIDE} python3 subscribe.py {url} 2>&1 || true; sleep 1").out
        assert {"Subscribe", "Publish"} <= {one["operation"] for one in facts(user, "cloud_called")}, told
        assert heard == []
        with aws(tmp_path) as account:  # the same server where nothing contains it
            (tmp_path / "subscribe.py").write_text(SUBSCRIBE)
            environment = {"PATH": os.environ["PATH"], "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
            environment |= {name.upper(): value for name, value in account.owner.items()}
            command = [sys.executable, tmp_path / "subscribe.py", url, account.url]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            until = time.monotonic() + 10
            while not any(b"the canary was reached" in one for one in heard) and time.monotonic() < until:
                time.sleep(0.05)
        assert any(b"the canary was reached" in one for one in heard), said.stderr


@pytest.fixture
def live(tmp_path, user):
    with aws(tmp_path) as account:
        user.environment |= {name.upper(): value for name, value in account.owner.items()}
        yield account


LIVE = """
import boto3, io, os, sys
from botocore.exceptions import ClientError
s3 = boto3.client("s3")
s3.create_bucket(Bucket="of-the-run", CreateBucketConfiguration={"LocationConstraint": os.environ["AWS_REGION"]})
s3.put_object(Bucket="of-the-run", Key="a b/c+d", Body=b"hello")
s3.upload_fileobj(io.BytesIO(b"x" * 9_000_000), "of-the-run", "big")
print(s3.get_object(Bucket="of-the-run", Key="a b/c+d")["Body"].read())
queue = boto3.client("sqs").create_queue(QueueName="of-the-run")["QueueUrl"]
boto3.client("sqs").create_queue(QueueName="standing")
boto3.client("sns").create_topic(Name="of-the-run")
boto3.client("dynamodb").create_table(
    TableName="of-the-run", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}], BillingMode="PAY_PER_REQUEST",
)
boto3.client("logs").create_log_group(logGroupName="of-the-run")
boto3.client("logs").create_log_stream(logGroupName="of-the-run", logStreamName="s")
try:
    boto3.client("iam").create_user(UserName="evil")
except ClientError as error:
    print(error)
print("inside", sorted(os.environ.get(name) for name in os.environ if "SECRET" in name or "KEY" in name))
"""
TABLE = (
    '[doors.aws]\nmode = "live"\nregion = "eu-central-1"\nallow_private = true\n'
    'allow = ["s3:*", "sqs:*", "sns:*", "dynamodb:*", "logs:*"]\nendpoint = "{}"\n'
)


def test_a_live_account_is_used_by_its_operators_credentials_and_what_the_run_made_is_removed(user, live):
    live.client("sqs").create_queue(QueueName="standing")
    live.client("s3").create_bucket(Bucket="standing", CreateBucketConfiguration={"LocationConstraint": REGION})
    file = box(user, TABLE.format(live.url), ("work.py", LIVE))
    told = executes(user, file, f"{INSIDE} python3 work.py").out
    assert "b'hello'" in told
    assert "iam:CreateUser is not allowed" in told
    secret = live.owner["aws_secret_access_key"]
    assert secret not in told
    everything = b"".join(one.read_bytes() for one in (user.home / "state").rglob("*") if one.is_file())
    assert secret.encode() not in everything
    assert b"CreateBucket" in everything  # what is searched holds what it should
    made = {(one["service"], one["kind"]): one for one in facts(user, "cloud_made")}
    assert {("s3", "bucket"), ("sqs", "queue"), ("sns", "topic"), ("dynamodb", "table"), ("logs", "log group")} <= set(made)
    assert [one["name"] for one in facts(user, "cloud_made") if "standing" in one["name"]] == []
    assert all(one["tagged"] for one in made.values() if one["name"])
    assert [one["error"] for one in facts(user, "cloud_removed") if one["name"]] == [""] * 5
    assert [one["Name"] for one in live.client("s3").list_buckets()["Buckets"]] == ["standing"]
    assert [one.rpartition("/")[2] for one in live.client("sqs").list_queues()["QueueUrls"]] == ["standing"]
    assert live.client("dynamodb").list_tables()["TableNames"] == []
    assert live.client("sns").list_topics()["Topics"] == []
    stayed = residue(user)
    assert [one for one in stayed if "CreateLogStream" in one]  # what cannot be removed is listed
    assert len(stayed) == 1


def test_without_the_door_the_same_credentials_are_refused(user, live):
    """The account demands valid signatures: what boxes hold opens nothing."""
    live.owner = {"aws_access_key_id": "AKIAONLYATOKENNOTAKEY", "aws_secret_access_key": "only-a-token"}
    with pytest.raises(ClientError, match=r"InvalidAccessKeyId|InvalidClientTokenId|UnrecognizedClient"):
        live.client("s3").list_buckets()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('mode = "live"', "needs `allow`"),
        ('profile = "p"', "for a live account"),
        ('allow = ["s3"]', "allow"),
        ('region = "moon"', "region"),
    ],
)
def test_a_door_that_cannot_be_meant_is_refused(user, text, says):
    file = box(user, f"[doors.aws]\n{text}\n")
    done = user.types("box", "check", file, code=2)
    assert says in " ".join(done.err.split())


def test_a_live_account_without_credentials_is_told_before_anything_runs(user):
    file = box(user, TABLE.format("http://127.0.0.1:1"))
    done = user.types("exec", "-f", file, "--", "true", code=2)
    assert "AWS_ACCESS_KEY_ID" in done.err


def test_an_account_that_does_not_answer_is_an_error_that_the_client_shows(user):
    user.environment |= {"AWS_ACCESS_KEY_ID": "AKIAX", "AWS_SECRET_ACCESS_KEY": "some-secret-of-ours"}
    work = (
        "import boto3, botocore\n"
        "c = boto3.client('s3', config=botocore.config.Config(retries={'total_max_attempts': 1}))\n"
        "try: c.list_buckets()\nexcept botocore.exceptions.ClientError as error: print(error)\n"
    )
    file = box(user, TABLE.format("http://127.0.0.1:1"), ("work.py", work))
    told = executes(user, file, f"{INSIDE} python3 work.py").out
    assert "cannot be reached" in told
