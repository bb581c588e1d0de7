"""`gear spawn` and its kind inside a run: what a sub-agent gets, what comes back, what it pays, and how each of its ends is told."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from gearcase.control import command
from gearcase.sandbox import owners, processes


def said(played, name):
    return (played.out / "out" / name).read_text()


def answer(played, name):
    return json.loads(said(played, name))


def by(agent, *commands, **more):
    """A step of one agent's script."""
    return {"agent": agent, "commands": list(commands), **more}


def returned(played):
    return {r.agent: r.event for r in played.records("agent_returned")}


DONE = "gear done --note 'all is well'"


def test_a_sub_agent_works_on_a_copy_of_the_files_and_what_it_made_comes_back(stage):
    (stage.work / "given.txt").write_text("one\n")
    played = stage.play(
        {"commands": ["mkdir out; echo mine > mine.txt"]},
        {
            "commands": [
                "gear spawn --usd 0.20 --take 'made/**' 'count the lines' > out/said; echo $? > out/code; ls -R made >> out/said"
            ]
        },
        {"commands": ["gear done"]},
        by("a1", "mkdir made; cat given.txt mine.txt > made/both; echo lost > other; id -u", DONE),
        give=[stage.work / "given.txt"],
        take=("out/**", "made/**"),
    )
    assert (played.out / "made/both").read_text() == "one\nmine\n"
    assert said(played, "code") == "0\n"
    assert "a1: done" in said(played, "said") and "note: all is well" in said(played, "said")
    assert "copied into your files: made/both" in said(played, "said")
    ended = returned(played)["a1"]
    assert (ended.status, ended.note, ended.parent) == ("done", "all is well", "lead")
    assert ended.spent["usd"] > 0 and ended.spent["calls"] == 1
    assert played.record.spent["agents"] == 1 and played.record.residue == []
    assert len(played.records("sandbox_opened")) == len(played.records("sandbox_closed")) == 2
    copied = played.records("results_copied")[0].event
    assert copied.copied == ["made/both"] and not copied.conflicts and not copied.refused


def run(stage, *steps, lead, **box):
    """A run whose lead runs these commands, whatever they come to, and hands in `out`."""
    text = "mkdir -p out; " + "; ".join(lead)
    return stage.play({"commands": [text]}, {"commands": ["gear done"]}, *steps, **box)


SPAWN = "gear spawn --usd 0.10"
TELL = "> out/said 2>&1; echo $? > out/code"


# --- what it is given and what comes back -----------------------------------------------------------------------------------------


def test_only_what_is_given_is_there_and_nothing_of_another_sub_agents_files(stage):
    begin = "mkdir d e; echo 1 > d/x; echo 2 > e/y; echo 3 > z"
    spawn = f"{SPAWN} --give d --give z --take 'list*' one {TELL}"
    look = "find . -type f > /tmp/found; sort /tmp/found > list; touch mine"
    played = run(
        stage,
        by("a1", look, DONE),
        lead=[begin, spawn, "cp list out"],
    )
    assert said(played, "list") == "./d/x\n./z\n"


def test_what_the_parent_changed_meanwhile_is_never_overwritten(stage):
    lead = [
        "echo base > both; echo base > only; echo base > same",
        f"{SPAWN} --background go > out/began",
        "echo parent > both; echo new > fresh; echo equal > same; gear wait > out/said; echo $? > out/code",
        "cat both only fresh same conflicts/a1/both conflicts/a1/fresh > out/files",
        "find conflicts -type f | sort > out/beside",
    ]
    child = by("a1", "sleep 1; for f in both only fresh; do echo child > $f; done; echo equal > same; chmod +x only", DONE)
    played = run(stage, child, lead=lead)
    assert said(played, "files") == "parent\nchild\nnew\nequal\nchild\nchild\n"
    assert said(played, "beside") == "conflicts/a1/both\nconflicts/a1/fresh\n"
    assert "conflict: both: you have changed it, its version is conflicts/a1/both" in said(played, "said")
    told = played.records("results_copied")[0].event
    assert (told.count, told.beside) == (1, 2)


