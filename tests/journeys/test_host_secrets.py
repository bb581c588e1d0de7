"""A credential that stays outside, for tools that insist on https://HOST and a variable: unmodified tools, and a search for the value."""

import base64
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.journeys.https_outside import https
from tests.journeys.searching import Search, processes_of_box
from tests.journeys.test_api_door import api

EXAMPLE = Path(__file__).parents[2] / "examples/doors/secrets/box.toml"
SECRET = "ghp_canary/4711+never=inside"
HOST, OTHER = "api.test-name", "other.test-name"


def box(user, server, more="", http=""):
    file = user.folder / "box.toml"
    file.write_text(
        f'[doors.http]\nallow = ["{OTHER}"]\nhosts = {{ "{HOST}" = "{server.place}", "{OTHER}" = "{server.place}" }}\n{http}'
        f'[secrets.github]\nenv = "GITHUB_TOKEN"\nhosts = ["{HOST}"]\nca = "{server.ca}"\n{more}'
    )
    return file


def executes(user, file, *command):
    return user.types("exec", "-f", file, "--", *command, code=0, GITHUB_TOKEN=SECRET)


JAVA = """
import java.net.URI; import java.net.http.*;
public class Get { public static void main(String[] a) throws Exception {
  var token = "Bearer " + System.getenv("GITHUB_TOKEN");
  var request = HttpRequest.newBuilder(URI.create("https://api.test-name/x")).header("Authorization", token).build();
  System.out.print(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body()); } }
"""
FETCH = """
const headers = {authorization: 'Bearer ' + process.env.GITHUB_TOKEN};
fetch('https://api.test-name/x', {headers}).then(r => r.text()).then(t => process.stdout.write(t));
"""
URLLIB = """
import os, urllib.request
asked = urllib.request.Request("https://api.test-name/x", headers={"Authorization": "Bearer " + os.environ["GITHUB_TOKEN"]})
print(urllib.request.urlopen(asked).read().decode(), end="")
"""
CLIENTS = {
    "curl": ("sh", "-c", 'curl -sS -H "Authorization: Bearer $GITHUB_TOKEN" https://api.test-name/x'),
    "python": ("python3", "-c", URLLIB),
    "node": ("node", "-e", FETCH),
    "java": ("sh", "-c", f"cat > Get.java <<'E'\n{JAVA}\nE\njava -Xmx256m Get.java"),
}


@pytest.mark.parametrize("proxy", [False, True], ids=["direct", "proxy"])
@pytest.mark.parametrize("client", CLIENTS)
def test_unmodified_clients_use_a_token_that_they_do_not_have(user, client, proxy):
    with https(user.home / "outside", SECRET) as server:
        ended = executes(user, box(user, server, http="proxy = true\n" if proxy else ""), *CLIENTS[client])
    told = json.loads(ended.out)
    assert [(one["authorization"], one["host"], one["path"]) for one in server.heard] == [(f"Bearer {SECRET}", HOST, "/x")]
    assert told["echo"]["raw"] == "Bearer " + "*" * len(SECRET) and SECRET not in ended.out
    assert base64.b64encode(SECRET.encode()).decode()[:20] not in ended.out and "canary%2F4711" not in ended.out
    records = user.journal()
    calls = [one for one in records if one["type"] == "host_called"]
    assert [(one["host"], one["method"], one["path"], one["secrets"], one["status"]) for one in calls] == [
        (HOST, "GET", "/x", ["github"], 200)
    ]
    assert [(one["name"], one["port"]) for one in records if one["type"] == "connection_opened"] == [(HOST, 443)]


def test_git_clones_over_https_with_a_password_that_it_does_not_have(user):
    repository, work = user.home / "repo", user.home / "work-tree"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", work]
    subprocess.run(["git", "init", "-q", work], check=True)
    (work / "a.txt").write_text("content\n")
    subprocess.run([*git, "add", "a.txt"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, repository], check=True)
    subprocess.run(["git", "-C", repository, "update-server-info"], check=True)
    with https(user.home / "outside", SECRET, repository) as server:
        file = box(user, server)
        ended = executes(
            user,
            file,
            "sh",
            "-c",
            f"git clone -q https://x-access-token:$GITHUB_TOKEN@{HOST}/repo r && cat r/a.txt && cat r/.git/config",
        )
        assert ended.out.startswith("content\n") and SECRET not in ended.out
        # The positive control: with another word than the placeholder the server lets nobody in.
        denied = f"git clone -q https://x-access-token:x$GITHUB_TOKEN@{HOST}/repo q 2>&1; test ! -e q/a.txt"
        assert (
            "Authentication failed" in user.types("exec", "-f", file, "--", "sh", "-c", denied, GITHUB_TOKEN="another-token").out
        )
    pair = base64.b64encode(f"x-access-token:{SECRET}".encode()).decode()
    assert f"Basic {pair}" in {one["authorization"] for one in server.heard}


