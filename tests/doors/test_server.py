"""HTTP for doors on real sockets: what is served, what is bounded, what is refused, and what a client that leaves brings about."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import uvloop

from gearcase.doors.server import HttpRequest, Reply, ServerLimits, serve

TEXT = {"content-type": "text/plain"}
TIGHT = ServerLimits(connections=4, header_bytes=4096, body_bytes=10_000, headers_within=0.4, body_within=0.4, idle=1)
PATIENCE = 30.0


@dataclass
class Door:
    """A server on a free port, with an echo for a handler; remembers what reached it."""

    port: int = 0
    seen: list[HttpRequest] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[str] = field(default_factory=list)
    server: object = None

    async def handle(self, request: HttpRequest) -> Reply:
        self.seen.append(request)
        match request.path:
            case "/slow":
                return await self._slow()
            case "/stream":
                return Reply(200, TEXT, self._stream())
            case "/broken":
                return Reply(200, TEXT, self._broken())
            case "/defect":
                raise RuntimeError("a defect of the handler")
            case _:
                return Reply(200, TEXT, b"%s %d " % (request.path.encode(), len(request.body)) + request.body[:100])

    async def _slow(self):
        self.began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        raise AssertionError

    async def _stream(self):
        try:
            number = 0
            while True:
                yield b"%06d\n" % number
                number += 1
                self.began.set()
                await asyncio.sleep(0.001)
        finally:
            self.ended.append("closed")

    async def _broken(self):
        yield b"the beginning\n"
        raise ConnectionError("the upstream broke off")


class Client:
    """A raw connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, door):
        return cls(*await asyncio.open_connection("127.0.0.1", door.port))

    async def send(self, data):
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def head(self):
        """Status line and headers of the next reply, empty at the end of the connection."""
        try:
            return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def reply(self):
        """(status, body) of the next reply with a length; (0, "") at the end of the connection."""
        head = await self.head()
        if not head:
            return 0, b""
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length: " in head.lower() else 0
        return int(head.split(b" ")[1]), await asyncio.wait_for(self.reader.readexactly(length), PATIENCE)

    async def rest(self):
        """Everything until the connection ends."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), PATIENCE)
        except ConnectionError:
            return b""

    def leave(self):
        self.writer.transport.abort()


def on_both_loops(scenario: Callable, limits: ServerLimits | None = None, **options):
    """Run `scenario(door)` on asyncio's loop and on the one that a run uses; returns the last door."""

    async def whole():
        sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        door = Door(sock.getsockname()[1])
        server = door.server = await serve(sock, door.handle, limits=limits, **options)
        try:
            await scenario(door)
        finally:
            await server.close()
        return door

    for factory in (None, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            door = runner.run(whole())
    return door


async def until(found):
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.002)


def get(path=b"/x", *headers):
    return b"GET " + path + b" HTTP/1.1\r\nHost: d\r\n" + b"".join(h + b"\r\n" for h in headers) + b"\r\n"


def post(body, path=b"/x", *headers):
    return b"POST " + path + b" HTTP/1.1\r\nHost: d\r\n" + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body


# --- what is served ------------------------------------------------------------------------------------------------------------


def test_a_request_reaches_the_handler_whole_and_its_reply_comes_back():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(post(b"hello", b"/a%20b?q=%31&r", b"Content-Length: 5", b"X-Two: 1", b"X-Two: 2"))
        assert await client.reply() == (200, b"/a b 5 hello")
        request = door.seen[0]
        assert (request.method, request.path, request.query) == ("POST", "/a b", b"q=%31&r")
        assert request.header(b"x-two") == b"1" and request.header(b"none") == b""
        client.leave()

    on_both_loops(scenario)


def test_requests_in_one_packet_are_answered_each_in_order():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(b"".join(get(b"/%d" % n) for n in range(20)) + post(b"abc", b"/last", b"Content-Length: 3"))
        for number in range(20):
            assert await client.reply() == (200, b"/%d 0 " % number)
        assert await client.reply() == (200, b"/last 3 abc")
        client.leave()

    on_both_loops(scenario)