def test_results_go_into_a_folder_of_their_own_where_it_is_asked_for(stage):
    lead = ["echo base > x", f"{SPAWN} --into from/a --take x go {TELL}", "cat x from/a/x > out/files"]
    played = run(stage, by("a1", "echo child > x", DONE), lead=lead)
    assert said(played, "files") == "base\nchild\n"


@pytest.mark.parametrize("place", ["/etc", "../..", "link"])
def test_no_path_of_an_agent_leads_the_host_elsewhere(stage, place):
    lead = [f"ln -s /etc link; {SPAWN} --into {place} --take x go {TELL}", "ls -a / > /dev/null; ls link/x 2>> out/said"]
    played = run(stage, by("a1", "echo child > x; rm -f link; mkdir -p conflicts", DONE), lead=lead)
    assert "copied into" not in said(played, "said")
    assert "x" not in [r["path"] for r in played.records("results_copied")[0].event.refused] if place == "link" else True


def test_links_and_specials_of_a_sub_agent_stay_there(stage):
    child = by("a1", "ln -s /etc/passwd link; mkfifo pipe; mkdir .git; echo x > .git/config; echo y > ok", DONE)
    played = run(stage, child, lead=[f"{SPAWN} go {TELL}", "ls -A > out/list"])
    assert said(played, "list").split() == ["ok", "out"]
    assert "link: a link, to /etc/passwd" in said(played, "said") and "pipe: a fifo" in said(played, "said")


# --- its check, and again ---------------------------------------------------------------------------------------------------------


def test_a_check_judges_with_the_parents_files_and_a_failed_one_keeps_its_version_apart(stage):
    check = "--check 'python3 judge.py $DELIVERED/x'"
    judge = 'echo "import sys; v = open(sys.argv[1]).read(); print(v); sys.exit(v != \\"good\\\\n\\")" > judge.py'
    lead = [
        judge,
        f"{SPAWN} {check} --take x first > out/first; echo $? > out/code; ls rejected/a1 > out/beside; ls x 2>> out/beside",
        "gear result a1 --trace > out/trace",
        "gear spawn --again a1 second > out/second; echo $? >> out/code; cat x >> out/second",
    ]
    steps = [
        by("a1", "echo bad > x; echo 'exit()' > judge.py", "gear done --as-is"),
        by("a2", "echo good > x; gear check > /dev/null || exit 1; gear done"),
    ]
    played = run(stage, *steps, lead=lead)
    assert said(played, "code") == "1\n0\n"
    assert "a1: done, check failed" in said(played, "first") and "gear spawn --again a1" in said(played, "first")
    assert said(played, "beside").startswith("x\n") and "cannot access 'x'" in said(played, "beside")
    assert "$ echo bad > x" in said(played, "trace")
    assert "a2: done, check passed" in said(played, "second") and said(played, "second").endswith("good\n")
    spawned = {r.agent: r.event for r in played.records("agent_spawned")}
    assert spawned["a2"].again == "a1" and spawned["a2"].check == spawned["a1"].check and spawned["a2"].goal == "second"
    assert played.record.checks == [], "its verdicts are its own"


def test_a_check_may_use_files_that_its_sub_agent_was_not_given(stage):
    lead = [
        "mkdir data; echo 4 > data/n; echo 5 > truth; echo 'test $(cat $DELIVERED/sum) = $(cat truth)' > judge.sh",
        f"{SPAWN} --give data --take sum --take seen --check 'sh judge.sh' add > out/first; cat sum seen >> out/first",
    ]
    played = run(stage, by("a1", "ls > seen; echo $(($(cat data/n) + 1)) > sum", "gear done"), lead=lead)
    assert "a1: done, check passed" in said(played, "first") and said(played, "first").endswith("5\ndata\nseen\n")


