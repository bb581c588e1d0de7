"""An API whose credential stays outside: what a user writes, what a program inside gets, what nobody finds."""

import http.server
import json
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples/doors/api/box.toml"
SECRET = "ghp_canary/4711+never=inside"


class Api(http.server.BaseHTTPRequestHandler):
    """Answers with what it heard; knows one token."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nobody reads it."""

    def do_GET(self):
        self.server.heard.append((self.command, self.path, self.headers.get("Authorization")))
        right = self.headers.get("Authorization") == f"Bearer {SECRET}"
        body = json.dumps({"right": right, "echo": dict(self.headers)}).encode()
        self.send_response(200 if right else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_DELETE = do_GET


@contextmanager
def api():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        server.heard = []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def box(user, server, more=""):
    file = user.folder / "box.toml"
    file.write_text(
        f'[doors.api.github]\nupstream = "{server.url}"\nallow_private = true\n'
        'headers = { Authorization = "Bearer ${GITHUB_TOKEN}" }\n'
        f'allow = ["GET /repos/acme/**"]\n{more}'
    )
    return file


def test_curl_uses_an_api_without_its_token(user):
    with api() as server:
        file = box(user, server, 'rate = "3/m"\n')
        script = (
            "env | grep -c ghp_; echo $GITHUB_API_URL; gear doors; curl -sS $GITHUB_API_URL/repos/acme/x?page=2; echo; "
            "curl -sS -X DELETE http://github.box/repos/acme/x; echo; curl -sS --path-as-is http://github.box/repos/acme/../evil/x; echo; "
            "for i in 1 2 3; do curl -sS -o /dev/null -w '%{http_code}\\n' http://github.box/repos/acme/y; done"
        )
        ended = user.types("exec", "-f", file, "--", "sh", "-c", script, code=0, GITHUB_TOKEN=SECRET)
    assert ended.out.startswith("0\nhttp://github.box\n")
    assert "GET /repos/acme/**" in ended.out and "3 calls in 1m" in ended.out
    assert '"right": true' in ended.out
    assert "call_not_allowed" in ended.out and "bad_path" in ended.out
    assert ended.out.strip().endswith("200\n200\n429")
    assert SECRET not in ended.out + ended.err
    assert [path for _, path, _ in server.heard] == ["/repos/acme/x?page=2", "/repos/acme/y", "/repos/acme/y"]
    calls = [one for one in user.journal() if one["type"] == "api_called"]
    assert [(one["path"], one["status"], one["why"]) for one in calls] == [
        ("/repos/acme/x", 200, "done"),
        ("/repos/acme/x", 403, "call_not_allowed"),
        ("/repos/acme/../evil/x", 400, "bad_path"),
        ("/repos/acme/y", 200, "done"),
        ("/repos/acme/y", 200, "done"),
        ("/repos/acme/y", 429, "rate"),
    ]
    found = subprocess.run(["grep", "-rlaF", SECRET, user.home], capture_output=True, text=True).stdout
    assert found == ""
    shown = user.types("box", "show", file, code=0).out
    assert 'Authorization = "Bearer ${GITHUB_TOKEN}"' in shown


def test_a_missing_token_is_told_before_anything_starts(user):
    with api() as server:
        ended = user.types("exec", "-f", box(user, server), "--", "true", code=2)
    assert (
        "GITHUB_TOKEN" in ended.err
        and "missing_secret" in ended.err + user.types("exec", "--json", "-f", box(user, server), "--", "true").out
    )
    assert not list((user.home / "state").glob("gearcase/runs/*/box.toml"))


def test_the_limit_of_bytes_holds_for_an_api_too(user):
    with api() as server:
        file = box(user, server)
        file.write_text('[limits]\negress = "1MiB"\n' + file.read_text())
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://github.box/repos/acme/x"]
        ended = user.types("exec", "--json", "-f", file, "--", *command, GITHUB_TOKEN=SECRET)
    assert ended.record["exit"] == 0
    assert 200 < ended.record["spent"]["egress"] < 5000


def test_the_example_works_as_it_stands(user):
    """Nothing but the place of the API is changed."""
    text = EXAMPLE.read_text()
    with api() as server:
        file = user.folder / "box.toml"
        file.write_text(text.replace("https://api.github.com", server.url) + "allow_private = true\n")
        command = ("curl", "-sS", "http://github.box/repos/acme/x")
        ended = user.types("exec", "-f", file, "--", *command, code=0, GITHUB_TOKEN=SECRET)
    assert '"right": true' in ended.out and SECRET not in ended.out
    assert user.types("box", "check", EXAMPLE, code=0)
