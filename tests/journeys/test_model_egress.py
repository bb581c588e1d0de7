"""The model door is a door to the outside: what would make a provider fetch, or use what others left there, does not reach it.

The provider outside does all of it: it fetches every address that it is given as something to fetch, and takes files, earlier answers and
dearer modes as they are asked for. The control is the same request sent to it directly.
"""

import gzip
import http.server
import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

CANARY = "http://127.0.0.1:{port}/canary"
ADDRESSES = ("url", "image_url", "file_url", "server_url")
STATE = ("file_id", "previous_response_id")


def wishes(body, headers):
    """What a provider would do for this request beside answering."""
    found = []

    def pairs(items):
        for key, value in items:
            if isinstance(value, str) and value.startswith("http") and key in ADDRESSES:
                found.append("fetch")
            if key in STATE:
                found.append("state")
            if key == "type" and isinstance(value, str) and value.startswith("web_fetch"):
                found.append("fetch")
        return dict(items)

    json.loads(body, object_pairs_hook=pairs)
    return found + (["dearer"] if "context-1m" in headers.get("anthropic-beta", "") else [])


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for wish in wishes(body, self.headers):
            self.server.granted.append(wish)
            urllib.request.urlopen(CANARY.format(port=self.server.server_address[1])).read()
        self.server.calls += 1
        usage = {"input_tokens": 5, "output_tokens": 1}
        told = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "x",
            "stop_reason": "end_turn",
            **usage,
            "usage": usage,
        }
        told["content"] = [{"type": "text", "text": "ok"}]
        self.answer(json.dumps(told).encode())

    def do_GET(self):
        self.server.fetched += 1
        self.answer(b"canary")

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nobody reads it."""


@contextmanager
def providing():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        server.granted, server.calls, server.fetched = [], 0, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def attempts(canary):
    """(name, path, body, headers) of every request that shall not reach the provider as it is."""

    def messages(*blocks, **more):
        turn = [{"role": "user", "content": [{"type": "text", "text": f"look at {canary}"}, *blocks]}]
        return json.dumps({"model": "claude-haiku-4-5", "max_tokens": 16, "messages": turn, **more})

    def responses(*blocks, **more):
        turn = [{"role": "user", "content": [{"type": "input_text", "text": "look"}, *blocks]}]
        return json.dumps({"model": "gpt-5-mini", "max_output_tokens": 16, "input": turn, **more})

    image = {"type": "image", "source": {"type": "url", "url": canary}}
    plain = messages()
    at, to = "/v1/messages", "/v1/responses"
    return [
        ("an image by address", at, messages(image), {}),
        ("a document by address", at, messages({"type": "document", "source": {"type": "url", "url": canary}}), {}),
        ("an MCP connector", at, messages(mcp_servers=[{"type": "url", "url": canary, "name": "m"}]), {}),
        ("web fetch", at, messages(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}]), {}),
        ("somebody's file", at, messages({"type": "image", "source": {"type": "file", "file_id": "file_1"}}), {}),
        ("a file by address", to, responses({"type": "input_file", "file_url": canary}), {}),
        ("an image in responses", to, responses({"type": "input_image", "image_url": canary}), {}),
        ("somebody's answer", to, responses(previous_response_id="resp_1"), {}),
        ("an MCP server", to, responses(tools=[{"type": "mcp", "server_label": "m", "server_url": canary}]), {}),
        ("a key twice", at, plain[:-1] + ', "messages": ' + json.dumps(json.loads(messages(image))["messages"]) + "}", {}),
        ("a packed body", at, gzip.compress(messages(image).encode()).hex(), {"content-encoding": "gzip"}),
        ("a dearer mode", at, plain, {"anthropic-beta": "context-1m-2025-08-07"}),
    ]


PROGRAM = """
import json, os, urllib.error, urllib.request
key = os.environ["ANTHROPIC_API_KEY"]
for name, path, body, headers in json.load(open("attempts.json")):
    data = bytes.fromhex(body) if headers.get("content-encoding") else body.encode()
    headers = {**headers, "content-type": "application/json", "x-api-key": key, "authorization": "Bearer " + key}
    try:
        status = urllib.request.urlopen(urllib.request.Request("http://model.box" + path, data, headers)).status
    except urllib.error.HTTPError as error:
        status = error.code
    print(status, name)
"""


def test_no_request_makes_the_provider_fetch_or_use_what_others_left(user):
    with providing() as server:
        base = f"http://127.0.0.1:{server.server_address[1]}"
        tried = attempts(f"{base}/canary")
        for name, path, body, headers in tried:
            server.granted.clear()
            data = bytes.fromhex(body) if headers.get("content-encoding") else body.encode()
            urllib.request.urlopen(urllib.request.Request(base + path, data, headers)).read()
            assert server.granted, f"the control: sent directly, {name} is granted"
        assert server.fetched >= len(tried)
        server.granted.clear()
        server.calls = server.fetched = 0

        (user.folder / "attempts.json").write_text(json.dumps(tried))
        (user.folder / "program.py").write_text(PROGRAM)
        (user.folder / "box.toml").write_text(
            '[model]\nlead = "anthropic/claude-haiku-4-5"\nallow = ["openai/gpt-5-mini"]\n'
            f'[model.providers.anthropic]\nbase = "{base}"\n[model.providers.openai]\nbase = "{base}/v1"\n'
            '[files]\ngive = ["attempts.json", "program.py"]\n'
        )
        told = user.types("exec", "-f", "box.toml", "--", "python3", "program.py", code=0, **user.keys).out
        assert (server.granted, server.fetched) == ([], 0), told
    status = dict(reversed(line.split(" ", 1)) for line in told.splitlines())
    assert len(status) == len(tried)
    taken_out = [name for name, code in status.items() if code == "200"]
    assert taken_out == ["web fetch", "an MCP server", "a dearer mode"], "these are taken out, and the rest is answered"
    assert set(status.values()) == {"200", "400", "403"}, told
    assert server.calls == len(taken_out)
