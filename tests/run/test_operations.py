"""What the gear door offers inside a run: each operation, its effect, its refusals, and the document that describes them."""

import json

import openapi_spec_validator

EVERY = {"status", "doors", "ask", "ask-for", "check", "snapshot", "requests", "rewind", "done", "context", "map", "map-items"}
EVERY |= {"spawn", "wait", "agents", "tell", "stop", "result"}


def said(played, name):
    return (played.out / "out" / name).read_text()


def answer(played, name):
    return json.loads(said(played, name))


def test_status_tells_every_limit_and_what_is_left(stage):
    played = stage.play({"commands": ["mkdir out; gear status --json > out/a; gear done --as-is"]}, check="true", tokens=100_000)
    told = answer(played, "a")
    assert set(told) == {"phase", "budget", "time", "answers", "memory", "disk", "processes", "deliverables", "checks"}
    assert told["phase"] == "work" and told["deliverables"] == ["out/**"]
    assert set(told["budget"]) == {"usd", "tokens", "egress"}
    assert told["budget"]["usd"]["limit"] == "$0.95", "5 % are kept for the hand-over"
    assert told["answers"]["limit"] == 400
    assert told["checks"] == [{"name": "check-1", "verdict": "not run yet"}]


def test_status_tells_the_reserve_once_the_work_must_end(stage):
    steps = [{"commands": ["mkdir out; gear status --json > out/before"]}] * 19 + [
        {"commands": ["gear status --json > out/after"]}
    ]
    played = stage.play(*steps, steps=20, on_exhausted="wind_down")
    assert answer(played, "after")["phase"] == "wind_down"
    assert answer(played, "after")["budget"]["usd"]["limit"] == "$0.05"


def test_doors_names_what_can_be_reached_and_every_name_is_there(stage):
    reach = "for n in model gear; do curl -s -o /dev/null -w '%{http_code}\\n' http://$n.box/; done > out/codes"
    played = stage.play({"commands": [f"mkdir out; gear doors --json > out/a; {reach}; gear done"]})
    assert [door["name"] for door in answer(played, "a")["doors"]] == ["model.box", "gear.box"]
    assert said(played, "codes").split()[1] == "200" and "000" not in said(played, "codes")


def test_ask_is_one_paid_call_on_the_worker(stage):
    played = stage.play(
        {"commands": ["mkdir out; gear ask --system short --max-output 7 how many > out/a; gear done"]},
        worker=stage.script({"text": "forty-two"}),
    )
    assert said(played, "a") == "forty-two\n"
    assert played.record.spent["calls"] == 2
    assert [r.event.label for r in played.records("model_called")] == ["", "ask"]


def test_ask_in_a_shape_gives_a_value_and_says_when_the_answer_is_none(stage):
    ask = 'gear ask --json --schema \'{"type": "object"}\' x'
    played = stage.play(
        {"commands": [f"mkdir out; {ask} > out/good; {ask} 2> out/bad; echo $? >> out/bad; gear done"]},
        worker=stage.script({"text": '```json\n{"n": 1}\n```'}, {"text": "no json at all"}),
    )
    assert answer(played, "good")["value"] == {"n": 1}
    assert "not JSON" in said(played, "bad") and said(played, "bad").endswith("1\n")


def test_ask_for_a_model_that_the_box_does_not_allow_is_refused(stage):
    played = stage.play({"commands": ["mkdir out; gear ask --model other/model x 2> out/a; echo $? >> out/a; gear done"]})
    assert said(played, "a").endswith("1\n") and "remedy" in said(played, "a")
    assert played.record.spent["calls"] == 1


def test_ask_beyond_the_money_is_refused_with_what_to_do(stage):
    played = stage.play(
        {
            "commands": [
                "mkdir out; head -c 900000 /dev/zero | tr '\\0' x | gear ask - 2> out/a; echo $? >> out/a; gear done --as-is"
            ]
        },
        usd="0.20",
    )
    assert said(played, "a").endswith("1\n") and "gear status" in said(played, "a")
    assert played.record.spent["usd"] < 200_000_000


