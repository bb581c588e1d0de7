"""Real clients in a box, unmodified, through its doors."""

import base64
import hashlib
import http.server
import json
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nobody reads it."""


@contextmanager
def serving(folder):
    """A web server outside, of this folder; gives its place."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Files(*a, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def box(user, allow, hosts, **limits):
    file = user.folder / "box.toml"
    listed = ", ".join(f'"{name}" = "{place}"' for name, place in hosts.items())
    written = "".join(f'{name} = "{value}"\n' for name, value in limits.items())
    file.write_text(f"[limits]\n{written}[doors.http]\nallow = {json.dumps(allow)}\nhosts = {{ {listed} }}\n")
    return file


def executes(user, file, *command):
    return user.types("exec", "-f", file, "--", *command, code=0)


def test_curl_reaches_what_is_allowed_and_nothing_else(user):
    (user.folder / "hello.txt").write_text("from outside\n")
    with serving(user.folder) as place:
        file = box(user, ["files.example.org", "later.example.org:80"], {"files.example.org": place, "later.example.org": place})
        script = (
            "curl -sS http://files.example.org/hello.txt; curl -sS http://evil.example/ 2>&1; "
            "curl -sS -m 5 https://later.example.org/ 2>&1; curl -sS -H 'Host: evil.example' http://files.example.org/; gear doors"
        )
        told = executes(user, file, "sh", "-c", script).out
    assert told.startswith("from outside\n")
    assert "Could not resolve host: evil.example" in told
    assert "Failed to connect to later.example.org port 443" in told
    assert "gearcase: the request is for 'evil.example'" in told
    assert "later.example.org:80" in told
    contacts = [one for one in user.journal() if one["type"] == "connection_opened"]
    assert [(one["name"], one["port"]) for one in contacts] == [("files.example.org", 80)]


def test_the_example_does_what_its_page_says(user):
    example = Path(__file__).parents[2] / "examples/doors/http"
    with serving(example / "packages") as place:
        text = (example / "box.toml").read_text().replace("127.0.0.1:8765", place)  # the port may be taken here
        (user.folder / "box.toml").write_text(text)
        assert (
            executes(user, "box.toml", "curl", "-sS", "http://packages.example.org/hello.txt").out
            == "a file outside of the box\n"
        )
        ended = user.types("exec", "-f", "box.toml", "--", "curl", "-sS", "http://example.com/", code=6)
        assert "Could not resolve host" in ended.err and "denied: example.com" in ended.err


def test_pip_installs_from_an_index_outside(user):
    index = user.home / "index"
    (index / "simple/gadget").mkdir(parents=True)
    source = user.home / "gadget"
    source.mkdir()
    (source / "gadget.py").write_text("VALUE = 42\n")
    wheel = index / "simple/gadget/gadget-1.0-py3-none-any.whl"
    make = (
        "import zipfile, sys\n"
        "with zipfile.ZipFile(sys.argv[1], 'w') as z:\n"
        "    z.writestr('gadget.py', 'VALUE = 42\\n')\n"
        "    z.writestr('gadget-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: gadget\\nVersion: 1.0\\n')\n"
        "    z.writestr('gadget-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "    z.writestr('gadget-1.0.dist-info/RECORD', '')\n"
    )
    subprocess.run([sys.executable, "-c", make, wheel], check=True)
    with serving(index) as place:
        file = box(user, ["packages.example.org"], {"packages.example.org": place})
        script = (
            "python3 -m venv v && v/bin/pip install -q --disable-pip-version-check --trusted-host packages.example.org "
            "--index-url http://packages.example.org/simple gadget && v/bin/python -c 'import gadget; print(gadget.VALUE)'"
        )
        told = executes(user, file, "sh", "-c", script).out
    assert told.strip().endswith("42")


