"""The api door between real sockets: what leaves, what comes back, what is refused, and that the secret stays outside."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvloop

from gearcase.box.calls import ApiDoor as Declared
from gearcase.box.calls import parse_rate
from gearcase.doors.api import ApiDoor, Bucket
from gearcase.errors import Refused, UsageError
from gearcase.events import ApiCalled, DoorRefused
from gearcase.seams import Housing
from tests.doors.upstream import Facts, Upstream

SECRET = "ghp_canary/4711+never=inside"
ENVIRONMENT = {"TOKEN": SECRET}


class Stand:
    """A door, served on a port of this machine instead of one inside a box."""

    def __init__(self, upstream, pay=None, **keys):
        given = {
            "upstream": upstream,
            "headers": {"Authorization": "Bearer ${TOKEN}"},
            "allow": ["GET,POST,PUT /v1/**"],
            "allow_private": True,
            **keys,
        }
        self.facts = Facts()
        self.door = ApiDoor("github", Declared.model_validate(given), ENVIRONMENT)
        self.paid = 0
        self.most = None

    def pay(self, count):
        self.paid += count
        if self.most is not None and self.paid > self.most:
            raise Refused("budget", "the bytes are used up", remedy="ask for more")

    async def __aenter__(self):
        await self.door.open(Housing(None, self.facts, None, None, None))
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        await self.door.serve("lead", self.door.places[0], listening, self.pay)
        self.client = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_):
        await self.client.close()
        assert await self.door.close() == ()

    async def raw(self, data, wait=1.0):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        heard = bytearray()
        try:
            async with asyncio.timeout(wait):
                while part := await reader.read(65536):
                    heard += part
        except (TimeoutError, ConnectionError):
            pass
        writer.close()
        return bytes(heard)


@asynccontextmanager
async def standing(answer=None, base="", **keys):
    async with Upstream(answer) as upstream, Stand(upstream.url + base, **keys) as stand:
        yield upstream, stand


def scenario(function):
    def run():
        uvloop.run(function())

    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    return run


@scenario
async def test_the_secret_is_put_in_outside_and_the_agents_own_credentials_stay():
    async with standing() as (upstream, stand):
        headers = {
            "Authorization": "Bearer mine",
            "Cookie": "a=b",
            "X-HTTP-Method-Override": "DELETE",
            "X-Forwarded-For": "1.2.3.4",
            "Connection": "x-odd, keep-alive",
            "X-Odd": "1",
            "X-Kept": "yes",
        }
        async with stand.client.get("/v1/a?q=a%20b&x=/", headers=headers) as answer:
            assert (answer.status, await answer.read()) == (200, b"ok")
        assert upstream.heads[0].startswith("GET /v1/a?q=a%20b&x=/ HTTP/1.1\r\n")
        assert upstream.header("authorization") == f"Bearer {SECRET}"
        assert upstream.header("accept-encoding") == "identity"
        assert upstream.header("x-kept") == "yes"
        assert upstream.header("host") == f"127.0.0.1:{upstream.port}"
        for gone in ("cookie", "x-http-method-override", "x-forwarded-for", "x-odd"):
            assert upstream.header(gone) is None
    (call,) = stand.facts.of(ApiCalled)
    assert (call.method, call.path, call.status, call.received, call.why) == ("GET", "/v1/a", 200, 2, "done")
    assert stand.paid == call.sent + 2
    assert SECRET not in repr(stand.facts.events) and SECRET not in repr(vars(stand.door)["_declared"])


@scenario
async def test_a_header_by_another_spelling_does_not_stand_beside_the_doors_own():
    async with standing(headers={"X-Api-Key": "${TOKEN}"}) as (upstream, stand):
        async with stand.client.get("/v1/a", headers={"X_Api_Key": "mine", "x-api-key": "mine"}):
            pass
        assert upstream.header("x-api-key") == SECRET and upstream.header("x_api_key") is None


@scenario
async def test_what_is_not_allowed_does_not_leave():
    async with standing() as (upstream, stand):
        for method, path in (("DELETE", "/v1/a"), ("GET", "/v2/a"), ("GET", "/v1"), ("GET", "/V1/a")):
            async with stand.client.request(method, path) as answer:
                told = (await answer.json())["error"]
                assert (answer.status, told["code"]) == (403, "call_not_allowed")
                assert "GET,POST,PUT /v1/**" in told["remedy"]
        for path in ("/v1/../v2", "/v1/%2e%2e/v2", "/v1//a", "/v1/..%2fv2", "/v1/a%00"):
            heard = await stand.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert heard.startswith(b"HTTP/1.1 400") and b"bad_path" in heard, path
        assert upstream.heads == []
    assert {one.code for one in stand.facts.of(DoorRefused)} == {"call_not_allowed", "bad_path"}
    assert len(stand.facts.of(ApiCalled)) == 9


@scenario
async def test_an_answer_that_echoes_the_secret_is_masked_in_head_and_body_wherever_it_is_cut():
    async def parts(text):
        for at in range(0, len(text), 5):
            yield text[at : at + 5]
            await asyncio.sleep(0)

    def echo(head, body):
        text = f'{{"you sent": "Bearer {SECRET}", "again": "{SECRET}"}}'.encode()
        length = b"HTTP/1.1 200 OK\r\nx-echo: %s\r\ncontent-length: %d\r\n\r\n" % (SECRET.encode(), len(text))
        return parts(length + text)

    async with standing(echo) as (_, stand), stand.client.get("/v1/echo") as answer:
        body = await answer.text()
        assert SECRET not in body and SECRET not in str(answer.headers)
        assert json.loads(body)["again"] == "*" * len(SECRET)


@scenario
async def test_bodies_are_streamed_both_ways():
    """A part of the answer is there before the request's body has ended, and nothing is kept whole."""
    heard_first = asyncio.Event()

    async def big():
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        for _ in range(64):
            yield bytes(1 << 20)

    async with standing(lambda head, body: big() if b"big" in head else b"HTTP/1.1 201 OK\r\ncontent-length: 0\r\n\r\n") as (
        upstream,
        stand,
    ):

        async def slowly():
            for number in range(50):
                yield b"%05d" % number * 2000
                if number == 25:
                    heard_first.set()

        async with stand.client.put("/v1/file", data=slowly()) as answer:
            assert answer.status == 201
        assert heard_first.is_set() and len(upstream.bodies[0]) == 500_000
        async with stand.client.get("/v1/big") as answer:
            total = 0
            async for part in answer.content.iter_any():
                total += len(part)
        assert total == 64 << 20
    assert [one.why for one in stand.facts.of(ApiCalled)] == ["done", "done"]
    assert stand.paid > (64 << 20) + 500_000