def test_a_snapshot_is_returned_to_and_what_was_undone_is_kept(stage):
    (stage.work / "given.txt").write_text("given\n")
    first = "echo one > a; mkdir d; echo x > d/x; ln -s a link; chmod 600 a; gear snapshot --note first"
    second = "echo two > a; rm -r d; echo y > new; rm link; gear rewind s1 --json > /tmp/undone"
    third = "mkdir out; cat a d/x link > out/files; stat -c %a a >> out/files; ls >> out/files; cp /tmp/undone out; gear rewind > out/list"
    played = stage.play({"commands": [first, second]}, {"commands": [third, "gear done"]}, give=[stage.work / "given.txt"])
    assert said(played, "files") == "one\nx\none\n600\na\nd\ngiven.txt\nlink\nout\n"
    assert answer(played, "undone")["undone"]["added"] == 1
    assert answer(played, "undone")["kept_before"] == "s2"
    for kept in ("s0", "as given", "s1", "first", "s2", "before the return to s1"):
        assert kept in said(played, "list")
    assert [r.event.snapshot for r in played.records("snapshot_taken")] == ["s1", "s2"]
    assert [r.event.snapshot for r in played.records("rewound")] == ["s1"]
    changes = [r.event for r in played.records("files_changed")]
    assert (changes[0].added, changes[0].removed) == (4, 0) and changes[1].removed >= 3


def test_a_rewind_can_itself_be_undone_and_an_unknown_one_is_refused(stage):
    text = (
        "echo one > a; gear snapshot; echo two > a; gear rewind s1; gear rewind s2; mkdir out; cp a out; gear rewind s9 2> out/no"
    )
    played = stage.play({"commands": [f"{text}; gear done"]})
    assert said(played, "a") == "two\n"
    assert "kept are: s0, s1, s2, s3" in said(played, "no")


def test_snapshots_checks_and_writers_at_the_same_time_do_not_hurt_each_other(stage):
    write = "while :; do date +%N > beat; mv beat out/beat; done & W=$!"
    many = "for n in 1 2 3 4; do gear snapshot & gear check & done; wait $(jobs -p | grep -v $W)"
    played = stage.play({"commands": [f"mkdir out; {write}; ({many}) > /tmp/said 2>&1; kill $W; gear done"]}, check="true")
    assert played.record.status == "accepted"
    assert not [r.event.detail for r in played.records("gear_used") if not r.event.ok]
    assert len(played.records("snapshot_taken")) == 4


def test_context_is_seen_noted_and_dropped(stage):
    first = "mkdir out; gear context note remember the milk; gear context show --json > out/a"
    played = stage.play({"commands": [first, "gear context drop 999 2> out/no; echo $? >> out/no"]}, {"commands": ["gear done"]})
    assert "remember the milk" in said(played, "a")
    assert [r.event.operation for r in played.records("gear_used")].count("context") == 3


def test_every_place_that_the_instructions_name_is_there_from_the_start(stage):
    played = stage.play(
        {"commands": ["mkdir out; ls -d /workspace /box/history /box/outputs /box/openapi.json > out/a; gear done"]}
    )
    assert said(played, "a").split() == ["/box/history", "/box/openapi.json", "/box/outputs", "/workspace"]


def test_the_note_of_a_refused_done_is_not_lost(stage):
    refused = "mkdir out; gear done --note 'the reason is in README' 2> out/said"
    played = stage.play({"commands": [refused, "gear done --as-is"]}, check="false")
    assert "with `gear done --as-is`, which has the note that you gave" in staged(played, "out/said")
    assert played.record.note == "the reason is in README"
    played = stage.play({"commands": [refused, "gear done --as-is --note other"]}, check="false", out="second")
    assert played.record.note == "other"


def test_done_with_a_failing_check_is_refused_with_the_verdicts_and_as_is_is_not(stage):
    played = stage.play(
        {"commands": ["mkdir out; gear done 2> out/no; echo $? >> out/no"]},
        {"commands": ["gear done --as-is --note 'as good as it gets'"]},
        check="false",
    )
    assert staged(played, "out/no").endswith("1\n") and "check-1" in staged(played, "out/no")
    assert (played.record.status, played.record.note) == ("rejected", "as good as it gets")


def staged(played, name):
    return (played.folder.delivered / name).read_text()


def test_the_document_inside_is_valid_and_names_exactly_what_is_served(stage):
    text = (
        "mkdir out; cp /box/openapi.json out/file; curl -s http://gear.box/openapi.json > out/door; curl -s http://gear.box/ > out/root;"
        "gear status --json > out/status; gear done"
    )
    played = stage.play({"commands": [text]})
    document = answer(played, "file")
    assert document == answer(played, "door")
    openapi_spec_validator.validate(document)
    assert {path.removeprefix("/v1/") for path in document["paths"]} == EVERY
    assert all(name in said(played, "root") for name in EVERY)
