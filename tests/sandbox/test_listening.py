"""Listening sockets that are born in the network of a box that lives already."""

import asyncio
import os

import pytest

from gearcase.errors import RunError
from gearcase.sandbox.namespaces import NamespacesDriver
from gearcase.seams import Command, Limits, Listener, SandboxSpec

SMALL = Limits(memory=128 << 20, cpus=1.0, disk=32 << 20, processes=32)
LATE = Listener("late.example", "198.18.0.7", 443)
ASK = """
import socket
print(socket.create_connection(("198.18.0.7", 443), 5).recv(100).decode())
try: socket.create_connection(("198.18.0.8", 443), 5)
except OSError as error: print(error)
"""


def in_box(scenario):
    async def whole():
        driver = NamespacesDriver()
        try:
            sandbox = await driver.open(SandboxSpec(f"listening-{os.getpid()}", SMALL))
            await scenario(sandbox)
            assert await sandbox.close() == ()
        finally:
            await driver.close()

    asyncio.run(whole())


def test_a_late_listener_is_reached_from_inside_and_served_from_outside():
    async def scenario(sandbox):
        await sandbox.listen([LATE])
        server = sandbox.sockets[LATE]
        server.setblocking(False)

        async def serve():
            loop = asyncio.get_running_loop()
            connection, _ = await loop.sock_accept(server)
            with connection:
                await loop.sock_sendall(connection, b"from outside")

        serving = asyncio.create_task(serve())
        told = await sandbox.run(Command(("python3", "-c", ASK), deadline=20))
        await serving
        assert told.stdout.text() == "from outside\n[Errno 111] Connection refused\n"

    in_box(scenario)


def test_a_late_listener_can_be_added_while_the_box_stands_frozen_and_an_address_is_taken_once():
    async def scenario(sandbox):
        await sandbox.freeze()
        await sandbox.listen([LATE])
        await sandbox.thaw()
        with pytest.raises(RunError) as error:
            await sandbox.listen([LATE])
        assert "in use" in error.value.cause

    in_box(scenario)


def test_nothing_listens_in_a_box_that_is_closed():
    async def scenario(sandbox):
        await sandbox.close()
        with pytest.raises(RunError) as error:
            await sandbox.listen([LATE])
        assert error.value.code == "sandbox_lost"

    in_box(scenario)