@scenario
async def test_events_of_a_stream_come_one_by_one():
    async def events():
        yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        yield b"data: one\n\n"
        await asyncio.sleep(3600)

    async with standing(lambda head, body: events()) as (_, stand), stand.client.get("/v1/events") as answer, asyncio.timeout(5):
        assert await answer.content.readany() == b"data: one\n\n"


@scenario
async def test_redirects_are_not_followed_and_lead_through_the_door_where_they_can():
    to = []

    def moved(head, body):
        return f"HTTP/1.1 302 Found\r\nlocation: {to[-1]}\r\ncontent-length: 0\r\nset-cookie: s=1\r\n\r\n".encode()

    async with standing(moved, "/api", allow=["GET /**"]) as (upstream, stand):
        for place, seen in (
            (f"{upstream.url}/api/v2/x?y=1", "http://github.box/v2/x?y=1"),
            ("/api/next", "http://github.box/next"),
            ("/elsewhere", "/elsewhere"),
            ("https://evil.example/api/x", "https://evil.example/api/x"),
            (f"https://evil.example/?t={SECRET}", f"https://evil.example/?t={'*' * len(SECRET)}"),
        ):
            to.append(place)
            async with stand.client.get("/v1/a", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["location"]) == (302, seen)
                assert "set-cookie" not in answer.headers
        assert len(upstream.heads) == 5 and upstream.heads[0].startswith("GET /api/v1/a ")


@scenario
async def test_the_rate_is_a_limit_that_says_when():
    async with standing(rate="3/m") as (upstream, stand):
        told = []
        for _ in range(5):
            async with stand.client.get("/v1/a") as answer:
                told.append((answer.status, answer.headers.get("retry-after")))
        assert [status for status, _ in told] == [200, 200, 200, 429, 429]
        assert 1 <= int(told[-1][1]) <= 20
        assert len(upstream.heads) == 3


def test_a_bucket_fills_again():
    clock = [0.0]
    bucket = Bucket(parse_rate("2/s"), lambda: clock[0])
    assert [bucket.take() for _ in range(3)] == [0, 0, 0.5]
    clock[0] += 0.5
    assert bucket.take() == 0 and bucket.take() > 0


@scenario
async def test_bytes_are_paid_and_an_empty_account_cuts():
    async def endless():
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            yield bytes(100_000)

    async with standing(lambda head, body: endless()) as (_, stand):
        stand.most = 1 << 20
        with pytest.raises(aiohttp.ClientError):
            async with stand.client.get("/v1/a") as answer:
                await answer.read()
        async with stand.client.get("/v1/a") as answer:
            assert answer.status == 402
    assert [one.why for one in stand.facts.of(ApiCalled)] == ["budget", "budget"]