def test_a_chunked_body_is_put_together_however_it_is_cut():
    async def scenario(door):
        client = await Client.to(door)
        whole = post(b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: t\r\n\r\n", b"/x", b"Transfer-Encoding: chunked")
        for byte in whole:
            await client.send(bytes([byte]))
        assert await client.reply() == (200, b"/x 11 hello world")
        assert door.seen[0].header(b"trailer") == b"", "what follows a body is no header"
        await client.send(get(b"/next"))
        assert await client.reply() == (200, b"/next 0 ")
        client.leave()

    on_both_loops(scenario)


def test_a_client_that_asks_first_is_told_to_go_on():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(post(b"", b"/x", b"Content-Length: 5", b"Expect: 100-continue"))
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"hello")
        assert await client.reply() == (200, b"/x 5 hello")
        client.leave()

    on_both_loops(scenario)


def test_chunks_are_sent_as_they_come():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(get(b"/stream"))
        assert b"transfer-encoding: chunked" in (await client.head()).lower()
        for number in range(5):
            await asyncio.wait_for(client.reader.readuntil(b"%06d\n" % number), PATIENCE)
        assert door.ended == []
        client.leave()
        await until(lambda: door.ended == ["closed"])

    on_both_loops(scenario)


def test_chunks_that_break_off_leave_a_reply_without_an_end():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(get(b"/broken"))
        told = await client.rest()
        assert b"the beginning" in told and not told.endswith(b"0\r\n\r\n")
        client.leave()

    on_both_loops(scenario)


def test_a_defect_of_a_handler_is_a_500_that_says_nothing(caplog):
    async def scenario(door):
        client = await Client.to(door)
        await client.send(get(b"/defect"))
        status, body = await client.reply()
        assert status == 500 and b"defect" not in body
        other = await Client.to(door)
        await other.send(get(b"/x"))
        assert (await other.reply())[0] == 200
        client.leave()
        other.leave()

    on_both_loops(scenario)


# --- bounds --------------------------------------------------------------------------------------------------------------------


def test_headers_over_the_limit_are_refused_in_one_piece_and_byte_by_byte():
    async def scenario(door):
        for pieces in (1, 40):
            client = await Client.to(door)
            data = get(b"/x", *[b"X-%d: " % n + b"x" * 100 for n in range(60)])
            size = len(data) // pieces + 1
            for at in range(0, len(data), size):
                await client.send(data[at : at + size])
            told = await client.rest()
            assert b" 400 " in told or (pieces > 1 and not told), "what is sent after a refusal may be met by a reset"
            client.leave()
        assert door.seen == []

    on_both_loops(scenario, TIGHT)


def test_trailers_count_as_headers():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(post(b"5\r\nhello\r\n0\r\n", b"/x", b"Transfer-Encoding: chunked"))
        for number in range(60):
            await client.send(b"T-%d: " % number + b"x" * 100 + b"\r\n")
        assert b" 200 " not in await client.rest()
        assert door.seen == []
        client.leave()

    on_both_loops(scenario, TIGHT)


def test_a_client_that_sends_nonsense_leaves_nothing_in_the_log(caplog):
    async def scenario(door):
        for _ in range(20):
            client = await Client.to(door)
            await client.send(b"nonsense\r\n\r\n")
            assert b" 400 " in await client.rest()
            client.leave()

    on_both_loops(scenario)
    assert caplog.records == []


def test_a_request_line_without_an_end_is_refused():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(b"GET /" + b"x" * 100_000)
        assert b" 400 " in await client.rest()
        client.leave()
        assert door.seen == []

    on_both_loops(scenario, TIGHT)


def test_the_limit_of_headers_is_for_each_request_and_bodies_do_not_count():
    async def scenario(door):
        client = await Client.to(door)
        for _ in range(5):
            await client.send(post(b"x" * 9000, b"/x", b"Content-Length: 9000", b"X-Long: " + b"x" * 2000))
            assert (await client.reply())[0] == 200
        client.leave()

    on_both_loops(scenario, TIGHT)


