"""Ground that gives way: no disk left, folders that cannot be written, files that are gone. A clear error, and nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gearcase.journal import verify

COMMAND = str(Path(sys.executable).with_name("gearcase"))
OWN_MOUNTS = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-U", "--map-current-user", "--keep-caps", "-m"]
"""A mount namespace of one's own, for root and for an ordinary user; what is mounted in it is gone with it."""


def in_small_state(stage, size, script):
    """Run a shell script with the state folder on a disk of its own of that size; `$GEARCASE` is the command, `$STATE` the folder."""
    stage.state.mkdir(exist_ok=True)
    text = f"mount -t tmpfs -o size={size},mode=755 tiny $STATE || exit 99\n{script}"
    around = {
        **stage.environment,
        "STATE": str(stage.state),
        "GEARCASE": COMMAND,
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    }
    done = subprocess.run(
        [*OWN_MOUNTS, "sh", "-c", text],
        cwd=stage.work,
        env=around,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 99, done.stderr
    return done


def test_a_disk_that_fills_up_ends_the_run_and_the_next_command_after_making_room_writes_its_ending(stage):
    talkative = stage.script({"text": "x" * 20_000, "commands": ["head -c 20000 /dev/urandom | base64"]})
    script = f"""
        $GEARCASE run g --model {talkative} --take 'out/**' --name talk --quiet --json > first.json; echo $? > first.code
        dd if=/dev/zero of=$STATE/fill bs=512 2>/dev/null
        $GEARCASE ps --json > full.json; echo $? > full.code
        rm $STATE/fill $STATE/gearcase/runs/*/cassette.jsonl
        $GEARCASE report --json > room.json; echo $? > room.code
        cp -r $STATE/gearcase/runs/*/journal journal
    """
    in_small_state(stage, "400k", script)
    first, full, room = (json.loads((stage.work / f"{name}.json").read_text()) for name in ("first", "full", "room"))
    assert (stage.work / "first.code").read_text() == "13\n" and first["status"] == "failed"
    said = json.dumps(first["error"])
    assert "No space left" in said and first["error"]["remedy"]
    assert first["spent"]["usd"] > 0, "what was spent is told although no ending could be written"
    assert (full[0]["name"], full[0]["state"]) == ("talk", "died")
    assert (room["status"], room["error"]["code"]) == ("failed", "supervisor_died")
    assert room["spent"]["usd"] >= first["spent"]["usd"]
    assert verify(stage.work / "journal").ok


def test_a_disk_without_room_for_a_run_is_told_before_anything_is_made(stage):
    model = stage.script({"text": "x"})
    script = f"""
        mkdir -p $STATE/gearcase/runs; dd if=/dev/zero of=$STATE/fill bs=512 2>/dev/null
        $GEARCASE run g --model {model} --take 'out/**' --json > said.json; echo $? > code
        rm $STATE/fill; $GEARCASE ps --json > after.json
    """
    in_small_state(stage, "64k", script)
    error = json.loads((stage.work / "said.json").read_text())["error"]
    assert "No space left" in json.dumps(error) and error["code"] != "internal" and error["remedy"]
    assert (stage.work / "code").read_text() in ("2\n", "13\n")
    assert json.loads((stage.work / "after.json").read_text()) == []


def test_a_run_in_a_disk_that_is_just_full_leaves_no_box(stage):
    model = stage.script({"commands": ["head -c 300000 /dev/urandom > big; gear snapshot; gear snapshot; sleep 4719"]})
    script = f"$GEARCASE run g --model {model} --take 'out/**' --wall 3s --quiet --json > said.json; echo $? > code"
    in_small_state(stage, "200k", script)
    code = (stage.work / "code").read_text()
    assert code in ("11\n", "13\n"), (stage.work / "said.json").read_text()
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 4719" not in running.splitlines()


def test_a_state_folder_that_cannot_be_written_is_told_with_its_name(stage):
    model = stage.script({"text": "x"})
    script = f"""
        mkdir -p $STATE/gearcase/runs; mount -o remount,ro tiny $STATE
        $GEARCASE run g --model {model} --take 'out/**' --json > said.json; echo $? > code
    """
    in_small_state(stage, "1m", script)
    error = json.loads((stage.work / "said.json").read_text())["error"]
    assert error["code"] == "state_folder" and str(stage.state) in error["message"] + error["cause"]
    assert (stage.work / "code").read_text() == "2\n"


def test_the_runs_in_a_state_folder_that_cannot_be_written_can_still_be_looked_at(stage):
    stage.state.mkdir()
    model = stage.script({"commands": ["mkdir out; touch out/x; gear done"]})
    script = f"""
        $GEARCASE run g --model {model} --take 'out/**' --name fine --quiet --json > /dev/null
        $GEARCASE run g --model {stage.script({"fault": "stall"})} --name cut --quiet --json > /dev/null &
        until grep -qs '"type":"sent"' $STATE/gearcase/runs/*/journal/*.jsonl && [ $(ls $STATE/gearcase/runs | wc -l) = 2 ] \\
            && [ $(grep -ls '"type":"sent"' $STATE/gearcase/runs/*/journal/*.jsonl | wc -l) = 2 ]; do sleep 0.05; done
        CUT=$($GEARCASE ps --json | python3 -c "$PICK")
        kill -STOP $!; kill -9 $CUT; kill -9 $!
        sync; until mount -o remount,ro tiny $STATE; do sleep 0.05; done  # what dies still holds its journal open for a moment
        $GEARCASE ps --json > ps.json; echo $? > code
        $GEARCASE report cut > report.txt; $GEARCASE logs cut > logs.txt 2> logs.err
    """
    pick = 'import json, sys; print(next(run["pid"] for run in json.load(sys.stdin) if run["name"] == "cut"))'
    in_small_state(stage, "20m", f"PICK='{pick}'{script}")
    states = {run["name"]: run["state"] for run in json.loads((stage.work / "ps.json").read_text())}
    assert states == {"fine": "unverified", "cut": "died"}
    assert "cannot be written" in (stage.work / "report.txt").read_text()
    assert "cannot be written" in (stage.work / "logs.err").read_text() and (stage.work / "logs.txt").read_text()


def test_a_box_file_that_cannot_be_read_is_told_with_its_name(stage):
    for path, make in {
        "none.toml": lambda path: None,
        "folder.toml": lambda path: path.mkdir(),
        "binary.toml": lambda path: path.write_bytes(b"\xff\xfe\x00"),
        "loop.toml": lambda path: path.symlink_to("loop.toml"),
    }.items():
        make(stage.work / path)
        error = json.loads(stage.types("run", "-f", path, "--json", code=2).stdout)["error"]
        assert path in json.dumps(error) and error["remedy"] and error["code"] != "internal"
    assert not list(stage.state.glob("gearcase/runs/*"))


def test_what_is_given_and_gone_when_the_run_begins_is_told_and_nothing_stays(stage):
    (stage.work / "data").mkdir()
    (stage.work / "data/x").write_text("x")
    box = stage.box({"commands": ["gear done"]}, give=[stage.work / "data"])
    shutil.rmtree(stage.work / "data")
    from gearcase.run.options import RunOptions

    played = stage.execute(RunOptions(box=box, out=stage.work / "result"))
    record = played.record
    assert (record.status, record.exit_code, record.residue) == ("failed", 13, [])
    assert "data" in record.error["message"] and record.error["remedy"]
    assert record.spent.get("usd", 0) == 0 and not played.out.exists()


def test_a_given_path_that_does_not_exist_is_found_before_anything_starts(stage):
    model = stage.script({"text": "x"})
    error = json.loads(stage.types("run", "g", "--give", "nowhere", "--model", model, "--json", code=2).stdout)["error"]
    assert "nowhere" in json.dumps(error)
    assert not list(stage.state.glob("gearcase/runs/*"))


def test_a_folder_for_the_deliverables_that_cannot_be_made_fails_the_run_and_keeps_what_was_made(stage):
    (stage.work / "file").write_text("in the way")
    played = stage.play({"commands": ["mkdir out; echo made > out/x; gear done"]}, out="file/below")
    assert played.record.status == "failed" and played.record.error["remedy"]
    assert (Path(played.record.out) / "out/x").read_text() == "made\n"


@pytest.mark.parametrize("program", [("no-such-program",), ("/etc/passwd",)])
def test_a_program_that_cannot_be_started_says_so(stage, program):
    done = stage.types("exec", "--quiet", "--", *program)
    assert done.returncode in (13, 126, 127) and (done.stderr or done.stdout)