@scenario
async def test_a_client_that_leaves_ends_the_call_outside():
    left = asyncio.Event()

    async def long():
        try:
            yield b"HTTP/1.1 200 OK\r\n\r\n"
            while True:
                yield b"x"
                await asyncio.sleep(0.01)
        finally:
            left.set()

    async with standing(lambda head, body: long()) as (_, stand):
        async with stand.client.get("/v1/a") as answer:
            await answer.content.readany()
            answer.close()
        async with asyncio.timeout(5):
            await left.wait()
    assert [one.why for one in stand.facts.of(ApiCalled)] == ["cut"]


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 502, "broken_upstream"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n", 502, "broken_upstream"),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(100_000)) + b"\r\n", 502, "broken_upstream"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok", 502, "encoded_answer"),
    ],
)
def test_an_upstream_that_misbehaves_is_told_in_the_doors_words(said, status, code):
    async def run():
        async with standing(lambda head, body: said) as (_, stand), stand.client.get("/v1/a") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)

    uvloop.run(run())


@scenario
async def test_headers_without_end_are_cut_and_cost_no_memory():
    sent = 0

    async def endless():
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\n"
        while sent < 1 << 30:
            sent += 1 << 16
            yield b"x: " + b"y" * ((1 << 16) - 5) + b"\r\n"

    async with standing(lambda head, body: endless()) as (_, stand), stand.client.get("/v1/a") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "broken_upstream")
    assert sent < 16 << 20


@scenario
async def test_an_upstream_that_is_down_private_or_breaks_off():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with Stand(f"http://127.0.0.1:{port}") as stand, stand.client.get("/v1/a") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "unreachable")
    async with Stand("http://localhost:1", allow_private=False) as stand, stand.client.get("/v1/a") as answer:
        told = (await answer.json())["error"]
        assert (answer.status, told["code"]) == (502, "private_address") and "[doors.api.github]" in told["remedy"]
    with pytest.raises(Refused, match="not an address of the public internet"):
        async with Stand("http://127.0.0.1:1", allow_private=False):
            pass

    async def short():
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"

    async with standing(lambda head, body: short()) as (_, stand):
        with pytest.raises(aiohttp.ClientPayloadError):
            async with stand.client.get("/v1/a") as answer:
                await answer.read()
    assert [one.why for one in stand.facts.of(ApiCalled)] == ["broken_off"]


@scenario
async def test_smuggling_does_not_reach_the_upstream():
    async with standing() as (upstream, stand):
        inner = b"DELETE /v2/secret HTTP/1.1\r\nHost: x\r\n\r\n"
        for head in (
            b"Content-Length: %d\r\nTransfer-Encoding: chunked" % (len(inner) + 5),
            b"Content-Length: 5\r\nContent-Length: %d" % (len(inner) + 5),
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding : chunked",
        ):
            await stand.raw(b"POST /v1/a HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n0\r\n\r\n" + inner, 0.5)
        assert not any("/v2/secret" in head for head in upstream.heads)
        assert all("DELETE" not in head for head in upstream.heads)


@scenario
async def test_a_latched_door_holds_what_is_new():
    async with standing() as (upstream, stand):
        stand.door.latch()
        waiting = asyncio.create_task(stand.client.get("/v1/a"))
        await asyncio.sleep(0.2)
        assert upstream.heads == []
        stand.door.unlatch()
        async with await waiting as answer:
            assert answer.status == 200


@pytest.mark.parametrize("environment", [{}, {"TOKEN": ""}, {"TOKEN": "short"}, {"TOKEN": "has a\nline break"}])
def test_a_missing_or_unfit_secret_is_an_error_before_anything_starts(environment):
    declared = Declared.model_validate(
        {"upstream": "https://a.example", "allow": ["GET /**"], "headers": {"Authorization": "Bearer ${TOKEN}"}}
    )
    with pytest.raises(UsageError, match="TOKEN") as raised:
        ApiDoor("github", declared, environment)
    assert raised.value.code in ("missing_secret", "bad_secret")
    assert "short" not in str(raised.value.envelope()) and "line break" not in str(raised.value.envelope())


def test_a_secret_can_stand_in_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    keys = {"upstream": "https://a.example", "allow": ["GET /**"], "headers": {"X-Key": "${TOKEN}"}}
    ApiDoor("github", Declared.model_validate({**keys, "key_files": {"TOKEN": file}}), {})
    file.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        ApiDoor("github", Declared.model_validate({**keys, "key_files": {"TOKEN": file}}), ENVIRONMENT)
