"""An upstream over HTTP: what is sent, what comes back, and which failures may have been billed."""

import asyncio
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest

from gearcase.doors.model.upstreams.http import Endpoint, Http
from gearcase.doors.server import Reply, serve
from gearcase.seams import UpstreamDown, UpstreamRequest

BODY = b'{"model":"m"}'


def request(path="/v1/messages", **headers):
    return UpstreamRequest("anthropic", path, "m", headers, BODY, {"model": "m"}, False, "lead", True, 0)


@asynccontextmanager
async def provider(answer, **endpoint):
    """An upstream towards a server that answers with `answer` and keeps what it got."""
    got = []

    async def handle(asked):
        got.append(asked)
        return answer(asked) if callable(answer) else answer

    sock = socket.create_server(("127.0.0.1", 0))
    server = await serve(sock, handle)
    upstream = Http(Endpoint(f"http://127.0.0.1:{sock.getsockname()[1]}/v1", **endpoint))
    try:
        yield upstream, got, server
    finally:
        await upstream.close()
        await server.close()


async def ask(upstream, asked=None):
    response = await upstream.send(asked or request())
    return (
        response.status,
        {name.lower(): value for name, value in response.headers.items()},
        b"".join([chunk async for chunk in response.chunks]),
    )


def test_the_body_arrives_byte_for_byte_below_the_base_with_the_key():
    async def whole():
        async with provider(Reply(200, {"x-request-id": "r"}, b"{}"), key="sk", key_header="x-api-key") as (upstream, got, _):
            told = await ask(upstream, request(**{"anthropic-version": "2023-06-01"}))
            return told, got[0]

    (status, headers, body), asked = asyncio.run(whole())
    assert (status, body, headers["x-request-id"]) == (200, b"{}", "r")
    assert (asked.method, asked.path, asked.body) == ("POST", "/v1/messages", BODY)
    assert asked.header(b"x-api-key") == b"sk"
    assert asked.header(b"anthropic-version") == b"2023-06-01"
    assert asked.header(b"content-type") == b"application/json"
    assert asked.header(b"accept-encoding") == b"identity"
    assert asked.header(b"authorization") == b""


def test_a_bearer_key_is_sent_as_one_and_no_key_as_none():
    async def sent(key):
        async with provider(Reply(200, {}, b"{}"), key=key) as (upstream, got, _):
            await ask(upstream)
            return got[0].header(b"authorization")

    assert asyncio.run(sent("sk")) == b"Bearer sk"
    assert asyncio.run(sent("")) == b""


@pytest.mark.parametrize(("stream", "query"), [(False, b""), (True, b"alt=sse")])
def test_gemini_has_an_address_a_header_and_a_query_of_its_own_and_a_name_never_leads_elsewhere(stream, query):
    path = "/v1beta/models/{model}:generateContent"
    asked = UpstreamRequest("gemini", path, "m/../x?y#z:w", {}, BODY, {}, stream, "lead", True, 0)

    async def whole():
        async with provider(Reply(200, {}, b"{}"), key="sk") as (upstream, got, _):
            there = upstream._endpoint.base.removesuffix("/v1")
            own = Http(Endpoint("http://127.0.0.1:1/v1", "sk", gemini=f"{there}/v1beta"))
            await ask(own, asked)
            await own.close()
            return got[0]

    got = asyncio.run(whole())
    assert (got.path, got.query) == ("/v1beta/models/m/../x?y#z:w:generateContent", query), "percent-decoded by the server"
    assert got.header(b"x-goog-api-key") == b"sk"
    assert got.header(b"authorization") == b""


def test_a_redirect_is_not_followed_so_that_the_key_goes_nowhere_else():
    async def whole():
        async with provider(Reply(200, {}, b"{}")) as (elsewhere, others, _):
            there = elsewhere._endpoint.base
            async with provider(Reply(307, {"location": f"{there}/messages"}, b""), key="sk") as (upstream, _, _):
                return (await ask(upstream))[0], others

    assert asyncio.run(whole()) == (307, [])


def test_cookies_are_not_kept():
    async def whole():
        async with provider(Reply(200, {"set-cookie": "a=b"}, b"{}")) as (upstream, got, _):
            await ask(upstream)
            await ask(upstream)
            return got[1].header(b"cookie")

    assert asyncio.run(whole()) == b""