def test_the_parent_sees_why_a_check_failed_and_that_it_never_looked_at_what_was_handed_in(stage):
    check = "for n in $(seq 30); do echo line $n; done; test -s x || { echo x is not there; exit 3; }"
    lead = [
        f"{SPAWN} --check '{check}' --take x first > out/first; gear result a1 > out/later; gear agents > out/tree",
        "gear spawn --again a1 --check 'test -s $DELIVERED/x' second > out/second; echo $? > out/code",
    ]
    played = run(stage, by("a1", "echo good > x", "gear done --as-is"), by("a2", "echo good > x", DONE), lead=lead)
    lines = said(played, "first").splitlines()
    at = lines.index("  check: exit 3")
    assert (
        lines[at - 1] == "a1: done, check failed"
        and lines[at + 1] == "    | line 12"
        and lines[at + 20] == "    | x is not there"
    )
    assert "those of the agent are below $DELIVERED" in lines[at + 21]
    assert "gear spawn --again a1 [--check 'BETTER CHECK']" in lines[-1] and said(played, "later") == said(played, "first")
    assert said(played, "code") == "0\n" and "a2: done, check passed" in said(played, "second")
    assert {tuple(r.event.take) for r in played.records("agent_spawned")} == {("x",)}


def test_one_that_goes_again_has_the_name_and_the_work_of_the_one_before_it(stage):
    spawn = f"{SPAWN} --name ini --give raw --take 'made/**' --check 'grep -q good $DELIVERED/made/x'"
    lead = [
        f"mkdir raw; echo 1 > raw/a; echo 2 > other; {spawn} first > out/first",
        "gear spawn --again ini second > out/second; cat made/seen > out/seen; gear result ini > out/latest",
    ]
    steps = [
        by("a1", "mkdir made; echo bad > made/x", "gear done --as-is"),
        by("a2", "find . -type f | sort > /tmp/seen; mkdir made; mv /tmp/seen made; echo good >> made/x", DONE),
    ]
    played = run(stage, *steps, lead=lead)
    assert said(played, "first").startswith("a1 ini: done, check failed")
    assert said(played, "second").startswith("a2 ini: done, check passed") and said(played, "latest") == said(played, "second")
    assert said(played, "seen").split() == ["./raw/a", "./rejected/a1/made/x"]
    told = (played.folder.path / "cassette.jsonl").read_text()
    assert "a1 worked on this before you; its check did not pass what it made, which lies below rejected/a1" in told


def test_a_name_is_passed_on_only_when_its_bearer_has_ended(stage):
    lead = [
        f"{SPAWN} --name x --background one > out/said; gear spawn --again x --background two >> out/said",
        f"{SPAWN} --name x three >> out/said 2>&1; gear stop a1 > /dev/null; gear wait > /dev/null",
        "gear spawn --again a1 --name x four > /dev/null",
    ]
    steps = [by("a1", "sleep 4726"), by("a2", DONE), by("a3", DONE)]
    played = run(stage, *steps, lead=lead)
    assert [r.event.name for r in played.records("agent_spawned")] == ["x", "a2", "x"]
    assert "there is an agent 'x' already" in said(played, "said")


# --- limits -----------------------------------------------------------------------------------------------------------------------


def test_its_money_is_carved_and_what_it_left_returns(stage):
    lead = [
        "gear status --json > out/before",
        f"{SPAWN} --background one; gear status --json > out/during; gear wait {TELL}",
        "gear status --json > out/after",
    ]
    played = run(stage, by("a1", "sleep 0.5", DONE, usage={"input": 1000, "output": 100}), lead=lead)
    free = [float(answer(played, name)["budget"]["usd"]["free"][1:]) for name in ("before", "during", "after")]
    assert free[1] == pytest.approx(free[0] - 0.10, abs=0.0051)
    spent = returned(played)["a1"].spent["usd"]
    assert free[2] == pytest.approx(free[0] - spent / 1e9, abs=0.0051)
    accounts = {r.event.account: r.event.limits for r in played.records("account_opened")}
    assert accounts["a1"]["usd"] == 100_000_000 and accounts["a1.reserve"]["usd"] == 5_000_000
    assert played.record.spent["usd"] + played.record.remaining["usd"] == 1_000_000_000


def test_one_without_doors_is_given_no_egress(stage):
    lead = [
        f"{SPAWN} --doors none --background one > out/none; {SPAWN} --background two > out/some; gear wait; gear status > out/after"
    ]
    played = run(stage, by("a1", "gear doors > seen", DONE), by("a2", DONE), lead=[*lead, "cat seen > out/seen"])
    assert "egress" not in said(played, "none") and "egress 256" in said(played, "some")
    assert "model.box" in said(played, "seen") and "gear.box" in said(played, "seen")
    assert [r.event.limits["egress"] for r in played.records("agent_spawned")] == [0, 2**28]