def test_git_clones_over_http(user):
    repository = user.home / "project"
    git = ["git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", repository], check=True)
    (repository / "a.txt").write_text("content\n")
    subprocess.run([*git, "add", "a.txt"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    subprocess.run(["git", "-C", repository, "update-server-info"], check=True)
    with serving(repository) as place:
        file = box(user, ["git.example.org"], {"git.example.org": place})
        told = executes(user, file, "sh", "-c", "git clone -q http://git.example.org/.git c && cat c/a.txt").out
    assert told == "content\n"


FETCH = "fetch('http://files.example.org/hello.txt').then(r => r.text()).then(t => process.stdout.write(t))"
JAVA = """
import java.net.URI; import java.net.http.*;
public class Get { public static void main(String[] a) throws Exception {
  var r = HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create("http://files.example.org/hello.txt")).build(),
                                          HttpResponse.BodyHandlers.ofString());
  System.out.print(r.body()); } }
"""


@pytest.mark.parametrize("client", ["node", "python", "java"])
def test_other_clients_need_no_proxy_variable(user, client):
    (user.folder / "hello.txt").write_text("from outside\n")
    command = {
        "node": ("node", "-e", FETCH),
        "python": (
            "python3",
            "-c",
            "import urllib.request as u; print(u.urlopen('http://files.example.org/hello.txt').read().decode(), end='')",
        ),
        "java": ("sh", "-c", f"cat > Get.java <<'E'\n{JAVA}\nE\njava -Xmx256m Get.java"),
    }[client]
    with serving(user.folder) as place:
        file = box(user, ["files.example.org"], {"files.example.org": place})
        assert executes(user, file, *command).out == "from outside\n"


def test_npm_installs_from_a_registry_outside(user):
    registry = user.home / "registry"
    source = user.home / "gadget/package"
    source.mkdir(parents=True)
    (source / "package.json").write_text('{"name": "gadget", "version": "1.0.0", "main": "index.js"}')
    (source / "index.js").write_text("module.exports = 42;")
    (registry / "files").mkdir(parents=True)
    archive = registry / "files/gadget-1.0.0.tgz"
    subprocess.run(["tar", "-czf", archive, "-C", source.parent, "package"], check=True)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    version = {
        "name": "gadget",
        "version": "1.0.0",
        "dist": {"tarball": "http://npm.example.org/files/gadget-1.0.0.tgz", "integrity": f"sha512-{digest}"},
    }
    (registry / "gadget").write_text(
        json.dumps({"name": "gadget", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})
    )
    with serving(registry) as place:
        file = box(user, ["npm.example.org"], {"npm.example.org": place})
        script = (
            "export HOME=/tmp; npm install --silent --no-audit --no-fund --registry http://npm.example.org/ gadget && "
            "node -e 'console.log(require(\"gadget\"))'"
        )
        assert executes(user, file, "sh", "-c", script).out.strip() == "42"


STATIC = """
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
/* Without a C library's resolver, as Go does it: a question to the first name server, then a connection. */
int main(int argc, char **argv) {
  unsigned char q[512] = {0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, a[512];
  int at = 12, n, port = 0;
  char name[256]; strcpy(name, argv[1]); sscanf(argv[2], "%d", &port);
  for (char *part = strtok(name, "."); part; part = strtok(0, ".")) {
    q[at++] = strlen(part); memcpy(q + at, part, strlen(part)); at += strlen(part);
  }
  q[at++] = 0; q[at++] = 0; q[at++] = 1; q[at++] = 0; q[at++] = 1;
  struct sockaddr_in to = {AF_INET, htons(53)};
  to.sin_addr.s_addr = htonl(0x7f000001);
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  connect(s, (void *)&to, sizeof to); write(s, q, at); n = read(s, a, sizeof a);
  if (n < at + 16 || !a[7]) { puts("no such name"); return 1; }
  memcpy(&to.sin_addr, a + n - 4, 4); to.sin_port = htons(port);
  s = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(s, (void *)&to, sizeof to)) { perror("connect"); return 1; }
  n = read(s, a, sizeof a - 1); a[n > 0 ? n : 0] = 0; printf("%s", (char *)a);
  write(s, "SSH-2.0-client\\r\\n", 16);
  while ((n = read(s, a, sizeof a)) > 0) fwrite(a, 1, n, stdout);
  return 0;
}
"""


def test_a_static_binary_speaks_raw_tcp_to_a_server_that_speaks_first(user):
    """What no proxy variable reaches: a program without a C library's resolver, a protocol that is not the web's."""
    heard = []

    class Ssh(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"SSH-2.0-server\r\n")
            heard.append(self.rfile.readline())
            self.wfile.write(b"welcome\n")

    (user.folder / "client.c").write_text(STATIC)
    subprocess.run(["cc", "-static", "-w", "-o", user.folder / "client", user.folder / "client.c"], check=True)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Ssh) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_address[1]}"
        file = box(user, ["tcp://git.example.org:22"], {"git.example.org": place})
        file.write_text(file.read_text() + '[files]\ngive = ["client"]\n')
        told = executes(user, file, "sh", "-c", "./client git.example.org 22; ./client evil.example 22; exit 0").out
        server.shutdown()
    assert told == "SSH-2.0-server\nwelcome\nno such name\n"
    assert heard == [b"SSH-2.0-client\r\n"]


def test_the_limit_of_bytes_cuts_and_says_so(user):
    (user.folder / "big.bin").write_bytes(bytes(4 << 20))
    with serving(user.folder) as place:
        file = box(user, ["files.example.org"], {"files.example.org": place}, egress="2MiB")
        ended = user.types("exec", "--json", "-f", file, "--", "curl", "-sS", "http://files.example.org/big.bin", "-o", "x")
    assert ended.record["exit"] != 0
    assert [one["why"] for one in user.journal() if one["type"] == "connection_closed"] == ["budget"]
    assert 1 << 20 < ended.record["spent"]["egress"] <= 2 << 20


def test_by_the_proxy_the_same_is_reached_and_no_more(user):
    (user.folder / "hello.txt").write_text("from outside\n")
    with serving(user.folder) as place:
        file = box(user, ["files.example.org"], {"files.example.org": place, "evil.example.org": place})
        file.write_text(file.read_text() + "proxy = true\n")
        script = (
            "curl -sS http://files.example.org/hello.txt http://files.example.org/hello.txt; "
            'python3 -c \'import urllib.request as u; print(u.urlopen("http://files.example.org/hello.txt").read().decode(), end="")\'; '
            "curl -sS http://evil.example.org/hello.txt; curl -sS https://evil.example.org/ 2>&1; "
            "curl -sS http://127.0.0.1/ --noproxy ''; curl -sS http://gear.box/ --noproxy ''; gear doors"
        )
        told = executes(user, file, "sh", "-c", script).out
    assert told.startswith("from outside\n" * 3)
    assert "evil.example.org:80 may not be reached" in told and "CONNECT tunnel failed, response 403" in told
    assert told.count("the proxy leads to names only") == 2 and "http://proxy.box:13128" in told
    records = user.journal()
    assert [one["name"] for one in records if one["type"] == "connection_opened"] == ["files.example.org"] * 3
    assert {one["name"] for one in records if one["type"] == "name_asked" and not one["allowed"]} == {"evil.example.org"}