def test_a_compressed_answer_is_passed_on_as_it_came():
    async def whole():
        async with provider(Reply(200, {"content-encoding": "gzip"}, b"\x1f\x8bnot unpacked")) as (upstream, _, _):
            return (await ask(upstream))[2]

    assert asyncio.run(whole()) == b"\x1f\x8bnot unpacked"


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ("http://127.0.0.1:{port}/v1", "/v1 cannot be reached: connection refused"),
        ("http://no.such.host.invalid/v1", "the name no.such.host.invalid is not known"),
        ("http://[/v1", "cannot be reached"),
    ],
)
def test_what_could_not_be_reached_was_provably_not_sent_and_is_told_in_plain_words(base, why):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    async def whole():
        upstream = Http(Endpoint(base.format(port=port)))
        try:
            with pytest.raises(UpstreamDown) as caught:
                await upstream.send(request())
            assert why in str(caught.value)
        finally:
            await upstream.close()

    asyncio.run(whole())


def test_a_server_that_speaks_no_tls_was_provably_not_sent_anything():
    async def whole():
        async with provider(Reply(200, {}, b"{}")) as (plain, got, _):
            upstream = Http(Endpoint(plain._endpoint.base.replace("http:", "https:")))
            with pytest.raises(UpstreamDown):
                await upstream.send(request())
            await upstream.close()
            return got

    assert asyncio.run(whole()) == []


def test_a_proxy_that_refuses_was_not_sent_anything():
    async def whole():
        async with provider(Reply(407, {}, b"")) as (proxy, got, _):
            upstream = Http(Endpoint("https://api.example/v1", proxy=proxy._endpoint.base.removesuffix("/v1")))
            with pytest.raises(UpstreamDown):
                await upstream.send(request())
            await upstream.close()
            return [asked.method for asked in got]

    assert "POST" not in asyncio.run(whole())


@asynccontextmanager
async def raw_server(tls=None):
    """A server that keeps the first line of each request and answers with an empty object; yields its port and the lines."""
    lines = []

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        lines.append(head.partition(b"\r\n")[0].decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], lines
    finally:
        server.close()


def test_a_proxy_carries_what_is_asked():
    async def whole():
        async with raw_server() as (port, lines):
            upstream = Http(Endpoint("http://api.example/v1", proxy=f"http://127.0.0.1:{port}"))
            status, _, body = await ask(upstream)
            await upstream.close()
            return status, body, lines

    assert asyncio.run(whole()) == (200, b"{}", ["POST http://api.example/v1/messages HTTP/1.1"])


def test_a_server_with_a_certificate_of_an_authority_of_ones_own_is_trusted_where_it_is_named(tmp_path):
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=own"
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([*make.split(), *options], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)

    async def whole():
        async with raw_server(tls) as (port, lines):
            trusting = Http(Endpoint(f"https://127.0.0.1:{port}/v1", ca=certificate))
            status, _, _ = await ask(trusting)
            await trusting.close()
            other = Http(Endpoint(f"https://127.0.0.1:{port}/v1"))
            with pytest.raises(UpstreamDown):
                await other.send(request())
            await other.close()
            return status, lines

    assert asyncio.run(whole()) == (200, ["POST /v1/messages HTTP/1.1"])


def test_an_answer_that_never_begins_may_have_been_billed():
    """The connection was made and the request written: this must not look like an upstream that is down."""

    async def whole():
        async def drop(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(drop, "127.0.0.1", 0)
        upstream = Http(Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"))
        with pytest.raises(ConnectionError) as raised:
            await upstream.send(request())
        await upstream.close()
        server.close()
        await server.wait_closed()
        return raised.value

    assert not isinstance(asyncio.run(whole()), UpstreamDown)


def test_letting_go_of_an_answer_closes_its_connection():
    async def endless():
        while True:
            yield b"data: {}\n\n"
            await asyncio.sleep(0.001)

    async def whole():
        async with provider(lambda _: Reply(200, {}, endless())) as (upstream, _, server):
            response = await upstream.send(request())
            await anext(response.chunks)
            await response.chunks.aclose()
            async with asyncio.timeout(30):
                while server.connections:
                    await asyncio.sleep(0.005)

    asyncio.run(whole())
