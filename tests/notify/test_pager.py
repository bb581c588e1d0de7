"""The process that pages, as its run's process speaks with it. This process plays the run's."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

from gearcase.notify import pager
from tests.listener import listening


class Spoken:
    """A pager of ours and what it tells."""

    def __init__(self, ours, process):
        self.ours = ours
        self.process = process
        self.told = []
        self._rest = b""
        ours.settimeout(20)

    def say(self, **line):
        self.ours.sendall(json.dumps(line).encode() + b"\n")

    def page(self, number, *posts, ends=False):
        self.say(page=number, posts=list(posts), ends=ends)

    def until(self, wanted):
        """Until it tells of one that is `wanted`."""
        while not (found := [one for one in self.told if wanted(one)]):
            data = self.ours.recv(65536)
            assert data, f"it ended: {self.told}"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.told += map(json.loads, lines)
        return found[0]


def post(url, body="x", to="one"):
    return {"to": to, "url": url, "headers": {"Content-Type": "text/plain"}, "body": body}


@contextmanager
def paging(*gone, silent_at="", patience=60.0, pid=None):
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", pager.__file__], stdin=theirs, stdout=subprocess.DEVNULL, env={}, start_new_session=True
    )
    theirs.close()
    spoken = Spoken(ours, process)
    silent, again = [[post(silent_at, said)] * bool(silent_at) for said in ("silent", "again")]
    told = {"gone": list(gone), "silent": silent, "silent_ends": again, "patience": patience}
    spoken.say(pid=os.getpid() if pid is None else pid, **told)
    try:
        yield spoken
    finally:
        ours.close()
        process.kill()
        process.wait()


def bodies(server):
    return [one.body.decode() for one in server.got]


def test_pages_are_sent_in_their_order_and_told_back():
    with listening() as server, paging() as spoken:
        for number in (1, 2, 3):
            spoken.page(number, post(server.url, f"page {number}"))
        told = spoken.until(lambda one: one["page"] == 3)
        assert (told["status"], told["attempt"], told["done"]) == (200, 1, True)
        assert bodies(server) == ["page 1", "page 2", "page 3"]


def test_one_that_fails_is_tried_again_and_what_a_target_refuses_is_not():
    with listening(503, 200) as server, listening(404) as wrong, paging() as spoken:
        spoken.page(1, post(server.url), post(wrong.url, to="other"))
        refused = spoken.until(lambda one: one["to"] == "other")
        assert (refused["why"], refused["done"]) == ("it answers 404", True)
        first = spoken.until(lambda one: one["to"] == "one")
        assert (first["status"], first["done"], first["again"]) == (503, False, pager.WAITS[0])
        assert spoken.until(lambda one: one["status"] == 200)["attempt"] == 2


def test_a_target_that_is_slow_stands_in_nobodys_way():
    with listening() as slow, listening() as server, paging() as spoken:
        slow.delay = 5
        spoken.page(1, post(slow.url, to="slow"), post(server.url))
        began = time.monotonic()
        assert spoken.until(lambda one: one["to"] == "one")["status"] == 200
        assert time.monotonic() - began < 4


def test_what_is_answered_is_not_tried_again_and_ends_only_where_it_arrived():
    with listening(503, 200) as server, listening() as other, paging() as spoken:
        spoken.page(1, post(server.url), post(other.url, to="other"))
        spoken.until(lambda one: one["to"] == "one" and one["why"])
        spoken.until(lambda one: one["to"] == "other")
        spoken.say(drop=1)
        spoken.page(1, post(server.url, "over"), post(other.url, "over", to="other"), ends=True)
        spoken.until(lambda one: one["ends"] and one["to"] == "other")
        spoken.until(lambda one: one["ends"] and one["to"] == "one")
        time.sleep(pager.WAITS[0])
        assert (bodies(server), bodies(other)) == (["x"], ["x", "over"])


def test_after_a_farewell_nothing_is_left_of_it_whatever_hangs():
    with listening() as slow, listening() as server, paging(post(server.url, "gone")) as spoken:
        slow.delay = 5
        spoken.page(1, post(slow.url))
        slow.until()
        spoken.say(bye=True)
        assert spoken.process.wait(2) == 0
        assert server.got == []


def test_who_leaves_without_a_farewell_is_told_of_and_nothing_else_is_any_more():
    with listening(503, 200) as server, paging(post(server.url, "gone")) as spoken:
        spoken.page(1, post(server.url, "waits"))
        spoken.until(lambda one: one["why"])
        spoken.ours.close()
        assert spoken.process.wait(10) == 0, "and then it is gone, too"
        assert bodies(server) == ["waits", "gone"]


def test_who_was_gone_before_it_began_is_told_of():
    with listening() as server, paging(post(server.url, "gone"), pid=2**22 + 1) as spoken:
        server.until()
        assert spoken.process.wait(10) == 0


def test_silence_is_told_once_and_so_is_its_end():
    with listening() as server, paging(silent_at=server.url, patience=0.3) as spoken:
        server.until(1)
        time.sleep(0.7)
        assert bodies(server) == ["silent"]
        spoken.say()
        server.until(3)
        assert bodies(server) == ["silent", "again", "silent"], "and it is watched on"
