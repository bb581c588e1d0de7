"""A run's databases go back with its files: kept with its snapshots, shown by tables and rows, returned while it stands frozen."""

import asyncio

from gearcase.box import Override
from gearcase.run.options import RunOptions
from gearcase.sandbox.states import States
from tests.run.test_rewinding import ask, until

SQL = "psql -XqAt -v ON_ERROR_STOP=1 -c"
COUNT = f"{SQL} 'SELECT count(*) FROM t'"
FILL = f"mkdir out; {SQL} 'CREATE TABLE t AS SELECT generate_series(1, 100) x'; echo good > out/x; gear snapshot --note filled > out/kept"
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
