"""The http door without a box: a server outside, and clients that are handed over as a listener inside would."""

import asyncio
import socket
from contextlib import asynccontextmanager

import uvloop

from gearcase.box.hosts import parse_rule
from gearcase.doors.http import HttpDoor, HttpRules
from gearcase.doors.metering import EgressMeter
from gearcase.events import DoorRefused
from gearcase.ledger import Ledger
from tests import recorder

NAME = "files.example.org"
GET = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def place_of(server):
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Facts(recorder.Facts):
    """Of what nothing needs to be flushed, and nobody waits for the disk."""

    def flush(self):
        raise AssertionError("nothing here needs to be flushed")

    async def durable(self):
        raise AssertionError("nothing here waits for the disk")


class Outside:
    """A server outside that answers each read with `answer`; keeps what it heard."""

    def __init__(self, answer):
        self.answer = answer
        self.heard = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.place = place_of(self.server)
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        heard = bytearray()
        self.heard.append(heard)
        while data := await reader.read(65536):
            heard += data
            writer.write(self.answer if self.answer is not None else data)
            await writer.drain()
        writer.close()


class Stand:
    """A door with one seat, and clients that need no box: they are handed over as a listener would."""

    def __init__(self, *rules, hosts, egress=None, private=(), opened=None):
        self.facts = Facts()
        self.ledger = Ledger(self.facts)
        self.ledger.open("lead", {} if egress is None else {"egress": egress})
        self.door = HttpDoor(HttpRules(tuple(map(parse_rule, rules)), frozenset(private), hosts), self.facts, opened)
        self.bound = {}
        self.meter = EgressMeter(self.ledger, "lead")
        self.seat = self.door.seat("lead", self.meter, self.listen)

    async def listen(self, listeners):
        for one in listeners:
            self.bound[one] = socket.create_server(("127.0.0.1", 0))
        return self.bound

    @asynccontextmanager
    async def client(self, port=80, name=NAME):
        with socket.create_server(("127.0.0.1", 0)) as between:
            ours = socket.create_connection(between.getsockname())
            theirs, _ = between.accept()
        self.seat.serve(theirs, name, port)
        reader, writer = await asyncio.open_connection(sock=ours)
        yield reader, writer
        writer.close()

    async def says(self, data, port=80, name=NAME):
        """What comes back until the other side closes, or 0.3 s pass."""
        async with self.client(port, name) as (reader, writer):
            writer.write(data)
            heard = bytearray()
            try:
                while True:
                    async with asyncio.timeout(0.4):
                        chunk = await reader.read(65536)
                    if not chunk:
                        return bytes(heard), "closed"
                    heard += chunk
            except TimeoutError:
                return bytes(heard), "open"
            except ConnectionError:
                return bytes(heard), "closed"

    async def close(self):
        await self.door.close()
        self.meter.close()
        for one in self.bound.values():
            one.close()

    def refusals(self):
        return [event.code for event in self.facts.of(DoorRefused)]


def run(scenario):
    uvloop.run(scenario())
