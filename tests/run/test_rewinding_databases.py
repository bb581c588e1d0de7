"""A run's databases go back with its files: kept with its snapshots, shown by tables and rows, returned while it stands frozen."""

import asyncio
import json

from gearcase.box import Override
from gearcase.run.options import RunOptions
from gearcase.sandbox.states import States
from tests.run.test_rewinding import ask, until

SQL = "psql -XqAt -v ON_ERROR_STOP=1 -c"
SEEN = f"{SQL} 'CREATE VIEW seen AS SELECT 1'"
COUNT = f"{SQL} 'SELECT count(*) FROM t'"
FILL = f"mkdir out; {SQL} 'CREATE TABLE t AS SELECT generate_series(1, 100) x'; echo good > out/x; gear snapshot --note filled > /tmp/kept"
SPOIL = f"{SQL} 'DROP TABLE t; CREATE TABLE u (x int)'; echo bad > out/x; touch spoiled; sleep 25"


def database(name="shop", **more):
    return [Override(("doors", "postgres", name), more, "box")]


async def spoiled(folder):
    """Wait until the second command has spoiled what the first made."""
    await until(lambda: folder.states.exists())
    while True:
        name = (await ask(folder, "snapshot"))["snapshot"]
        if folder.states.exists() and States(folder.states).manifest(name).find(b"spoiled") is not None:
            return
        await asyncio.sleep(0.1)


def test_a_database_goes_back_with_the_files_and_forth_again(stage):
    said = {}

    async def beside(folder):
        await spoiled(folder)
        said["plan"] = await ask(folder, "rewind_plan", to="s1")
        said["back"] = await ask(folder, "rewind", to="s1")
        await ask(folder, "resume")
        await until(lambda: folder.states.exists() and States(folder.states).last.name.startswith("k") and looked(folder))
        said["forth"] = await ask(folder, "rewind", to=said["back"]["kept"])
        await ask(folder, "resume")

    def looked(folder):
        last = States(folder.states)
        return last.manifest(last.last.name).find(b"out/looked") is not None

    look = {"commands": [f"{COUNT} > out/back; cat out/x >> out/back; touch out/looked; cp out/back /tmp/back; sleep 60"]}
    last = {
        "commands": [
            f"cp /tmp/back out/back; {SQL} 'SELECT count(*) FROM u' > out/forth; {COUNT} 2>> out/forth; cat out/x >> out/forth; "
            "cat /box/history/*.txt > out/said; gear done"
        ]
    }
    box = stage.box({"commands": [FILL]}, {"commands": [SPOIL]}, look, last, more=database())
    played = stage.execute(RunOptions(box=box, out=stage.work / "result"), beside)
    assert played.record.status == "unverified", played.record
    (one,) = said["plan"]["databases"]
    assert (one["door"], one["returns"], one["lost"]) == ("postgres.shop", True, [])
    assert one["changes"] == ["dropped  table public.t (100 rows)", "added    table public.u (0 rows)"]
    assert said["plan"]["doors"] == []
    assert said["back"]["databases"] == said["forth"]["databases"] == ["postgres.shop"]
    assert (played.out / "out/back").read_text() == "100\ngood\n"
    forth = (played.out / "out/forth").read_text()
    assert forth.startswith("0\n") and '"t" does not exist' in forth and forth.endswith("bad\n")
    assert "Returned to it as well: postgres.shop" in (played.out / "out/said").read_text()
    assert [(r.event.snapshot, r.event.kept) for r in played.records("database_returned")] == [("s1", "s2"), ("s2", "s3")]
    assert played.record.residue == []
    assert not list(played.folder.path.glob("databases/*.kept")), "what was kept is gone with its database"


