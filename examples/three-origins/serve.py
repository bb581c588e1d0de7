"""The API that knows who owns a machine, for those who have its token.

`OWNERS_TOKEN=... python3 serve.py OUT/owners.json [PORT]` prints its address.
"""

import http.server
import json
import os
import sys
from pathlib import Path


class Owners(http.server.BaseHTTPRequestHandler):
    """GET /assets/GC-0042 -> {"asset", "owner"}; 401 without the token, 404 for a machine without an owner."""

    protocol_version = "HTTP/1.1"
    known: dict[str, str]
    token: str

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        """Answer one question."""
        asset = self.path.removeprefix("/assets/")
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            self._answer(401, {"error": "no token"})
        elif asset not in self.known:
            self._answer(404, {"error": f"{asset} has no owner"})
        else:
            self._answer(200, {"asset": asset, "owner": self.known[asset]})

    def _answer(self, status: int, what: dict[str, str]) -> None:
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Owners.known = json.loads(Path(sys.argv[1]).read_text())
    Owners.token = os.environ["OWNERS_TOKEN"]
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Owners) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()
