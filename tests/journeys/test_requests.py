"""An agent asks, its operator answers from another terminal, and the run goes on without a restart."""

import http.server
import json
import threading
import time
from contextlib import contextmanager


class Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nobody reads it."""

    def do_GET(self):
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(600):
                self.wfile.write(b"x" * 1000)
                self.wfile.flush()
                time.sleep(0.1)
            return
        self.send_response(200)
        self.send_header("content-length", "8")
        self.end_headers()
        self.wfile.write(b"welcome\n")


@contextmanager
def outside():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def box(user, place, more=""):
    file = user.folder / "box.toml"
    file.write_text(
        f'[doors.http]\nhosts = {{ "mirror.example.org" = "{place}", "other.example.org" = "{place}" }}\n{more}[limits]\nusd = 1\n'
    )
    return file


def name_of(user):
    return next((user.home / "state").glob("gearcase/runs/*/journal")).parent.name


def test_a_host_is_asked_for_allowed_and_used(user):
    with outside() as place:
        script = (
            "curl -sS -m 3 http://mirror.example.org/ 2>&1; gear ask-for net mirror.example.org --why 'it has the wheels' && "
            "curl -sS http://mirror.example.org/ && gear ask-for net other.example.org --why more; gear requests; gear done --as-is"
        )
        run = user.starts(
            "run", "g", "-f", box(user, place), "--model", user.script({"commands": [script]}), "--unanswered", "deny", "--json"
        )
        user.waits_for("request_made")
        (asked,) = json.loads(user.types("requests", "--json", code=0).out)
        assert (asked["kind"], asked["what"], asked["why"]) == ("net", "mirror.example.org", "it has the wheels")
        assert "gearcase allow" in user.types("requests", asked["run"], code=0).out
        assert "allowed" in user.types("allow", asked["run"], 1, code=0).out
        user.waits_for("request_answered")
        deadline = time.monotonic() + 20
        while len(json.loads(user.types("requests", asked["run"], "--json").out)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        user.types("deny", asked["run"], 2, "--say", "use the mirror", code=0)
        out, err = run.communicate(timeout=60)
    assert run.returncode in (0, 11), out + err
    (command,) = [one for one in user.journal() if one["type"] == "command_ended"]
    assert "Could not resolve host" in command["head"]
    assert "request 1: net mirror.example.org is allowed" in command["head"] and "welcome" in command["head"]
    assert "was denied: use the mirror" in command["head"]
    states = [one["state"] for one in json.loads(user.types("requests", asked["run"], "--json", code=0).out)]
    assert states == ["allowed", "denied"]
    assert user.types("allow", asked["run"], 1, code=13).err.count("is not running") == 1


def test_money_and_other_limits_are_given_while_it_runs(user):
    with outside() as place:
        script = (
            "gear ask-for usd 3 --why 'the tables are large'; gear ask-for egress 1GiB --why data; gear ask-for time 10m --why w;"
            "gear status; gear ask-for net 10.0.0.1 --why x; gear ask-for usd none --why x; gear done --as-is"
        )
        run = user.starts(
            "run", "g", "-f", box(user, place), "--model", user.script({"commands": [script]}), "--unanswered", "deny", "--json"
        )
        user.waits_for("request_made")
        name = json.loads(user.types("requests", "--json", code=0).out)[0]["run"]
        for number in (1, 2, 3):
            deadline = time.monotonic() + 20
            while user.types("allow", name, number).code != 0:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        out, err = run.communicate(timeout=60)
    (command,) = [one for one in user.journal() if one["type"] == "command_ended"]
    told = command["head"]
    assert "limit: $3.95" in told, told  # $1 less the reserve, and what was given
    assert "limit: 2.0 GiB" in told or "limit: 2 GiB" in told, told
    assert "limit: 55m" in told, told
    assert "is an address, not a name" in told and "not an amount of dollars" in told
    assert run.returncode in (0, 11), out + err


def test_nobody_answers(user):
    with outside() as place:
        script = {"commands": ["gear ask-for net mirror.example.org --why x; echo exit $?; gear done --as-is"]}
        file = box(user, place)
        user.types("run", "g", "-f", file, "--model", user.script(script), "--unanswered", "deny", "--after", "1s", "--json")
        heads = [one["head"] for one in user.journal() if one["type"] == "command_ended"]
        assert "nobody answered for 1 s" in heads[0] and "exit 1" in heads[0]
        user.types("run", "g", "-f", file, "--model", user.script(script), "--json")  # where nobody watches, nobody waits
        heads = [one["head"] for one in user.journal() if one["type"] == "command_ended"]
        assert "nobody watches this run; the request stays open" in heads[0]


def test_a_host_is_allowed_unasked_for_a_time_and_taken_away_while_it_is_used(user):
    with outside() as place:
        file = box(user, place, 'allow = ["other.example.org"]\n')
        script = (
            "until curl -sS -m 2 http://mirror.example.org/ 2>/dev/null; do sleep 0.1; done; "
            "curl -sS -m 30 -o /dev/null http://other.example.org/slow; echo cut $?; "
            "while curl -sS -m 2 http://mirror.example.org/ >/dev/null 2>&1; do sleep 0.1; done; echo over"
        )
        run = user.starts("exec", "-f", file, "--", "sh", "-c", script)
        user.waits_for("command_started")
        name = json.loads(next((user.home / "state").glob("gearcase/runs/*/run.json")).read_text())["name"]
        user.types("allow", name, "--net", "mirror.example.org", "--for", "6s", code=0)
        user.waits_for("connection_closed")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            opened = [one for one in user.journal() if one["type"] == "connection_opened"]
            if any(one["name"] == "other.example.org" for one in opened):
                break
            time.sleep(0.1)
        told = user.types("deny", name, "--net", "other.example.org", code=0).out
        assert "1 connections cut" in told
        out, _ = run.communicate(timeout=60)
    assert out.startswith("welcome\n") and "cut 0" not in out and out.endswith("over\n")
    changes = [(one["rule"], one["allowed"], one["by"]) for one in user.journal() if one["type"] == "hosts_changed"]
    assert changes == [
        ("mirror.example.org", True, "operator"),
        ("other.example.org", False, "operator"),
        ("mirror.example.org", False, "time"),
    ]


def test_a_request_that_is_none_is_refused_with_what_to_do(user):
    assert "no run" in user.types("allow", "nothing", 1, code=2).err
    user.types("exec", "--", "true", code=0)
    assert "name one request, or one host" in user.types("deny", "x", code=2).err
    assert user.types("requests", code=0).out.strip() == "nothing is asked for"
