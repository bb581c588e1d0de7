"""What a branch is copied from: files, and servers of every temper."""

import asyncio
import contextlib
import io
import os
import ssl
import subprocess

import pytest

from gearcase.box.redis_url import RedisUrl
from gearcase.doors.redis import source
from gearcase.doors.redis.source import from_file, from_server
from gearcase.errors import GearcaseError
from tests.redis_server import live

MOST = 1 << 20
MARK = b"m" * 40


def poured(content, most=MOST):
    sink = io.BytesIO()
    asyncio.run(content.pour(sink, most))
    return sink.getvalue()


def copied(answers, most=MOST, password="", tls=None):
    """What is copied from a server that answers each command with the next of `answers`; and what it was asked."""
    asked, sink, serving = [], io.BytesIO(), set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            for answer in answers:
                count = int((await reader.readline())[1:])
                words = []
                for _ in range(count):
                    length = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(length + 2))[:-2].decode())
                asked.append(" ".join(words))
                for part in answer if isinstance(answer, list) else [answer]:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        writer.transport.abort()

    async def scenario():
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                await from_server(RedisUrl("127.0.0.1", port, "reader", tls is not None), password).pour(sink, most)
            finally:
                for task in serving:
                    task.cancel()
                await asyncio.gather(*serving, return_exceptions=True)
                await asyncio.sleep(0.01)

    try:
        asyncio.run(scenario())
    except GearcaseError as error:
        return error, asked
    return sink.getvalue(), asked


OK = b"+OK\r\n"


def test_a_server_is_asked_as_a_replica_asks():
    got, asked = copied([OK, OK, OK, b"\n\n$5\r\nREDIS"], password="secret")
    assert got == b"REDIS"
    assert asked == ["AUTH reader secret", "REPLCONF capa eof", "REPLCONF rdb-only 1", "SYNC"]


def test_what_has_no_length_ends_with_its_mark_however_it_is_cut():
    whole = b"REDIS" + b"x" * 100 + MARK[:20] + b"y"
    parts = [b"$EOF:" + MARK + b"\r\n", whole[:3], whole[3:] + MARK[:7], MARK[7:39], MARK[39:]]
    assert copied([b"-ERR\r\n", b"-ERR\r\n", parts])[0] == whole


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"-NOAUTH Authentication required.\r\n", "source_refused"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "source_refused"),
        (b"x" * 100_000 + b"\r\n", "source_refused"),
        (b"$-5\r\n", "source_refused"),
        (b"$EOF:short\r\n", "source_refused"),
        (b"$EOF:\r\n", "source_refused"),
        (b"$" + b"9" * 30 + b"\r\n", "source_refused"),
        (b"$99999999\r\n", "too_large"),
        ([b"$EOF:" + MARK + b"\r\n"] + [b"REDIS" * 20_000] * 20, "too_large"),
        (b"$100\r\nREDIS", "source_unreachable"),
        (b"$EOF:" + MARK + b"\r\nREDIS", "source_unreachable"),
        (b"", "source_unreachable"),
        (b"\n\n\n", "source_unreachable"),
    ],
    ids=range(13),
)
def test_a_server_that_answers_something_else_is_told_for_what_it_is(answer, code):
    error, _ = copied([OK, OK, answer])
    assert error.code == code
    assert error.remedy


def test_a_server_that_is_silent_or_drips_is_waited_for_so_long_and_no_longer(monkeypatch):
    monkeypatch.setattr(source, "_SILENCE", 0.3)
    assert copied([OK, OK, [b"$5\r\nRE", *[b""] * 100]])[0].code == "source_unreachable"
    monkeypatch.setattr(source, "_SILENCE", 60)
    monkeypatch.setattr(source, "COPY_WITHIN", 0.5)
    assert copied([OK, OK, [b"\n"] * 1000])[0].code == "source_unreachable"
    monkeypatch.setattr(source, "COPY_WITHIN", 60)
    assert copied([OK, OK, [b"\n"] * 50 + [b"$5\r\nREDIS"]])[0] == b"REDIS"


def test_a_real_server_hands_out_what_it_holds_and_writes_no_file(tmp_path):
    with live(tmp_path, "--repl-diskless-sync-delay", "0") as (client, port):
        client.set("key", "value")
        got = poured(from_server(RedisUrl("127.0.0.1", port), ""))
        assert got.startswith((b"REDIS", b"VALKEY"))
        assert b"value" in got
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def certified(tmp_path):
    """TLS of a server on 127.0.0.1, and the file of the certificate that vouches for it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def test_a_server_behind_tls_is_copied_where_its_certificate_is_trusted(certified, monkeypatch):
    context, certificate = certified
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    got, asked = copied([OK, OK, OK, b"$5\r\nREDIS"], password="secret", tls=context)
    assert got == b"REDIS" and asked[0] == "AUTH reader secret"


def test_a_server_behind_tls_that_nobody_vouches_for_hears_no_password(certified):
    context, _ = certified
    error, asked = copied([OK, OK, OK, b"$5\r\nREDIS"], password="secret", tls=context)
    assert (error.code, asked) == ("source_unreachable", [])
    assert "SSL_CERT_FILE" in error.remedy


def test_a_file_is_known_by_its_beginning(tmp_path):
    good, bad = tmp_path / "good.rdb", tmp_path / "bad.rdb"
    good.write_bytes(b"REDIS0011" + b"x" * 3_000_000)
    assert poured(from_file(good), 4 << 20) == good.read_bytes()
    bad.write_bytes(b"no such thing")
    os.mkfifo(tmp_path / "fifo")
    for file in (bad, tmp_path, tmp_path / "fifo", tmp_path / "missing"):
        with pytest.raises(GearcaseError) as caught:
            from_file(file)
        assert caught.value.code == "bad_dump"
    with pytest.raises(GearcaseError) as caught:
        poured(from_file(good), 1 << 20)
    assert caught.value.code == "too_large"