def test_what_is_set_aside_for_sub_agents_is_told_and_does_not_look_spent(stage):
    played = stage.play(
        {"commands": [f"mkdir out; {SPAWN} --background one; gear status > out/during"]},
        {"commands": ["gear wait > out/said; gear status > out/after"]},
        {"commands": ["cp /box/history/*.txt out"]},
        {"commands": ["gear done"]},
        by("a1", "sleep 2"),
        by("a1", "cp /box/history/*.txt .", DONE),
        take=("out/**", "*.txt"),
    )
    told = [line for file in sorted((played.out / "out").glob("0*.txt")) for line in file.read_text().splitlines()]
    first, second, third, *_ = [line for line in told if line.startswith("[left: ")]
    assert " of $1.00, " in first and " of $1.00 ($0.10 set aside for agents and repairs), " in second and " of $1.00, " in third
    assert "set_aside: $0.10" in said(played, "during") and "set_aside" not in said(played, "after")
    below = [line for file in played.out.glob("0*.txt") for line in file.read_text().splitlines() if line.startswith("[left: ")]
    assert below and not any("set aside" in line for line in below), "its own reserve is not set aside for anybody"


def test_a_sub_agent_out_of_money_returns_with_the_limit_what_it_spent_and_how_to_go_on(stage):
    dear = by("a1", "echo part > part", usage={"input": 100, "output": 4000})
    played = run(stage, *[dear] * 4, lead=[f"gear spawn --usd 0.12 go {TELL}", "cat part >> out/said"])
    assert "a1: budget (usd)" in said(played, "said") and said(played, "code") == "1\n"
    assert "gear spawn --again a1 --usd MORE" in said(played, "said") and said(played, "said").endswith("part\n")
    assert returned(played)["a1"].spent["usd"] <= 120_000_000
    assert played.record.limit == "", "the run's own limits were not met"


@pytest.mark.parametrize(
    ("option", "steps", "limit"),
    [("--steps 2", 1, "steps"), ("--wall 1s", 1, "wall"), ("--tokens 9000", 3, "tokens")],
)
def test_every_limit_of_its_own_ends_it(stage, option, steps, limit):
    work = by("a1", "sleep 0.7; true", usage={"input": 2000, "output": 500})
    played = run(stage, *[work] * steps, lead=[f"{SPAWN} {option} go {TELL}"])
    assert f"({limit})" in said(played, "said") and said(played, "code") == "1\n"
    assert returned(played)["a1"].limit == limit


def test_more_than_the_parent_has_is_refused_with_what_is_left(stage):
    played = run(stage, lead=[f"gear spawn --usd 5 go {TELL}", "gear spawn --steps 0 x >> out/said 2>&1"])
    assert "$5.00 are asked for and $0.9" in said(played, "said") and said(played, "code") == "1\n"
    assert not played.records("agent_spawned")


def test_who_spawns_for_ever_is_refused_in_the_end(stage):
    more = "gear spawn deeper > said 2>&1; cat said"
    steps = [by(f"a{n}", more, "gear done --as-is") for n in range(1, 4)]
    played = run(stage, *steps, lead=[f"gear spawn go {TELL}"], usd="20.00")
    assert sorted(r.event.depth for r in played.records("agent_spawned")) == [1, 2, 3]
    refused = [r.event.detail["code"] for r in played.records("gear_used") if not r.event.ok]
    assert refused == ["too_deep"]
    assert "too_deep" in refused and returned(played)["a3"].status == "done"


def test_the_number_of_all_agents_is_refused_and_of_those_at_work_is_not(stage):
    many = "for n in 1 2 3 4 5 6; do gear spawn --usd 0.10 --background go; done > out/began 2>&1"
    steps = [by(f"a{n}", "sleep 0.5", DONE) for n in range(1, 6)]
    played = run(stage, *steps, lead=[many, f"gear wait {TELL}"], swarm={"agents": 5, "live": 2})
    assert "5 sub-agents were spawned in this run, which is all" in said(played, "began")
    assert said(played, "began").count("is queued") == 3 and said(played, "code") == "0\n"
    assert [one.status for one in returned(played).values()] == ["done"] * 5
    living = most = 0
    for record in played.records("sandbox_opened", "sandbox_closed"):
        living += 1 if record.type == "sandbox_opened" else -1
        most = max(most, living)
    assert most == 3, "the lead's and two"


