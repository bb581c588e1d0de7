"""What a sub-agent tries that it was not given: a door, a sibling's files, more money. Each with the control that got through."""

import http.server
import json
import threading

import pytest

from gearcase.box import Override
from gearcase.run.options import RunOptions
from tests.journeys.https_outside import https
from tests.run.conftest import stage

__all__ = ["stage"]

CANARY = "canary-4731-of-the-outside"


@pytest.fixture
def outside():
    """The port of a server of this machine that answers with the canary."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CANARY.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def by(agent, *commands, **more):
    return {"agent": agent, "commands": list(commands), **more}


def played(stage, *steps, lead, more=(), **box):
    """A run whose lead runs these commands; `out` is delivered."""
    text = "mkdir -p out; " + "; ".join(lead)
    loaded = stage.box({"commands": [text]}, {"commands": ["gear done"]}, *steps, more=more, **box)
    return stage.execute(RunOptions(box=loaded, out=stage.work / "result"))


def got(played, name):
    return (played.out / "out" / name).read_text()


def hosts(port):
    return (
        Override(("doors", "http", "allow"), ["door.example"], "box"),
        Override(("doors", "http", "hosts"), {"door.example": f"127.0.0.1:{port}"}, "box"),
    )


REACH = (
    "curl -sm 5 http://door.example/ > got; curl -sm 3 http://198.18.1.0/ -H 'Host: door.example' >> got;"
    " curl -sm 3 --resolve door.example:80:198.18.1.0 http://door.example/ >> got"
)


def test_a_door_that_was_not_given_is_not_there_and_cannot_be_handed_on(stage, outside):
    on = "gear spawn --usd 0.05 --doors door.example --take x again 2> refused"
    steps = [by("a1", REACH, on, "gear done"), by("a2", REACH, "gear done"), by("a3", REACH, "gear done")]
    lead = [
        "curl -sm 5 http://door.example/ > out/lead",
        "gear spawn --usd 0.20 --doors none --into none one; gear spawn --usd 0.10 --into all two",
        "gear spawn --usd 0.10 --doors door.example --into picked three",
        "cp none/got out/none; cp none/refused out/refused; cp all/got out/all; cp picked/got out/picked",
    ]
    run = played(stage, *steps, lead=lead, more=hosts(outside))
    assert CANARY in got(run, "lead") and CANARY in got(run, "all") and CANARY in got(run, "picked"), "the controls reach it"
    assert CANARY not in got(run, "none")
    assert "no door or host of yours" in got(run, "refused")
    assert [r.agent for r in run.records("agent_spawned")] == ["a1", "a2", "a3"]


@pytest.mark.parametrize("give", ["--give data", ""], ids=["narrowed", "control"])
def test_a_check_tells_nothing_of_files_that_were_not_given(stage, give):
    """What is handed in runs inside the check, beside all files of the parent. The control was given them, and sees what is printed."""
    spy = "mkdir made; echo 'cat /workspace/truth; exit 1' > made/run.sh"
    steps = [
        by("a1", f"{spy}; cat truth data/* > made/own 2>/dev/null; gear check > made/seen 2>&1; gear status --json >> made/seen"),
        by("a1", "gear done >> made/seen 2>&1; cat /box/history/* >> made/seen; gear done --as-is"),
    ]
    ran = played(
        stage,
        *steps,
        lead=[
            f"mkdir data; echo open > data/n; echo {CANARY} > truth; gear spawn --usd 0.50 {give} --take 'made/**' "
            """--check 'sh "$DELIVERED/made/run.sh"' look > out/told""",
            "cp rejected/a1/made/seen out/seen",
        ],
    )
    assert CANARY in got(ran, "told"), "it ran, and its parent reads what it printed"
    assert (CANARY in got(ran, "seen")) == (not give)


def test_a_siblings_files_are_nowhere(stage):
    mark = "the-mark-of-a-sibling-4732"
    search = (
        "(cat /proc/*/root/workspace/kept-4732; find / -name kept-4732; ls /proc/1/cwd/.. /workspace/..) > found 2> /dev/null"
    )
    one = by("a1", f"echo {mark} > kept-4732; sleep 2", "gear done")
    steps = [one, by("a2", search, "gear done"), by("a3", search, "gear done")]
    lead = [
        "gear spawn --usd 0.10 --background --take none one; sleep 0.7",
        "gear spawn --usd 0.10 --take found two; mv found out/sibling",
        "gear wait; echo x > kept-4732; gear spawn --usd 0.10 --give kept-4732 --take found three; mv found out/given",
    ]
    run = played(stage, *steps, lead=lead)
    assert "kept-4732" not in got(run, "sibling")
    assert "/workspace/kept-4732" in got(run, "given"), "who was given it finds it"


def test_no_more_than_its_budget_is_spent_however_it_asks(stage):
    worker = stage.script({"text": "ok", "usage": {"input": 100, "output": 1000}})
    storm = "for n in $(seq 25); do gear ask --max-output 1000 n & done > said 2>&1; wait; gear spawn --usd 9 more 2>> said"
    steps = [by("a1", storm, "gear done"), by("a2", storm, "gear done")]
    lead = ["gear spawn --usd 0.05 --take x one > out/little", "gear spawn --usd 3 --take x two > out/much"]
    run = played(stage, *steps, lead=lead, worker=worker, usd="9.00")
    spent = {r.agent: r.event.spent for r in run.records("agent_returned")}
    assert spent["a1"]["usd"] <= 50_000_000
    assert spent["a2"]["usd"] > 50_000_000 and spent["a2"]["calls"] > spent["a1"]["calls"], "the control pays for more"
    holds = {r.event.hold: r.event for r in run.records("held")}
    for account, limit in (("a1", 50_000_000), ("a2", 3_000_000_000)):
        paid = [r.event for r in run.records("settled") if r.event.hold in holds and holds[r.event.hold].account == account]
        assert sum(one.amounts["usd"] for one in paid) <= limit and not any(one.over for one in paid)


def test_depth_and_number_hold_for_whoever_asks_the_api_itself(stage):
    """Control: what is within the limits is begun."""
    post = 'curl -s http://gear.box/v1/spawn -d \'{"goal": "x", "usd": "0.01"}\' >> said; echo >> said'
    lead = ["gear spawn --usd 0.10 --take said one; cp said out", f"cd out; {post}"]
    run = played(stage, by("a1", post, "gear done"), lead=lead, swarm={"depth": 1, "agents": 1})
    codes = [json.loads(line)["error"]["code"] for line in got(run, "said").splitlines() if line]
    assert codes == ["too_deep", "too_many_agents"]
    assert [one.agent for one in run.records("agent_spawned")] == ["a1"]


def test_arguments_of_a_childs_own_making_open_nothing(stage):
    """It asks the API itself."""
    post = "curl -s http://gear.box/v1/{} -d '{}' >> said; echo >> said"
    tries = [
        post.format("spawn", json.dumps({"goal": "x", "usd": "1e9"})),
        post.format("spawn", json.dumps({"goal": "x", "parent": "lead"})),
        post.format("spawn", json.dumps({"goal": "x", "again": "lead"})),
        post.format("tell", json.dumps({"agent": "lead", "text": "x"})),
        post.format("stop", json.dumps({"agent": "lead"})),
        post.format("result", json.dumps({"agent": "../lead"})),
        post.format("spawn", json.dumps({"goal": "x", "take": ["/etc/passwd"], "give": ["../../etc"]})),
    ]
    run = played(stage, by("a1", "; ".join(tries), "gear done"), lead=["gear spawn --usd 0.10 --take said one; cp said out"])
    answers = [json.loads(line) for line in got(run, "said").splitlines() if line]
    assert len(answers) == len(tries) and all("error" in one for one in answers), answers
    assert len(run.records("agent_spawned")) == 1


# --- databases -------------------------------------------------------------------------------------------------------------

SQL = "psql -XAtq -c"
ATTACK = [
    f"{SQL} 'SELECT count(*) FROM pg_stat_activity WHERE application_name = $$the-other$$'",
    f"{SQL} 'SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $$the-other$$'",
    f"{SQL} 'SELECT lo_unlink(oid) FROM pg_largeobject_metadata'",
    *(f"{SQL} 'DROP DATABASE {name} WITH (FORCE)'" for name in ("shop", "postgres", "template1")),
    f"{SQL} 'ALTER ROLE agent SET default_transaction_read_only = on'",
    f"{SQL} 'ALTER DATABASE shop SET default_transaction_read_only = on'",
    "psql -XAtq -d postgres -c 'SELECT 1'; psql -XAtq -U postgres -c 'SELECT 1'; psql -XAtq -U restorer -c 'SELECT 1'",
    "psql -XAtq -h 198.18.0.3 -c 'DROP TABLE t'; psql -XAtq -h /workspace -c 'DROP TABLE t'",
    f"{SQL} 'DROP OWNED BY agent CASCADE'",
]
LOOK = (
    f"cat /tmp/session; {SQL} 'SELECT count(*) FROM t; SELECT count(*) FROM pg_largeobject_metadata; SHOW transaction_read_only'"
)
SESSION = "PGAPPNAME=the-other psql -XAtqf session.sql > /tmp/session 2>&1"
"""Lasts until somebody says that the attack is over, or for the seconds of `LONG`."""
LONG = "echo 'SELECT pg_sleep(15); SELECT $$alive$$' > session.sql"
WAITS = "printf '%s\\n' '\\! touch begun; while [ ! -e attacked ]; do sleep 0.1; done' 'SELECT $$alive$$' > session.sql"
WHOLE = ["alive", "100", "1", "off"]
SHOP = [Override(("doors", "postgres", "shop"), {}, "box")]
MAKE = f"{SQL} 'CREATE TABLE t AS SELECT generate_series(1, 100) x' -c \"SELECT lo_from_bytea(4711, 'x')\" > made"


@pytest.mark.parametrize("branch", ["--branch shop", ""], ids=["branch", "control"])
def test_a_sub_agent_with_a_branch_reaches_nothing_of_its_parents_database(stage, branch):
    """Control: without a branch it is the same database, and the same words ruin it."""
    lead = [
        f"{MAKE}; {WAITS}; ({SESSION}; ({LOOK}) > out/lead 2>&1) & while [ ! -e begun ]; do sleep 0.1; done",
        f"gear spawn {branch} --take said go; touch attacked; wait; cp said out",
    ]
    run = played(stage, by("a1", f"({'; '.join(ATTACK)}) > said 2>&1", "gear done"), lead=lead, more=SHOP, wall="3m")
    whole = got(run, "lead").split() == WHOLE
    assert whole == bool(branch), got(run, "lead") + got(run, "said")


@pytest.mark.parametrize("branch", ["--branch shop", ""], ids=["branch", "control"])
def test_a_parent_reaches_nothing_of_the_branch_that_its_sub_agent_has(stage, branch):
    """Nor is what a parent gets hold of in its own server worth anything there."""
    lead = [
        f"{MAKE}; gear spawn {branch} --background --take a1 go; until gear agents | grep -q the-other; do sleep 0.2; done; sleep 1",
        f"({'; '.join(ATTACK)}) > out/said 2>&1; gear wait; cp a1 out/a1",
    ]
    begin = f"{LONG}; ({SESSION}; ({LOOK}) > a1 2>&1; touch /tmp/over) < /dev/null > /dev/null 2>&1 &"
    child = by("a1", begin, "while [ ! -e /tmp/over ]; do sleep 0.1; done", "gear done")
    run = played(stage, child, lead=lead, more=SHOP, wall="3m")
    whole = got(run, "a1").split() == WHOLE
    assert whole == bool(branch), got(run, "a1") + got(run, "said")


def test_who_was_not_given_a_database_reaches_none_and_branches_none(stage):
    reach = "psql -XAtq -h shop.box -U agent shop -c 'SELECT 4733'; psql -XAtq -h 198.18.0.3 -U agent shop -c 'SELECT 4733'"
    on = "gear spawn --branch shop --take x again 2>&1; gear spawn --doors postgres.shop --take x again 2>&1; gear doors; env"
    steps = [by(f"a{n}", f"({reach}; {on}) > said 2>&1", "gear done") for n in (1, 2)]
    steps += [by(f"a{n}", "gear done") for n in (3, 4)]
    lead = ["gear spawn --doors none --into none one; gear spawn --into all two; cp none/said out/none; cp all/said out/all"]
    run = played(stage, *steps, lead=lead, more=SHOP, wall="3m")
    assert got(run, "all").splitlines().count("4733") == 2, "the control reaches it at its name and at its address"
    assert "postgresql://" in got(run, "all")
    assert "4733" not in got(run, "none") and "postgresql://" not in got(run, "none") and "PGHOST" not in got(run, "none")
    assert "no database of yours" in got(run, "none") and "no door or host of yours" in got(run, "none")


# --- hosts and secrets -------------------------------------------------------------------------------------------------------


def test_a_port_that_was_not_given_of_a_host_that_was_is_not_there(stage, outside):
    """Control: without the port it has what its parent has."""
    more = (
        Override(("doors", "http", "allow"), ["door.example:8080", "door.example:8081"], "box"),
        Override(("doors", "http", "hosts"), {"door.example": f"127.0.0.1:{outside}"}, "box"),
    )
    reach = "for p in 8080 8081; do echo $p $(curl -sm 5 http://door.example:$p/) >> said; done; gear doors >> said"
    steps = [by("a1", reach, "gear done"), by("a2", reach, "gear done")]
    lead = [
        "gear spawn --doors door.example:8080 --into one one; gear spawn --doors door.example --into all two",
        "cp one/said out/one; cp all/said out/all",
    ]
    run = played(stage, *steps, lead=lead, more=more)
    assert f"8080 {CANARY}" in got(run, "one") and f"8081 {CANARY}" not in got(run, "one")
    assert "door.example:8080" in got(run, "one") and "door.example:8081" not in got(run, "one")
    assert f"8080 {CANARY}" in got(run, "all") and f"8081 {CANARY}" in got(run, "all")


def test_the_placeholder_of_a_secret_that_was_not_given_is_worthless(stage, monkeypatch, tmp_path):
    """Two secrets of one host. The parent hands its placeholders on in a file; what is put in for a sub-agent are its own alone."""
    monkeypatch.setenv("ONE_TOKEN", "the-first-4734")
    monkeypatch.setenv("TWO_TOKEN", "the-other-4735")
    call = 'for t in $(cat tokens); do curl -sm 5 -o /dev/null -H "Authorization: Bearer $t" https://api.test-name/$AGENT; done'
    search = "(env; cat /proc/*/environ; grep -rs 4734 /tmp /box /etc /workspace) > said 2>&1"
    steps = [by(f"a{n}", f"AGENT=a{n}; {call}; {search}", "gear done") for n in (1, 2, 3)]
    lead = [
        "(echo $ONE_TOKEN; echo $TWO_TOKEN) > tokens; AGENT=lead; " + call,
        *(f"gear spawn --doors {doors} --into {doors} --take said go" for doors in ("secrets.one", "none")),
        "gear spawn --take said go; cp secrets.one/said out/one; cp none/said out/none",
    ]
    with https(tmp_path / "outside", "") as server:
        more = [Override(("doors", "http", "hosts"), {"api.test-name": server.place}, "box")]
        more += [
            Override(("secrets", name), {"env": f"{name.upper()}_TOKEN", "hosts": ["api.test-name"], "ca": str(server.ca)}, "box")
            for name in ("one", "two")
        ]
        run = played(stage, *steps, lead=lead, more=more, wall="3m")
        heard = [(one["path"].strip("/"), one["authorization"].removeprefix("Bearer ")) for one in server.heard]
    put_in = {
        agent: [said if "473" in said else "a text" for who, said in heard if who == agent]
        for agent in ("lead", "a1", "a2", "a3")
    }
    assert put_in["lead"] == put_in["a3"] == ["the-first-4734", "the-other-4735"], "the controls"
    assert put_in["a1"] == ["the-first-4734", "a text"]
    assert put_in["a2"] == []
    assert "ONE_TOKEN" in got(run, "one") and "TWO_TOKEN" not in got(run, "one")
    assert "_TOKEN" not in got(run, "none")
    assert "4734" not in got(run, "one").replace("grep -rs 4734", "") and "the-other" not in got(run, "one")
    used = [(r.agent, r.event.secrets) for r in run.records("host_called")]
    assert used == [("lead", ["one"]), ("lead", ["two"]), ("a1", ["one"]), ("a1", []), ("a3", ["one"]), ("a3", ["two"])]
