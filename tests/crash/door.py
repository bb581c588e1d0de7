"""The model door as a process that may be killed at any moment: journal, ledger and doors over sockets that outlive it.

It takes up the journal where one is, as a run that goes on after a crash does, else it begins one. It says `ready` on stdout once it
serves, and ends in an orderly way when its stdin is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

from gearcase.box import Model
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.routing import Routing
from gearcase.doors.server import serve
from gearcase.events import RunResumed
from gearcase.journal import Journal, read
from gearcase.ledger import Ledger


def books(folder: Path, accounts: list[dict[str, Any]]) -> tuple[Journal, Ledger]:
    """Journal and ledger, recovered or new. A crash while the accounts were opened leaves some of them: the rest are opened now."""
    if any(folder.glob("*.jsonl")):
        journal = Journal.reopen(folder)
        journal.append(RunResumed("", journal.repaired))
        journal.flush()
        ledger = Ledger.recover([(record.seq, record.event) for record in read(folder)], journal)
    else:
        journal = Journal.create(folder)
        ledger = Ledger(journal)
    known = {name for name, _ in ledger.accounts()}
    for account in accounts:
        if account["name"] not in known:
            ledger.open(account["name"], account["limits"], account["parent"], account["name"])
    journal.flush()
    return journal, ledger


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", type=Path, required=True, help="JSON: accounts, and for each leaf its listening descriptor")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--durability", choices=["strict", "grouped"], default="strict")
    options = parser.parse_args()
    plan = json.loads(options.plan.read_text())
    journal, ledger = books(options.journal, plan["accounts"])
    base = {"base": f"{options.upstream}/v1"}
    model = Model.model_validate({"allow": plan["models"], "providers": {"anthropic": base, "openai": base}})
    routing = Routing(model, environment={})
    door = ModelDoor(ledger, journal, routing, durability=options.durability)
    servers = [
        await serve(socket.socket(fileno=descriptor), door.handler(Caller(account, account), print), cancel=True)
        for account, descriptor in plan["listeners"].items()
    ]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    for server in servers:
        await server.close()
    await door.close()
    await routing.close()
    journal.close()


if __name__ == "__main__":
    uvloop.run(main())
