"""A real HTTP server on this machine that keeps what it is sent, and answers as it is told."""

import http.server
import json
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Got:
    """One request."""

    path: str
    headers: dict
    body: bytes
    at: float = field(default_factory=time.time)

    @property
    def json(self):
        return json.loads(self.body)


class Listener:
    """What came, and what is answered: statuses in their order, the last one for all that follow; `headers` with each."""

    def __init__(self, *statuses, said="ok", headers=()):
        self.statuses = list(statuses) or [200]
        self.said = said
        self.headers = dict(headers)
        self.got = []
        self.delay = 0.0
        self.heard = lambda got: None
        self.url = ""

    def next_status(self):
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def until(self, count=1, timeout=20, having=lambda got: True):
        """Until so many came; returns them."""
        deadline = time.monotonic() + timeout
        while len(found := [one for one in self.got if having(one)]) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} within {timeout} s: {self.got}"
            time.sleep(0.01)
        return found


@contextmanager
def listening(*statuses, **told):
    """A listener with its `url`, until the end of the block."""
    listener = Listener(*statuses, **told)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got = Got(self.path, dict(self.headers.items()), body)
            listener.heard(got)
            listener.got.append(got)
            time.sleep(listener.delay)
            self.send_response(listener.next_status())
            for name, value in listener.headers.items():
                self.send_header(name, value)
            said = listener.said.encode()
            self.send_header("Content-Length", str(len(said)))
            with suppress(ConnectionError):  # who asked may be gone by now
                self.end_headers()
                self.wfile.write(said)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    listener.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
