"""What containers take away, one thing at a time: what still works, and what the refusal says.

A container is played by a user namespace of our own, whose root masks or forbids what a runtime does.
"""

import re
import shlex
import subprocess

from tests.journeys.conftest import COMMAND

SMALL = "--memory 256MiB --disk 64MiB"


def contained(user, script, **environment):
    """Run a line as root of a user namespace; exit code and all that it printed."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "bash", "-c", script]
    runtime = user.home / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    around = {**user.environment, "XDG_RUNTIME_DIR": str(runtime), **environment, "G": str(COMMAND)}
    ended = subprocess.run(command, cwd=user.folder, env=around, capture_output=True, text=True, timeout=90)
    return ended.returncode, " ".join((ended.stdout + ended.stderr).split())


def as_user(line):
    return f"unshare --user --map-user=1000 --map-group=1000 bash -c {shlex.quote(line)}"


def test_a_box_starts_as_an_ordinary_user_of_a_user_namespace_that_may_make_others(user):
    code, told = contained(user, as_user(f"$G exec {SMALL} -- id -u"))
    assert code == 0 and told.startswith("1000 "), told


def test_a_masked_proc_is_refused_with_what_to_grant(user):
    masked = "mount --bind /dev/null /proc/keys && "
    for line in (f"$G exec {SMALL} -- id -u", "$G doctor"):
        code, told = contained(user, masked + as_user(line))
        assert code == 3 and "procMount Unmasked" in told and "systempaths=unconfined" in told, told
    assert "none could be started: a fresh /proc cannot be mounted" in told


def test_doctor_starts_a_real_box_and_says_what_came_of_it(user):
    told = " ".join(user.types("doctor", code=0).out.split())
    assert re.search(r"a box was started and ended in \d+ ms, left behind: nothing", told), told
    code, told = contained(user, as_user("$G doctor"))
    assert code == 0 and "left behind: nothing" in told, told


def test_where_no_namespaces_can_be_made_a_box_is_refused_and_the_door_alone_still_limits_money(user):
    forbid = "set -e; echo 0 > /proc/sys/user/max_user_namespaces\n"
    code, told = contained(user, forbid + f"$G exec {SMALL} -- id -u")
    assert code == 3 and "sysctl user.max_user_namespaces" in told, told
    ask = '{"model": "scripted", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}'
    program = f"""
        $G door --model {user.script({"text": "hello"})} --usd 1 --json > door.json & door=$!
        trap 'kill $door' EXIT
        until [ -s door.json ]; do sleep 0.1; done
        url=$(python3 -c 'import json; print(json.load(open("door.json"))["url"])')
        token=$(python3 -c 'import json; print(json.load(open("door.json"))["token"])')
        curl -s -H "x-api-key: $token" $url/v1/messages -d '{ask}'
        curl -s -o /dev/null -w ' status %{{http_code}} ' $url/v1/messages -d '{ask}'
        kill -TERM $door; wait $door
        trap - EXIT
    """
    code, told = contained(user, forbid + "true" + program)
    assert code == 0 and '"text": "hello"' in told.replace('":"', '": "') and "status 401" in told and "in 1 call," in told, told