def test_one_that_waits_for_its_own_lends_its_place(stage):
    steps = [by("a1", "gear spawn --usd 0.20 below", DONE), by("a2", "true", DONE)]
    played = run(stage, *steps, lead=[f"gear spawn --usd 0.40 go {TELL}"], swarm={"live": 1})
    assert said(played, "code") == "0\n" and {r.status for r in returned(played).values()} == {"done"}


# --- words ------------------------------------------------------------------------------------------------------------------------


def test_notes_go_both_ways_marked_and_bounded(stage):
    lead = [
        {"commands": [f"mkdir out; {SPAWN} --background go; gear tell a1 'use the other file'; gear wait > out/said"]},
        {"commands": ["cp -r /box/history out; gear tell a1 too late 2> out/late; head -c 5000 /dev/zero | tr '\\0' x > big"]},
        {"commands": ["gear tell parent x 2>> out/late; gear tell a1 $(cat big) 2>> out/late; gear done"]},
    ]
    steps = [by("a1", "sleep 0.5"), by("a1", "grep -rh other /box/history > heard; gear tell parent 'I found <it>'", DONE)]
    played = stage.play(*lead, *steps, take=("out/**", "heard"))
    heard = (played.out / "heard").read_text()
    assert "note from lead, your parent" in heard and "use the other file" in heard
    history = "".join(file.read_text() for file in (played.out / "out/history").iterdir())
    assert "note from a1, a sub-agent of yours" in history and "I found <it>" in history
    assert [(r.agent, r.event.to) for r in played.records("agent_told")] == [("lead", "a1"), ("a1", "lead")]
    assert (
        "a1 has ended" in said(played, "late")
        and "you are the lead" in said(played, "late")
        and "4000 characters" in said(played, "late")
    )


def test_an_agent_sees_and_stops_those_below_it_and_nobody_else(stage):
    nosy = "gear stop a1 2> said; gear result a1 2>> said; gear tell a1 hi 2>> said; gear agents >> said; gear stop lead 2>> said"
    lead = [f"{SPAWN} --background one; {SPAWN} --take said two {TELL}", "gear agents > out/tree", "gear stop a1 > out/stopped"]
    steps = [by("a1", "sleep 4722"), by("a2", nosy, DONE)]
    played = run(stage, *steps, lead=[*lead, "cat said >> out/said"])
    assert said(played, "said").count("there is no agent") == 4
    assert "a1: running" in said(played, "tree") and "a2: done" in said(played, "tree")
    assert "a1: stopped" in said(played, "stopped") and returned(played)["a1"].status == "stopped"


def test_the_tree_of_agents_tells_a_failed_check_and_has_a_line_for_each(stage):
    goal = "count the rows of every table and of each view, then say in one line which of them is the largest of all of them"
    lead = [
        f"{SPAWN} --check false --take x one > /dev/null",
        f"{SPAWN} --background '{goal}\nand more' > /dev/null; until gear agents | grep -q working; do sleep 0.1; done",
        "gear agents > out/tree; gear stop a2 > /dev/null",
    ]
    steps = [by("a1", "gear done --as-is"), by("a2", "echo working\necho second\n"), by("a2", "sleep 4727")]
    played = run(stage, *steps, lead=lead)
    first, second, last, _ = said(played, "tree").splitlines()
    assert first.startswith("a1: done, check failed, usd ") and first.endswith(": one")
    assert second.endswith(
        ": count the rows of every table and of each view, then say in one line which of them is the largest of ..."
    )
    assert last == "  $ echo working ..."


# --- ends -------------------------------------------------------------------------------------------------------------------------