def test_a_body_over_the_limit_is_refused_whether_its_length_is_told_or_not():
    async def scenario(door):
        told = await Client.to(door)
        await told.send(post(b"x" * 20_000, b"/x", b"Content-Length: 20000"))
        assert (await told.reply())[0] == 413
        chunked = await Client.to(door)
        await chunked.send(post(b"", b"/x", b"Transfer-Encoding: chunked") + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        for _ in range(20):
            await chunked.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert (await chunked.reply())[0] == 413
        assert door.seen == []
        told.leave()
        chunked.leave()

    on_both_loops(scenario, TIGHT)


def test_connections_over_the_limit_are_closed_at_once_and_others_are_served_again_later():
    async def scenario(door):
        inside = [await Client.to(door) for _ in range(4)]
        for client in inside:
            await client.send(get())
            assert (await client.reply())[0] == 200
        outside = await Client.to(door)
        await outside.send(get())
        assert await outside.rest() == b""
        outside.leave()
        inside.pop().leave()
        status = 0
        while not status:
            again = await Client.to(door)
            await again.send(get())
            status, _ = await again.reply()
            again.leave()
        for client in inside:
            await client.send(get())
            assert (await client.reply())[0] == 200
            client.leave()

    on_both_loops(scenario, ServerLimits(connections=4))


def test_a_client_that_says_nothing_or_never_ends_its_headers_is_closed():
    async def scenario(door):
        silent, slow = await Client.to(door), await Client.to(door)
        await slow.send(b"GET /x HTTP/1.1\r\nHost: d\r\n")
        assert await silent.rest() == b""
        assert await slow.rest() == b""
        silent.leave()
        slow.leave()
        assert door.seen == []

    on_both_loops(scenario, TIGHT)


def test_the_second_request_of_a_connection_has_a_deadline_for_its_headers_too():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(get())
        assert (await client.reply())[0] == 200
        await client.send(b"GET /x HTTP/1.1\r\n")
        assert await client.rest() == b""
        assert len(door.seen) == 1
        client.leave()

    on_both_loops(scenario, TIGHT)


def test_a_body_that_does_not_come_is_not_waited_for():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(post(b"half", b"/x", b"Content-Length: 100"))
        assert (await client.reply())[0] == 408
        assert await client.rest() == b""
        assert door.seen == []
        client.leave()

    on_both_loops(scenario, TIGHT)


def test_an_idle_connection_is_closed():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(get())
        assert (await client.reply())[0] == 200
        assert await client.rest() == b""
        client.leave()

    on_both_loops(scenario, TIGHT)


def test_a_stream_that_nobody_reads_ends():
    async def chunks(ended):
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.append("closed")

    async def whole():
        ended = []

        async def handle(request):
            return Reply(200, TEXT, chunks(ended))

        sock = socket.create_server(("127.0.0.1", 0))
        server = await serve(sock, handle, limits=ServerLimits(read_within=0.3))
        with socket.create_connection(sock.getsockname()) as deaf:
            deaf.sendall(get())
            await until(lambda: ended == ["closed"])
        await server.close()

    for factory in (None, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())


# --- ambiguous framing ---------------------------------------------------------------------------------------------------------

INNER = b"GET /smuggled HTTP/1.1\r\nHost: d\r\n\r\n"
AMBIGUOUS = {
    "a length and chunks": post(b"0\r\n\r\n" + INNER, b"/x", b"Content-Length: 6", b"Transfer-Encoding: chunked"),
    "chunks and a length": post(b"0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: chunked", b"Content-Length: 50"),
    "two lengths": post(INNER, b"/x", b"Content-Length: 0", b"Content-Length: %d" % len(INNER)),
    "two equal lengths": post(b"", b"/x", b"Content-Length: 5", b"Content-Length: 5") + b"hello" + INNER,
    "a list of lengths": post(b"hello" + INNER, b"/x", b"Content-Length: 5, 5"),
    "a signed length": post(b"hello" + INNER, b"/x", b"Content-Length: +5"),
    "a negative length": post(b"hello" + INNER, b"/x", b"Content-Length: -5"),
    "a hexadecimal length": post(b"hello" + INNER, b"/x", b"Content-Length: 0x5"),
    "a length with a space in it": post(b"hello" + INNER, b"/x", b"Content-Length: 5 5"),
    "a length beyond 64 bits": post(b"hello" + INNER, b"/x", b"Content-Length: 18446744073709551621"),
    "an unknown transfer coding": post(b"5\r\nhello\r\n0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: xchunked"),
    "chunked, but not last": post(b"0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: chunked, identity"),
    "chunked twice": post(b"0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "a vertical tab before chunked": post(b"0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: \x0bchunked"),
    "a space before the colon": post(b"0\r\n\r\n" + INNER, b"/x", b"Content-Length: 5", b"Transfer-Encoding : chunked"),
    "a folded header": post(b"0\r\n\r\n" + INNER, b"/x", b"X: y\r\n Transfer-Encoding: chunked", b"Content-Length: 5"),
    "a NUL in a header": post(INNER, b"/x", b"X: a\0b"),
    "a bare CR in a header": post(INNER, b"/x", b"X: a\rContent-Length: 5"),
    "a name with a space": post(INNER, b"/x", b"X Y: a"),
    "a chunk size with junk": post(b"5x\r\nhello\r\n0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: chunked"),
    "a chunk size beyond 64 bits": post(b"10000000000000005\r\nhello\r\n0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: chunked"),
    "a chunk longer than its size": post(b"3\r\nhello\r\n0\r\n\r\n" + INNER, b"/x", b"Transfer-Encoding: chunked"),
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER,
    "no protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + INNER,
    "a version of its own": b"GET /x HTTP/9.9\r\nHost: d\r\n\r\n" + INNER,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_message_is_refused_and_what_it_hides_never_reaches_the_handler(name):
    async def scenario(door):
        client = await Client.to(door)
        await client.send(AMBIGUOUS[name])
        client.writer.write_eof()
        told = await client.rest()
        assert b" 200 " not in told, told
        assert "/smuggled" not in [request.path for request in door.seen]
        client.leave()

    on_both_loops(scenario, TIGHT)


def test_an_upgrade_is_not_made_and_what_follows_is_no_request():
    async def scenario(door):
        client = await Client.to(door)
        upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Version: 13")
        await client.send(get(b"/x", *upgrade))
        assert (await client.reply())[0] in (200, 400)
        client.leave()

    on_both_loops(scenario)


# --- clients that leave, and the end -------------------------------------------------------------------------------------------


def test_a_handler_is_cancelled_when_its_client_leaves_where_that_is_asked_for():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(get(b"/slow"))
        await door.began.wait()
        client.leave()
        await until(lambda: door.ended == ["cancelled"])

    on_both_loops(scenario, cancel=True)


def test_without_that_a_handler_goes_on_and_close_ends_it():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(get(b"/slow"))
        await door.began.wait()
        client.leave()
        other = await Client.to(door)
        await other.send(get())
        assert (await other.reply())[0] == 200
        other.leave()
        assert door.ended == []
        await door.server.close()
        assert door.ended == ["cancelled"]

    on_both_loops(scenario)


def test_a_client_that_leaves_in_the_middle_of_its_body_reaches_no_handler():
    async def scenario(door):
        client = await Client.to(door)
        await client.send(post(b"half", b"/x", b"Content-Length: 100"))
        client.leave()
        other = await Client.to(door)
        await other.send(get(b"/other"))
        assert (await other.reply())[0] == 200
        assert [request.path for request in door.seen] == ["/other"]
        other.leave()

    on_both_loops(scenario)


def test_close_ends_every_connection_handler_and_stream_and_may_be_called_twice():
    async def scenario(door):
        clients = [await Client.to(door) for _ in range(4)]
        for client, path in zip(clients, (b"/slow", b"/stream", b"/x", b""), strict=True):
            if path:
                await client.send(get(path))
        await until(lambda: len(door.seen) == 3 and door.began.is_set())
        await asyncio.wait_for(clients[1].reader.readuntil(b"000001\n"), PATIENCE)
        await door.server.close()
        await door.server.close()
        assert sorted(door.ended) == ["cancelled", "closed"]
        for client in clients:
            await client.rest()
            client.leave()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", door.port)

    on_both_loops(scenario)


def test_many_clients_at_once_each_get_their_own_answer():
    async def scenario(door):
        async def one(number):
            client = await Client.to(door)
            for turn in range(5):
                body = b"%d-%d" % (number, turn)
                await client.send(post(body, b"/%d" % number, b"Content-Length: %d" % len(body)))
                assert await client.reply() == (200, b"/%d %d " % (number, len(body)) + body)
            client.leave()

        await asyncio.gather(*(one(number) for number in range(100)))

    on_both_loops(scenario)
