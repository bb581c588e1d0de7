"""Hosts whose TLS is opened, between real sockets: where the secret goes, where it does not, and what of it comes back."""

import asyncio
import base64
import json
import ssl
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from gearcase.box.hosts import parse_rule
from gearcase.box.secrets import HostSecret
from gearcase.doors.authority import Authority
from gearcase.doors.opened import OpenedHosts
from gearcase.errors import UsageError
from gearcase.events import ConnectionClosed, ConnectionOpened, HostCalled
from tests.doors.standing import Stand, run
from tests.doors.upstream import Upstream

SECRET = "ghp_canary/4711+never=inside"
HOST, OTHER = "api.test-name", "other.test-name"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Tool:
    """A program inside: speaks TLS to the seat, trusts the run's authority, holds the placeholder."""

    def __init__(self, stand, opened, upstream):
        self.stand, self.opened, self.upstream = stand, opened, upstream
        self.token = opened.environment["TOKEN"]

    def context(self, trusted=None):
        made = ssl.create_default_context(cadata=(trusted or self.opened.certificate).decode())
        made.set_alpn_protocols(["h2", "http/1.1"])
        return made

    async def raw(self, data, host=HOST, port=443, wait=3.0):
        """What comes back for these bytes within TLS, until the connection ends or `wait` seconds pass."""
        async with self.stand.client(port, host) as (reader, writer):
            await writer.start_tls(self.context(), server_hostname=host)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            writer.write(data)
            heard = bytearray()
            try:
                async with asyncio.timeout(wait):
                    while part := await reader.read(65536):
                        heard += part
            except (TimeoutError, ConnectionError):
                pass
            return bytes(heard)

    async def call(self, *headers, target="/x?page=2", method="GET", body=b"", host=HOST):
        """One request; returns status, head and body of the answer."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        heard = await self.raw("\r\n".join([*lines, "", ""]).encode() + body, host)
        head, _, rest = heard.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), head.decode(), rest


@asynccontextmanager
async def standing(answer=None, tmp=None, allow=(), **keys):
    """A tool, and a host outside that answers like that. Both names lead to it."""
    authority = Authority([HOST, OTHER])
    ca = tmp / "ca.pem"
    ca.write_bytes(authority.certificate)
    async with Upstream(answer, authority.server(HOST)) as upstream:
        declared = HostSecret.model_validate({"env": "TOKEN", "hosts": [HOST], "ca": ca, **keys})
        opened = OpenedHosts({"github": declared}, {"TOKEN": SECRET})
        place = f"127.0.0.1:{upstream.port}"
        stand = Stand(*allow, hosts={HOST: place, OTHER: place}, egress=10 << 20, opened=opened)
        try:
            yield Tool(stand, opened, upstream)
        finally:
            await stand.close()


def test_the_secret_is_put_in_where_the_box_says_so_and_nowhere_else(tmp_path):
    async def scenario():
        async with standing(tmp=tmp_path) as tool:
            assert SECRET not in str(tool.opened.environment) and tool.token.startswith("ghp_")
            status, _, body = await tool.call(f"Authorization: Bearer {tool.token}")
            assert (status, body) == (200, b"ok")
            assert tool.upstream.header("authorization") == f"Bearer {SECRET}" and tool.upstream.header("host") == HOST
            assert tool.upstream.header("accept-encoding") == "identity"
            assert tool.upstream.heads[-1].startswith("GET /x?page=2 HTTP/1.1")
            pair = base64.b64encode(f"git:{tool.token}".encode()).decode()
            await tool.call(f"Authorization: Basic {pair}")
            assert tool.upstream.header("authorization") == "Basic " + base64.b64encode(f"git:{SECRET}".encode()).decode()

            # In an address, another header, a body: it stays what it is.
            before = len(tool.upstream.heads)
            await tool.call(
                f"User-Agent: {tool.token}",
                f"Cookie: a={tool.token}",
                target=f"/{tool.token}?t={tool.token}",
                method="POST",
                body=tool.token.encode(),
            )
            assert len(tool.upstream.heads) == before + 1
            said = tool.upstream.heads[-1].encode() + tool.upstream.bodies[-1]
            assert SECRET.encode() not in said and said.count(tool.token.encode()) == 5

            calls = tool.stand.facts.of(HostCalled)
            assert [(one.host, one.method, one.path, one.secrets, one.status, one.why) for one in calls[:2]] == [
                (HOST, "GET", "/x", ["github"], 200, "done")
            ] * 2
            assert calls[2].secrets == [] and SECRET not in str(tool.stand.facts.events)
            tool.stand.meter.close()
            spent = tool.stand.ledger.balance("lead", "egress").spent
            assert spent >= sum(one.sent + one.received for one in calls) > 300

    run(scenario)


def test_no_other_host_is_given_it_and_no_other_tls_is_opened(tmp_path):
    async def scenario():
        async with standing(tmp=tmp_path, allow=[OTHER]) as tool:
            async with tool.stand.client(443, OTHER) as (reader, writer):
                # The server outside has a certificate of its own, which the tool does not trust: it reads it unopened.
                with pytest.raises(ssl.SSLCertVerificationError):
                    await writer.start_tls(tool.context(), server_hostname=OTHER)
            trusted = (tmp_path / "ca.pem").read_bytes()
            async with tool.stand.client(443, OTHER) as (reader, writer):
                context = tool.context(trusted)
                context.check_hostname = False  # one server plays both hosts
                await writer.start_tls(context, server_hostname=OTHER)
                writer.write(f"GET / HTTP/1.1\r\nHost: {OTHER}\r\nAuthorization: Bearer {tool.token}\r\n\r\n".encode())
                assert await reader.readexactly(len(OK)) == OK
            assert tool.upstream.header("authorization") == f"Bearer {tool.token}"
            await tool.call(f"Authorization: Bearer {tool.token}")  # the positive control
            assert tool.upstream.header("authorization") == f"Bearer {SECRET}"
            opened = tool.stand.facts.of(ConnectionOpened)
            assert [(one.name, one.address) for one in opened] == [(OTHER, "127.0.0.1")] * 2 + [(HOST, "")]

    run(scenario)


ECHOES = {
    "raw": SECRET,
    "base64": base64.b64encode(f"git:{SECRET}".encode()).decode(),
    "URL-encoded": quote(SECRET, safe=""),
    "JSON": json.dumps(SECRET),
    "hexadecimal": SECRET.encode().hex(),
}


@pytest.mark.parametrize("how", ECHOES)
def test_an_answer_that_echoes_it_is_masked_in_headers_and_body(tmp_path, how):
    async def scenario():
        said = ECHOES[how]

        def answer(head, body):
            text = f"before {said} after"
            return (
                f"HTTP/1.1 401 No\r\nx-echo: {said}\r\nset-cookie: s={said}\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()
            )

        async with standing(answer, tmp_path) as tool:
            status, head, body = await tool.call(f"Authorization: Bearer {tool.token}")
            assert status == 401 and "x-echo: " in head and "set-cookie" not in head
            core = said.strip('"')
            assert core not in head and core.encode() not in body and body.startswith(b"before ") and body.endswith(b" after")
            assert body.count(b"*") >= len(SECRET) - 3

    run(scenario)


def test_what_is_no_secret_comes_as_it_is_and_redirects_are_the_clients(tmp_path):
    async def scenario():
        def answer(head, body):
            text = b"ghp_canary/4712+never=inside"
            return b"HTTP/1.1 302 Found\r\nlocation: https://evil.example/x\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text)

        async with standing(answer, tmp_path) as tool:
            status, head, body = await tool.call()
            assert (status, body) == (302, b"ghp_canary/4712+never=inside") and "location: https://evil.example/x" in head
            assert len(tool.upstream.heads) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("GET / HTTP/1.1", ["Host: evil.example"], 421),
        ("GET / HTTP/1.1", [f"Host: {OTHER}"], 421),
        ("GET / HTTP/1.1", [f"Host: {HOST}@evil.example"], 421),
        ("GET / HTTP/1.1", [f"Host: {HOST}:444"], 421),
        ("GET / HTTP/1.1", [f"Host: {HOST}", "Host: evil.example"], 400),
        ("GET / HTTP/1.1", [f"Host: {HOST}", f"host: {HOST}"], 400),
        ("GET / HTTP/1.1", [], 400),
        ("GET https://evil.example/ HTTP/1.1", [f"Host: {HOST}"], 400),
        ("GET /a#b HTTP/1.1", [f"Host: {HOST}"], 400),
        ("OPTIONS * HTTP/1.1", [f"Host: {HOST}"], 400),
        ("TRACE / HTTP/1.1", [f"Host: {HOST}"], 403),
        ("GET /ws HTTP/1.1", [f"Host: {HOST}", "Connection: Upgrade", "Upgrade: websocket"], 403),
        ("POST / HTTP/1.1", [f"Host: {HOST}", "Content-Length: 5", "Transfer-Encoding: chunked"], 400),
        ("POST / HTTP/1.1", [f"Host: {HOST}", "Content-Length: 5", "Content-Length: 6"], 400),
        ("POST / HTTP/1.1", [f"Host: {HOST}", "Transfer-Encoding: gzip"], 400),
        ("GET / HTTP/1.1", [f"Host: {HOST}", "X: " + "x" * 70_000], 400),
        ("GET / HTTP/1.1", [f"Host: {HOST}", " folded: x"], 400),
        ("nonsense", [], 400),
    ],
)
def test_what_is_no_plain_call_of_the_host_does_not_reach_it(tmp_path, line, headers, status):
    async def scenario():
        async with standing(tmp=tmp_path) as tool:
            data = "\r\n".join([line, *headers, f"Authorization: Bearer {tool.token}", "", ""]).encode()
            hidden = f"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() if line.startswith("POST") else b""
            heard = await tool.raw(data + hidden, wait=0.5)
            assert heard.startswith(b"HTTP/1.1 %d" % status), heard
            assert not [head for head in tool.upstream.heads if "smuggled" in head or SECRET in head]
            assert (await tool.call(f"Authorization: Bearer {tool.token}"))[0] == 200  # the positive control
            assert SECRET in tool.upstream.heads[-1]

    run(scenario)


def test_targets_leave_as_they_were_sent(tmp_path):
    async def scenario():
        async with standing(tmp=tmp_path) as tool:
            for target in (
                "/a/../b",
                "//evil.example/x",
                "/a%2Fb%2e%2E?q=%41+b&c=d?e",
                "/a;b=c,d@e:f!$'()*",
                '/\\x"<>',
                "/?",
                "/x?",
            ):
                await tool.call(target=target)
                assert tool.upstream.heads[-1].split(" ")[1].removesuffix("?") == target.removesuffix("?")

    run(scenario)


def test_a_host_whose_certificate_is_not_trusted_outside_is_not_called(tmp_path):
    async def scenario():
        async with standing(tmp=tmp_path, ca=None) as tool:
            status, _, body = await tool.call(f"Authorization: Bearer {tool.token}")
            assert (status, json.loads(body)["error"]["code"]) == (502, "bad_certificate") and not tool.upstream.heads
        async with standing(tmp=tmp_path, hosts=[OTHER]) as tool:  # trusted, but for the other name
            status, _, body = await tool.call(host=OTHER)
            assert (status, json.loads(body)["error"]["code"]) == (502, "bad_certificate") and not tool.upstream.heads

    run(scenario)


def test_ranges_are_not_asked_for_and_an_encoded_answer_is_refused(tmp_path):
    async def scenario():
        async with standing(
            lambda *_: b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok", tmp_path
        ) as tool:
            status, _, body = await tool.call("Range: bytes=0-3", 'If-Range: "x"', "Accept-Encoding: gzip")
            assert (status, json.loads(body)["error"]["code"]) == (502, "encoded_answer")
            assert not {"range", "if-range"} & {line.partition(":")[0].lower() for line in tool.upstream.heads[-1].split("\r\n")}

    run(scenario)


def test_a_client_that_does_not_trust_the_run_is_on_record(tmp_path):
    async def scenario():
        async with standing(tmp=tmp_path) as tool:
            async with tool.stand.client(443, HOST) as (_, writer):
                with pytest.raises(ssl.SSLCertVerificationError):
                    await writer.start_tls(tool.context(Authority(["x.example"]).certificate), server_hostname=HOST)
                await asyncio.sleep(0.2)
            assert tool.stand.refusals() == ["tls_failed"]
            heard, state = await tool.stand.says(b"GET / HTTP/1.1\r\nHost: api.test-name\r\n\r\n", 443, HOST)
            assert b"403" in heard and "wrong_protocol" in tool.stand.refusals() and state == "closed"

    run(scenario)


def test_a_rule_that_is_taken_away_cuts_it_and_latched_nothing_new_leaves(tmp_path):
    async def scenario():
        async with standing(tmp=tmp_path) as tool:
            request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            async with tool.stand.client(443, HOST) as (reader, writer):
                await writer.start_tls(tool.context(), server_hostname=HOST)
                writer.write(request)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
                tool.stand.door.latch()
                writer.write(request)
                await asyncio.sleep(0.2)
                assert len(tool.upstream.heads) == 1
                tool.stand.door.unlatch()
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
                tool.stand.door.remove(parse_rule(f"{HOST}:443"))
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await asyncio.wait_for(reader.readexactly(1), 5)
            assert [one.why for one in tool.stand.facts.of(ConnectionClosed)] == ["not_allowed"]
            assert await tool.stand.seat.find(HOST) is None

    run(scenario)


def test_when_the_bytes_are_used_up_calls_are_refused(tmp_path):
    async def scenario():
        async def big():
            yield b"HTTP/1.1 200 OK\r\n\r\n"
            for _ in range(200):
                yield bytes(100_000)

        async with standing(lambda *_: big(), tmp_path) as tool:
            heard = await tool.raw(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert 1 << 20 < len(heard) <= 11 << 20
            assert len((await tool.call())[2]) < 1 << 20
            assert [one.why for one in tool.stand.facts.of(HostCalled)] == ["budget", "budget"]

    run(scenario)


def test_a_missing_or_unfit_secret_is_told_before_anything_starts(tmp_path):
    declared = HostSecret.model_validate({"env": "TOKEN", "hosts": [HOST]})
    for environment in ({}, {"TOKEN": "short"}, {"TOKEN": "two\nlines of text"}):
        with pytest.raises(UsageError, match="TOKEN") as error:
            OpenedHosts({"github": declared}, environment)
        assert error.value.code in ("missing_secret", "bad_secret")
    (tmp_path / "token").write_text(f"{SECRET}\n")
    for more, environment in (({"key_file": tmp_path / "token"}, {}), ({"key_env": "REAL"}, {"REAL": SECRET, "TOKEN": "x" * 20})):
        made = OpenedHosts({"github": declared.model_copy(update=more)}, environment)
        assert made.environment["TOKEN"].startswith("ghp_")
    assert isinstance(made.describe()[0]["purpose"], str) and SECRET not in repr(made.describe())


def test_a_file_without_authorities_is_told_before_anything_starts(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    declared = HostSecret.model_validate({"env": "TOKEN", "hosts": [HOST], "ca": tmp_path / "ca.pem"})
    with pytest.raises(UsageError) as error:
        OpenedHosts({"github": declared}, {"TOKEN": SECRET})
    assert error.value.code == "bad_ca"