def test_elsewhere_the_placeholder_stays_one_and_what_may_be_reached_is_told(user):
    with https(user.home / "outside", SECRET) as server:
        script = (
            f'gear doors; echo "token=$GITHUB_TOKEN"; curl -sS -k -H "Authorization: Bearer $GITHUB_TOKEN" https://{OTHER}/elsewhere; '
            f'curl -sS -d "$GITHUB_TOKEN" -H "X-Note: $GITHUB_TOKEN" "https://{HOST}/$GITHUB_TOKEN?q=$GITHUB_TOKEN"; '
            f"curl -sS https://{OTHER}/ 2>&1; curl -sS -m 5 http://{HOST}/ 2>&1"
        )
        ended = user.types("exec", "-f", box(user, server), "--", "sh", "-c", script, GITHUB_TOKEN=SECRET)
    assert f"https://{HOST}" in ended.out and "GITHUB_TOKEN is a placeholder" in ended.out
    placeholder = ended.out.partition("token=")[2].split("\n")[0]
    assert placeholder.startswith("ghp_") and len(placeholder) == len(SECRET)
    elsewhere, told = server.heard
    assert elsewhere["authorization"] == f"Bearer {placeholder}" and elsewhere["host"] == OTHER
    assert (
        told["body"] == placeholder
        and told["path"] == f"/{placeholder}?q={placeholder}"
        and f"X-Note: {placeholder}" in told["all"].replace("x-note", "X-Note")
    )
    assert SECRET not in str(server.heard)
    assert "SSL certificate problem" in ended.out, "TLS of a host without a secret is not opened"
    assert f"Failed to connect to {HOST} port 80" in ended.out


def test_the_example_works_as_it_stands(user):
    """Nothing but the place of the host, and who signed for it, is changed."""
    with https(user.home / "outside", SECRET) as server:
        text = EXAMPLE.read_text() + f'ca = "{server.ca}"\n[doors.http]\nhosts = {{ "api.github.com" = "{server.place}" }}\n'
        (user.folder / "box.toml").write_text(text)
        curl = 'curl -sS -H "Authorization: Bearer $GITHUB_TOKEN" https://api.github.com/user'
        ended = executes(user, "box.toml", "sh", "-c", curl)
    assert server.heard[0]["authorization"] == f"Bearer {SECRET}" and SECRET not in ended.out
    assert user.types("box", "check", EXAMPLE, code=0)
    assert f'key_env = "{SECRET}"' not in user.types("box", "show", "box.toml", code=0).out


def test_a_missing_token_or_a_variable_of_the_boxs_own_is_told_before_anything_starts(user):
    with https(user.home / "outside", SECRET) as server:
        file = box(user, server)
        assert "missing_secret" in user.types("exec", "-f", file, "--", "true", code=2).err
        file.write_text(file.read_text().replace('"GITHUB_TOKEN"', '"OPENAI_API_KEY"'))
        assert "variable_taken" in user.types("exec", "-f", file, "--", "true", code=2, OPENAI_API_KEY=SECRET).err
    assert not list((user.home / "state").glob("gearcase/runs/*/box.toml"))