def test_sub_agents_find_what_they_share_returned_and_their_own_branch_as_it_was(stage):
    again = f"until {SQL} 'SELECT FROM u' 2>/dev/null; do sleep 0.05; done; {SEEN}; until {COUNT} 2>/dev/null > a2; do sleep 0.05; done"
    spawn = "gear spawn --background --branch shop --take a1 own; gear spawn --background --take a2 shared"
    told = {}

    async def beside(folder):
        journal = folder.journal / "000001.jsonl"
        await until(lambda: b'"kind":"CREATE VIEW"' in journal.read_bytes())
        told["plan"] = await ask(folder, "rewind_plan", to="s1")
        await ask(folder, "rewind", to="s1")
        await ask(folder, "resume")

    played = stage.play(
        {"commands": [FILL]},
        {"commands": [f"{spawn}; until gear result a1 --trace --json | grep -q DELETE; do sleep 0.2; done; {SPOIL}"]},
        {"commands": ["gear wait a1 a2; cp a1 a2 out; gear done"]},
        {"commands": [f"{SQL} 'DELETE FROM t WHERE x > 10'"], "agent": "a1"},
        {"commands": [f"sleep 5; {COUNT} > a1; gear done"], "agent": "a1"},
        {"commands": [again], "agent": "a2"},
        {"commands": ["cat /box/history/*.txt >> a2; gear done"], "agent": "a2"},
        beside=beside,
        more=database(),
    )
    assert "a2" in [one["agent"] for one in told["plan"]["agents"]]
    assert (played.out / "out/a1").read_text() == "10\n", "a branch of its own is untouched"
    shared = (played.out / "out/a2").read_text()
    assert shared.startswith("100\n") and "[from the operator: postgres.shop, which your parent has too" in shared
    assert played.record.residue == []


# --- from the command line -------------------------------------------------------------------------------------------------------

BOX = '[files]\ntake = ["out/**"]\n{files}\n[doors.postgres.shop]\n'


def starts(stage, *steps, files=""):
    (stage.work / "box.toml").write_text(BOX.format(files=files))
    return stage.starts(
        "run", "g", "-f", "box.toml", "--model", stage.script(*steps), "--name", "amber-fox", "--out", "result", "--json"
    )


def is_spoiled(stage):
    return "spoiled" in stage.types("diff", "amber-fox", "s1", "now", "--stat").stdout


def test_what_was_not_kept_is_named_and_nothing_happens_unless_the_files_alone_are_meant(stage):
    """Its states find no room: the agent is told with its snapshot, the operator before anything is frozen."""
    look = {"commands": [f"{SQL} 'SELECT count(*) FROM u' > out/found; cat out/x /tmp/kept >> out/found; gear done"]}
    run = starts(stage, {"commands": [FILL]}, {"commands": [SPOIL]}, look, files='snapshots_max = "1MiB"')
    stage.until(lambda: is_spoiled(stage))
    refused = stage.types("rewind", "amber-fox", "--to", "s1", "--yes")
    assert refused.returncode != 0 and "postgres.shop was not kept with s1" in refused.stderr and "--files-only" in refused.stderr
    assert "running" in stage.types("ps", code=0).stdout, "and nothing was frozen"
    done = stage.types("rewind", "amber-fox", "--to", "s1", "--yes", "--files-only", code=0)
    assert "is not rewound: postgres.shop" in done.stderr
    stage.types("resume", "amber-fox", code=0)
    out, err = run.communicate(timeout=60)
    assert json.loads(out)["status"] == "unverified", err
    found = (stage.work / "result/out/found").read_text()
    assert found.startswith("0\ngood\n") and "postgres.shop" in found and "finds room" in found


def test_a_kill_in_the_middle_of_a_return_leaves_nothing_behind(stage):
    run = starts(stage, {"commands": [FILL]}, {"commands": [SPOIL]})
    stage.until(lambda: is_spoiled(stage))
    back = stage.starts("rewind", "amber-fox", "--to", "s1", "--yes")
    folder = stage.run_folder().parent
    stage.until(lambda: b"before the return" in (folder / "journal/000001.jsonl").read_bytes())
    stage.kill_the_run()
    back.communicate(timeout=60)
    run.communicate(timeout=60)
    stage.types("ps", code=0)
    ended = stage.until(lambda: stage.has("run_ended"))
    assert ended["record"]["residue"] == [] and ended["record"]["error"]["code"] == "supervisor_died"
    assert list((folder / "databases").iterdir()) == []