def test_a_parent_that_ends_takes_all_below_it_along_and_they_say_so(stage):
    steps = [by("a1", "gear spawn --usd 0.10 --background x; sleep 4723"), by("a2", "sleep 4724")]
    until = 'until gear agents --json | grep -q \'"agent": "a2"\'; do sleep 0.05; done'
    played = run(stage, *steps, lead=[f"gear spawn --usd 0.30 --background go; {until}"])
    assert {name: event.status for name, event in returned(played).items()} == {"a1": "parent_ended", "a2": "parent_ended"}
    assert played.record.residue == [] and played.record.status == "unverified"
    opened = [r.event.sandbox for r in played.records("sandbox_opened")]
    assert sorted(opened) == sorted(r.event.sandbox for r in played.records("sandbox_closed"))


def test_a_sub_agent_whose_box_the_kernel_killed_is_told_as_lost(stage):
    async def stab(folder):
        def first():
            file = Path(owners.runtime_folder(), "boxes", f"{folder.id}-a1.json")
            begun = any(folder.journal.glob("*")) and b"sleep 4725" in (folder.journal / "000001.jsonl").read_bytes()
            return begun and json.loads(file.read_text())["processes"]

        while not (found := first()):
            await asyncio.sleep(0.02)
        processes.send(int(next(iter(found))), signal.SIGKILL)

    played = stage.play(
        {"commands": [f"mkdir out; {SPAWN} go {TELL}"]}, {"commands": ["gear done"]}, by("a1", "sleep 4725"), beside=stab
    )
    assert "a1: lost" in said(played, "said") and "gear spawn --again a1" in said(played, "said")
    assert returned(played)["a1"].status == "lost" and played.record.status == "unverified"
    assert played.record.residue == []


def test_a_killed_run_ends_its_sub_agents_and_a_frozen_one_stands_still_with_them(stage):
    async def brake(folder):
        beat = folder.journal / "000001.jsonl"
        while not (beat.exists() and b"while :" in beat.read_bytes() and b"sleep 4726" in beat.read_bytes()):
            await asyncio.sleep(0.02)
        await asyncio.to_thread(command, folder, "freeze")
        boxes = [Path(owners.runtime_folder(), "boxes", f"{folder.id}{end}.json") for end in ("", "-a1")]
        assert all(box.exists() for box in boxes)
        await asyncio.to_thread(command, folder, "resume")
        await asyncio.to_thread(command, folder, "kill")

    played = stage.play(
        {"commands": [f"{SPAWN} --background go; sleep 4726"]}, by("a1", "while :; do date > beat; done"), beside=brake
    )
    assert (played.record.status, played.record.residue) == ("stopped", [])
    assert returned(played)["a1"].status == "killed"


def test_a_model_that_the_box_allows_drives_it_and_another_does_not(stage):
    other = stage.script({"commands": ["echo other > which; gear done"]})
    lead = [f"{SPAWN} --model {other} go {TELL}", "cp which out", "gear spawn --model nobody/none x 2> out/no"]
    played = run(stage, lead=lead, allow=(other,))
    assert said(played, "which") == "other\n" and "not allowed in this box" in said(played, "no")


def test_a_run_whose_process_is_killed_has_an_ending_for_each_sub_agent_and_every_cent_counted(stage):
    script = stage.script(
        {"commands": ["gear spawn --usd 0.30 --background go; sleep 4727"]},
        by("a1", "gear spawn --usd 0.10 --background deeper", usage={"input": 1000, "output": 100}),
        by("a1", "sleep 4727"),
        by("a2", "sleep 4728"),
    )
    watching = stage.starts("run", "the goal", "--model", script, "--usd", "1.00", "--quiet")

    def text():
        return "".join(file.read_text() for file in stage.state.glob("gearcase/runs/*/journal/*.jsonl"))

    stage.until(lambda: "sleep 4728" in text() and text().count("sleep 4727") >= 2)
    stage.kill_the_run()
    watching.communicate(timeout=60)
    told = json.loads(stage.types("report", "--json").stdout)
    assert (told["status"], told["residue"]) == ("failed", [])
    assert {name: one["status"] for name, one in told["agents"].items()} == {"a1": "lost", "a2": "lost"}
    assert told["agents"]["a1"]["spent"]["usd"] >= told["agents"]["a2"]["spent"]["usd"] > 0
    assert told["spent"]["usd"] + told["remaining"]["usd"] == 1_000_000_000
    assert told["spent"]["agents"] == 2 and told["spent"]["calls"] >= 4
    assert not list(Path(owners.runtime_folder(), "boxes").glob(f"{told['run']}*.json"))
    assert stage.types("journal", "verify").returncode == 0
    report = stage.types("report").stdout
    assert "Agents" in report and "a1" in report and "lost" in report
    logs = stage.types("logs").stdout
    assert "spawn" in logs and "return" in logs


