"""Sub-agents and databases: they share their parent's, or have a branch of it that is gone when they end."""

from gearcase.box import Override


def database(name="shop", mode="fresh", **more):
    return [Override(("doors", "postgres", name), {"mode": mode, **more}, "box")]


def by(agent, *commands):
    return {"agent": agent, "commands": list(commands)}


def said(played, name):
    return (played.out / "out" / name).read_text().split()


SQL = "psql -XqAt -v ON_ERROR_STOP=1 -c"
MAKE = f"mkdir out; {SQL} 'CREATE TABLE t AS SELECT generate_series(1, 100) x'"
SPAWN = "gear spawn --take 'a*'"


def test_a_branch_is_the_sub_agents_own_and_the_parents_stays_as_it_is(stage):
    """Control: without --branch the same statements reach the parent's tables."""
    played = stage.play(
        {"commands": [f"{MAKE}; {SPAWN} --branch empty; {SQL} 'SELECT count(*) FROM t' > out/kept"]},
        {"commands": [f"{SPAWN} empty; {SQL} 'SELECT count(*) FROM t' > out/gone; cp a* out; gear done"]},
        *(
            by(f"a{n}", f"{SQL} 'SELECT count(*) FROM t; DELETE FROM t; SELECT count(*) FROM t' > a{n}", "gear done")
            for n in (1, 2)
        ),
        more=database(),
    )
    assert said(played, "a1") == ["100", "0"] and said(played, "kept") == ["100"]
    assert said(played, "a2") == ["100", "0"] and said(played, "gone") == ["0"]
    (branched,) = played.records("database_branched")
    assert (branched.agent, branched.event.of, branched.event.how) == ("a1", "lead", "template")
    touched = played.records("contact")[-1].event.relations["public.t"]
    assert touched["written"] >= 300, "what was written in the branch counts as touched"
    assert played.record.residue == []


def test_a_branch_of_a_branch_and_of_a_database_that_is_in_use(stage):
    hold = f"({SQL} 'BEGIN; INSERT INTO t VALUES (1000); SELECT pg_sleep(60); COMMIT' &) ; sleep 1"
    below = f"{SQL} 'DELETE FROM t WHERE x > 10'; {SPAWN} --branch deeper; {SQL} 'SELECT count(*) FROM t' >> a2; mv a2 a1"
    played = stage.play(
        {"commands": [f"{MAKE}; {hold}; {SPAWN} --branch --wall 2m work; {SQL} 'SELECT count(*) FROM t' > out/kept; cp a1 out"]},
        {"commands": ["gear done"]},
        by("a1", below, "gear done"),
        by("a2", f"{SQL} 'SELECT count(*) FROM t; DROP TABLE t' > a2", "gear done"),
        more=database(),
        wall="3m",
    )
    assert said(played, "a1") == ["10", "10"] and said(played, "kept") == ["100"]
    told = {one.agent: (one.event.of, one.event.how) for one in played.records("database_branched")}
    assert told == {"a1": ("lead", "dump"), "a2": ("a1", "template")}


def test_what_an_agent_defined_is_never_run_by_a_superuser_while_it_is_copied(stage):
    """The function of a CHECK runs while rows are restored, and would make whoever restores give the agent all rights."""
    takes = (
        "CREATE FUNCTION takes(x int) RETURNS boolean LANGUAGE plpgsql AS \\$f\\$ BEGIN "
        "IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN ALTER ROLE agent SUPERUSER; END IF; RETURN true; END \\$f\\$"
    )
    make = f'mkdir out; psql -XqAt -c "{takes}" -c "CREATE TABLE t (x int CHECK (takes(x)))" -c "INSERT INTO t VALUES (1)"'
    hold = f"({SQL} 'SELECT pg_sleep(60)' &) ; sleep 1"
    ask = f"{SQL} 'SELECT rolsuper FROM pg_roles WHERE rolname = current_user; SELECT count(*) FROM t' > a1"
    played = stage.play(
        {"commands": [f"{make}; {hold}; {SPAWN} --branch --wall 1m work; cp a1 out"]},
        {"commands": ["gear done"]},
        by("a1", ask, "gear done"),
        more=database(),
        wall="3m",
    )
    assert [one.event.how for one in played.records("database_branched")] == ["dump"]
    assert said(played, "a1") == ["f", "1"]


def test_where_there_is_nothing_to_branch_it_is_refused(stage):
    played = stage.play(
        {"commands": ["mkdir out; gear spawn --usd 0.05 --branch work > out/said 2>&1; gear done"]}, by("a1", "gear done")
    )
    assert "no database that could be branched" in (played.out / "out/said").read_text()
