"""Calls of one caller that wait for a slot upstream: ready to leave, and not yet gone."""

import asyncio
import json

from gearcase.doors.model.carrying import Caller
from gearcase.doors.model.upstreams.scripted import Step
from gearcase.doors.server import HttpRequest
from gearcase.journal import read

SLOW = Step(text="ok", fault="slow", delay=0.15)


def asking(stand, stands, caller):
    path, body = stands.place("chat", stands.ask("chat", cap=20))
    request = HttpRequest("POST", path, b"", [(b"content-type", b"application/json")], json.dumps(body).encode())
    return asyncio.ensure_future(stand.door.exchange(caller, request))


def test_no_more_than_the_slots_are_upstream_and_the_others_are_ready(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path, (SLOW,)) as stand:
            caller = Caller("lead", "lead", slots=asyncio.Semaphore(2))
            calls = [asking(stand, stands, caller) for _ in range(5)]
            await stand.until(lambda: len(stand.records("sent")) == 2)
            await asyncio.sleep(0.05)
            begun = len(stand.records("held")), len(stand.records("sent"))
            replies = await asyncio.gather(*calls)
            return stand, begun, [reply.status for reply in replies]

    _, begun, statuses = asyncio.run(whole())
    assert begun == (5, 2) and statuses == [200] * 5
    upstream = most = 0
    for record in read(tmp_path / "journal"):
        upstream += (record.type == "sent") - (record.type == "model_called")
        most = max(most, upstream)
    assert most == 2


def test_what_waits_for_a_slot_does_not_leave_once_the_door_is_latched_and_a_slot_is_lost_by_nobody(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path, (SLOW,)) as stand:
            caller = Caller("lead", "lead", slots=asyncio.Semaphore(1))
            first, second, third = (asking(stand, stands, caller) for _ in range(3))
            await stand.until(lambda: len(stand.records("held")) == 3)
            stand.door.latch()
            third.cancel()
            replies = [await first, await second]
            stand.door.unlatch()
            replies.append(await asking(stand, stands, caller))
            return stand, [reply.status for reply in replies], caller.slots.locked()

    stand, statuses, locked = asyncio.run(whole())
    assert statuses == [200, 503, 200] and not locked
    assert len(stand.records("released")) == 2 and len(stand.asked) == 2


def test_a_call_that_fails_gives_its_slot_back(stands, tmp_path):
    async def whole():
        async with stands.Stand(tmp_path, (Step(fault="drop"), Step(text="ok"))) as stand:
            caller = Caller("lead", "lead", slots=asyncio.Semaphore(1))
            return [(await asking(stand, stands, caller)).status for _ in range(2)], caller.slots.locked()

    assert asyncio.run(whole()) == ([502, 200], False)
