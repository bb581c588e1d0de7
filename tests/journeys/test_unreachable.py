"""A provider that cannot be reached: said at once, tried again, and nothing is lost or charged, whoever watches or does not."""

import json
import re
import select
import socket
import threading
import time
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.timeout(180)


def dead():
    """An address at which nobody listens, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1", port


@contextmanager
def forwarded(base, to):
    """Who connects to the one address is joined to the other."""
    ports = [urlsplit(address).port for address in (base, to)]

    def carry(client):
        with client, socket.create_connection(("127.0.0.1", ports[1])) as server, suppress(OSError):
            while ready := select.select([client, server], [], [])[0]:
                data = ready[0].recv(65536)
                if not data:
                    return
                (server if ready[0] is client else client).sendall(data)

    def serve():
        with suppress(OSError):
            while True:
                threading.Thread(target=carry, args=(listening.accept()[0],)).start()

    with socket.create_server(("127.0.0.1", ports[0])) as listening:
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            serving.join()


def at(user, base):
    """A box whose provider is there."""
    (user.folder / "box.toml").write_text(
        'goal = "write"\n[model]\nlead = "anthropic/claude-haiku-4-5"\n'
        f'[model.providers.anthropic]\nbase = "{base}"\n[files]\ntake = ["out/**"]\n'
    )


def test_it_is_said_at_once_what_is_unreachable_until_when_it_is_tried_and_what_to_do(user):
    base, _ = dead()
    at(user, base)
    began = time.monotonic()
    running = user.starts("run", "-f", "box.toml", **user.keys)
    first = next(line for line in running.stderr if "waits" in line)
    assert time.monotonic() - began < 20  # a few seconds, on a machine that does nothing else
    assert f"{base} cannot be reached: connection refused (attempt 1 of 5, again in" in first
    assert re.search(r"until about \d\d:\d\d:\d\d; nothing was sent, nothing is charged", first)
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 13
    said = " ".join(out.split())
    assert "model_unanswered: claude-haiku-4-5 does not answer: 5 attempts failed" in said and base in said
    assert "start it again" in said and "$0.00 of" in said
    record = json.loads(user.types("report", "--json", code=0).out)
    assert record["error"]["code"] == "model_unanswered" and record["spent"]["usd"] == 0 and record["residue"] == []


def test_where_somebody_may_answer_it_stands_still_and_resume_goes_on_once_it_is_reachable(user):
    work = {"commands": ["mkdir out; echo done > out/it; gear done"]}
    with user.provides(work) as provider:
        base, _ = dead()
        at(user, base)
        running = user.starts("run", "-f", "box.toml", "--unanswered", "wind-down", "--json", **user.keys)
        frozen = user.waits_for("brake_changed", timeout=60)
        assert frozen["level"] == "frozen" and frozen["by"] == "upstream"
        assert "cannot be reached" in frozen["reason"] and "gearcase resume" in frozen["reason"]
        assert user.types("ps", "--json", code=0).record[0]["state"] == "frozen"
        with forwarded(base, provider.base):
            user.types("resume", code=0)
            out, _ = running.communicate(timeout=60)
        record = json.loads(out)
        assert record["status"] == "unverified" and [one["path"] for one in record["delivered"]] == ["out/it"]
        assert len(provider.calls()) == record["spent"]["calls"]


def test_where_nobody_answers_it_is_asked_once_more_and_then_it_is_the_end(user):
    at(user, dead()[0])
    record = user.types("run", "-f", "box.toml", "--unanswered", "deny", "--after", "1s", "--json", code=13, **user.keys).record
    assert record["error"]["code"] == "model_unanswered" and record["spent"]["usd"] == 0
    brakes = [one for one in user.journal() if one["type"] == "brake_changed"]
    assert [(one["level"], one["by"]) for one in brakes] == [("frozen", "upstream"), ("running", "upstream")]
    assert "asks once more" in brakes[1]["reason"]
    assert "goes on: nobody answered for 1 s: it asks once more" in user.types("logs", code=0).out
