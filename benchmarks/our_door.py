"""The model door as a process of its own, for the benchmark: ledger, journal and door on a loopback port."""

from __future__ import annotations

import argparse
import asyncio
import socket
from pathlib import Path

import uvloop

from gearcase.box import Model
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.doors.server import ServerLimits, serve
from gearcase.journal import Journal
from gearcase.ledger import Ledger


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream")
    parser.add_argument("durability", choices=["strict", "grouped"])
    parser.add_argument("journal", type=Path, help="a folder to be made")
    options = parser.parse_args()
    journal = Journal.create(options.journal)
    ledger = Ledger(journal)
    ledger.open("run", {"usd": 10**15})
    ledger.open("lead", {"usd": 10**14}, parent="run")
    model = Model.model_validate({"lead": "openai/gpt-5-mini", "providers": {"openai": {"base": options.upstream}}})
    door = ModelDoor(ledger, journal, Routing(model), durability=options.durability)
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    await serve(sock, door.handler(Caller("lead", "lead"), print), limits=ServerLimits(connections=1024))
    print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


uvloop.run(main())