def test_the_report_shows_the_tree_with_what_each_spent(stage):
    steps = [by("a1", "gear spawn --usd 0.10 --name below deeper", DONE), by("a2", "echo x > made", DONE)]
    played = run(stage, *steps, lead=["gear spawn --usd 0.30 --name upper go"], take=("made", "out/**"))
    told = json.loads(stage.types("report", played.record.name, "--json").stdout)
    assert {name: (one["name"], one["parent"], one["status"]) for name, one in told["agents"].items()} == {
        "a1": ("upper", "lead", "done"),
        "a2": ("below", "a1", "done"),
    }
    assert told["agents"]["a1"]["spent"]["usd"] > told["agents"]["a2"]["spent"]["usd"] > 0, "those below are counted"
    assert told["steps"] == 2 and told["checks"] == []
    report = stage.types("report", played.record.name).stdout
    assert "a1 upper" in report and "  a2 below" in report and "torn down 3" in report


def test_a_program_may_spawn_too_on_a_model_that_it_names(stage):
    other = stage.script({"commands": ["echo child > made; gear done"]})
    lead = stage.script({"text": "never asked"})
    told = stage.types(
        "exec", "--model", lead, "--allow", other, "--take", "made", "--out", "result", "--", "bash", "-c",
        f"gear spawn nothing 2> no; gear spawn --usd 0.20 --model {other} go && cat made && cat no",
    )  # fmt: skip
    assert told.stdout.endswith(
        "child\ngear: no model drives you, so name one\n  remedy: gear spawn --model PROVIDER/MODEL GOAL\n"
    ), told
    assert (stage.work / "result/made").read_text() == "child\n"


def test_a_recorded_run_with_sub_agents_is_played_back(stage):
    script = stage.script(
        {"agent": "lead", "commands": ["gear spawn --usd 0.20 go; cat made"]},
        {"agent": "lead", "commands": ["gear done"]},
        by("a1", "echo child > made", usage={"input": 1000, "output": 100}),
        by("a1", DONE),
    )
    stage.types("run", "the goal", "--model", script, "--take", "made", "--name", "first", "--out", "one", code=0)
    stage.types("replay", "first", "--strict", "--out", "two", code=0)
    assert (stage.work / "two/made").read_text() == "child\n"
    told = json.loads(stage.types("report", "--json").stdout)
    assert told["agents"]["a1"]["status"] == "done" and told["warnings"] == []


def test_the_second_fork_is_of_its_own_moment_too(stage):
    """The box that stands ready for it holds what the first was given; it begins with what is there now all the same."""
    go = f"{SPAWN} --take seen --into"
    look = "(cat one two; ls -d deep gone; stat -c %a one; touch mine) > seen 2>&1"
    lead = [
        "echo 1 > one; echo 2 > two; mkdir gone; touch gone/x",
        f"{go} a first; sleep 1; rm -r gone; echo 3 > one; chmod 600 one; mkdir deep; {go} b second; sleep 1; {go} c --give two third",
        "cp a/seen out/a; cp b/seen out/b; cp c/seen out/c",
    ]
    played = run(stage, *[by(f"a{n}", look, DONE) for n in (1, 2, 3)], lead=lead)
    assert said(played, "a") == "1\n2\nls: cannot access 'deep': No such file or directory\ngone\n644\n"
    assert said(played, "b") == "3\n2\nls: cannot access 'gone': No such file or directory\ndeep\n600\n"
    assert "2\n" in said(played, "c") and said(played, "c").count("No such file") == 4
    assert played.record.residue == []
    boxes = [r.event.sandbox for r in played.records("sandbox_opened")]
    assert any(box.endswith("-s1") for box in boxes), "one of them stood ready"