API_SECRET, DECOY = "glpat-canary/4712+never=inside", "decoy_canary/4713+planted=inside"
PROGRAM = """
import base64, json, os, subprocess, sys, time, urllib.parse, urllib.request
decoy = sys.argv[1]
kept = []
def ask(url, body=None, **headers):
    try:
        kept.append(urllib.request.urlopen(urllib.request.Request(url, body, headers)).read())
    except urllib.error.HTTPError as error:
        kept.append(error.read())
token = os.environ["GITHUB_TOKEN"]
ask("https://api.test-name/echo", Authorization="Bearer " + token)
ask("https://api.test-name/echo", Authorization="Basic " + base64.b64encode(("git:" + token).encode()).decode())
ask(os.environ["GITLAB_API_URL"] + "/repos/acme/x")
ask(os.environ["GITLAB_API_URL"] + "/elsewhere")
message = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}
headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01", "content-type": "application/json"}
ask("http://model.box/v1/messages", json.dumps(message).encode(), **headers)
open("answers", "wb").write(b"\\n".join(kept))
subprocess.run(["env"], stdout=open("environment", "w"))
open("decoy", "w").write(base64.b64encode(("x" + decoy).encode()).decode())
held = open("/tmp/gone", "w+"); held.write(urllib.parse.quote(decoy, safe="")); held.flush(); os.unlink("/tmp/gone")
subprocess.Popen(["sleep", "4713.5"], env={"DECOY": base64.urlsafe_b64encode(decoy.encode()).decode()})
print("ready", [len(one) for one in kept], flush=True)
time.sleep(300)
"""


def test_the_values_are_nowhere_in_the_box_its_record_or_its_cassette_and_a_planted_decoy_is(user):
    """Every process of the live box, its files, then the run's folder: raw, base64, URL-encoded. As root also what is not dumpable."""
    with (
        https(user.home / "outside", SECRET) as server,
        api() as upstream,
        user.provides({"text": "ok"}, {"text": "ok"}) as provider,
    ):
        more = (
            f'[model]\nlead = "anthropic/claude-haiku-4-5"\n[model.providers.anthropic]\nbase = "{provider.base}"\n'
            f'[doors.api.gitlab]\nupstream = "{upstream.url}"\nallow_private = true\nallow = ["GET /repos/**"]\n'
            'headers = { Authorization = "Bearer ${GITLAB_TOKEN}" }\n'
        )
        command = (
            "exec",
            "-f",
            box(user, server, more),
            "--record",
            user.home / "cassette.jsonl",
            "--",
            "python3",
            "-c",
            PROGRAM,
            DECOY,
        )
        running = user.starts(*command, GITHUB_TOKEN=SECRET, GITLAB_TOKEN=API_SECRET, **user.keys)
        try:
            assert running.stdout.readline().startswith("ready"), running.stderr.read() + user.log()
            pids = processes_of_box("4713.5")
            deadline = time.monotonic() + 20
            while not pids and time.monotonic() < deadline:
                pids = processes_of_box("4713.5")
                time.sleep(0.05)
            search = Search(SECRET, API_SECRET, user.key, DECOY)
            read = search.processes(pids)
            python = next(pid for pid in pids if b"python3" in Path(f"/proc/{pid}/cmdline").read_bytes())
            search.files(f"/proc/{python}/root")
            # The positive control of the search itself: in the run's own process, outside of the box, the values are.
            outside = Search(SECRET, API_SECRET, user.key)
            outside.processes([int(one) for one in run_processes(user)])
        finally:
            user.types("kill", "--all", "--yes")
            running.communicate(timeout=30)
    assert [one["authorization"] for one in server.heard] == [
        f"Bearer {SECRET}",
        "Basic " + base64.b64encode(f"git:{SECRET}".encode()).decode(),
    ]
    assert [one[2] for one in upstream.heard] == [f"Bearer {API_SECRET}"] and len(provider.calls()) == 1
    for value in (SECRET, API_SECRET, user.key):
        assert "mem" in outside.places(value)
    if os.getuid() == 0:
        assert read == len(pids) and not search.unread
    assert read >= 2 and search.read > 5 << 20

    search.files(user.home, "record", ["state"])
    search.files(user.home, "cassette", ["."])
    assert (user.home / "cassette.jsonl").stat().st_size > 100
    assert search.places(DECOY) >= {"environ", "cmdline", "mem", "fd", "file", "record"}
    for value in (SECRET, API_SECRET, user.key):
        assert search.places(value) == set()


def run_processes(user):
    """The processes outside that belong to the runs of this user's state folder."""
    folder = str(user.home).encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if b"XDG_STATE_HOME=" + folder in (entry / "environ").read_bytes():
                    yield entry.name
            except OSError:
                continue  # it has ended, or is another user's
