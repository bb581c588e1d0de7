"""`gear spawn` and its kind inside a run: what a sub-agent gets, what comes back, what it pays, and how each of its ends is told."""

import json

import pytest


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
