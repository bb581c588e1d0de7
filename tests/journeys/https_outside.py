"""A real HTTPS server outside, with a certificate of its own: it echoes what it hears, and keeps a git repository behind a password."""

import base64
import http.server
import json
import ssl
import subprocess
import threading
from contextlib import contextmanager
from urllib.parse import quote

NAMES = ("api.test-name", "other.test-name", "api.github.com")


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it heard; below /repo it is a git server, to who knows the token."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nobody reads it."""

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("latin-1")
        said = self.headers.get("Authorization") or ""
        self.server.heard.append(
            {"host": self.headers["Host"], "path": self.path, "authorization": said, "body": body, "all": str(self.headers)}
        )
        if self.path.startswith("/repo"):
            return self.file(said)
        forms = {"raw": said, "url": quote(said, safe=""), "base64": base64.b64encode(said.encode()).decode()}
        return self.answer(
            200, json.dumps({"path": self.path, "echo": forms, "headers": str(self.headers), "body": body}).encode()
        )

    do_POST = do_PUT = do_GET

    def file(self, said):
        pair = base64.b64decode(said.partition(" ")[2]).decode() if said.startswith("Basic ") else ""
        if pair.partition(":")[2] != self.server.token:
            return self.answer(401, b"who are you?", ("WWW-Authenticate", 'Basic realm="git"'))
        file = self.server.repository / self.path.partition("?")[0].removeprefix("/repo/")
        return self.answer(200, file.read_bytes()) if file.is_file() else self.answer(404, b"no such file")

    def answer(self, status, body, *more):
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *more):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def certificate(folder):
    """A certificate for NAMES that is its own authority, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ",".join(f"DNS:{name}" for name in NAMES)
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
    ]
    command += ["-addext", f"subjectAltName={names}", "-keyout", folder / "key.pem", "-out", folder / "ca.pem"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "ca.pem", folder / "key.pem"


@contextmanager
def https(folder, token, repository=None):
    """The server, with what it `heard`; `place` is where it is and `ca` who signed for it."""
    ca, key = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.heard, server.token, server.repository, server.ca = [], token, repository, ca
        server.place = f"127.0.0.1:{server.server_address[1]}"
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
