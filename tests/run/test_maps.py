"""`gear map` inside a run: what comes out, what it says, what it pays, and what it does when things go wrong."""

import json

import pytest

from gearcase.events import MapEnded

SHAPE = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
BEGIN = "echo 'Say ok to: {item}' > /tmp/p; seq 1 %d | sed 's/^/word /; s/$/./' > words.txt"
MAP = "gear map --over words.txt --split lines:1 --prompt /tmp/p --out out/m"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def mapped(stage, *steps, items=50, command=MAP, begin="true", **box):
    """A run whose lead does one map; `said`, `code` and the map's folder are delivered."""
    text = f"mkdir out; {BEGIN % items}; {begin}; {command} > out/said 2>&1; echo $? > out/code; gear done --as-is"
    return stage.play({"commands": [text]}, worker=stage.script(*steps), **box)


def account(played, folder="m"):
    return json.loads((played.out / "out" / folder / "account.json").read_text())


def code(played):
    return int((played.out / "out/code").read_text())


def said(played):
    return (played.out / "out/said").read_text()


def test_every_line_is_asked_about_and_stands_in_order_with_where_it_came_from(stage):
    played = mapped(stage, {"text": "yes"}, {"text": "no"})
    rows = lines(played.out / "out/m/results.jsonl")
    assert [row["item"] for row in rows] == list(range(50)) and code(played) == 0
    assert rows[6]["shard"] == "words.txt:7" and rows[6]["attempts"] == 1 and rows[6]["nano_usd"] > 0
    assert {row["answer"] for row in rows} == {"yes", "no"}
    told = account(played)
    assert told["account"] == {"items": 50, "ok": 50, "failed": 0, "quarantined": 0, "skipped": 0, "pending": 0}
    assert not (played.out / "out/m/quarantine").exists()
    assert "50 ok" in said(played)
    assert sum(row["nano_usd"] for row in rows) == told["nano_usd"]
    settled = [r.event for r in played.records("model_called") if r.event.label == "map m1"]
    assert len(settled) == told["calls"] == 50
    assert told["nano_usd"] + played.record.spent["usd"] > 0
    assert [r.event.ended for r in played.records("map_ended")] == ["done"]
    assert played.records("map_started")[0].event.text.startswith("Say ok")


def test_the_money_of_a_map_is_that_of_the_ledger(stage):
    played = mapped(
        stage, {"text": "yes", "usage": {"input": 100, "output": 10}}, {"fault": "garbage", "when": "word 7.", "times": 1}
    )
    settled = {r.event.hold: r.event.amounts.get("usd", 0) for r in played.records("settled")}
    cut = {r.event.hold for r in played.records("cut")}
    held = {r.event.hold: r.event.amounts["usd"] for r in played.records("held")}
    calls = [r.event for r in played.records("model_called") if r.event.label == "map m1"]
    paid = sum(held[one.hold] if one.hold in cut else settled.get(one.hold, 0) for one in calls)
    assert account(played)["nano_usd"] == paid > 0
    assert account(played)["account"]["ok"] == 50 and account(played)["retries"] == 1 and len(cut) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("prose", "not_json"),
        ('{"n": 1', "not_json"),
        ("", "empty"),
        ('{"n": "x"}', "schema"),
        ('{"n": NaN}', "not_json"),
        ("[]", "schema"),
    ],
)
def test_an_answer_that_does_not_fit_is_quarantined_with_its_reason(stage, answer, kind):
    steps = [{"text": '```json\n{"n": 1}\n```'}, {"text": answer, "when": "word 9."}]
    played = mapped(stage, *steps, items=12, command=f"{MAP} --schema '{SHAPE}'")
    assert code(played) == 1
    [failed] = lines(played.out / "out/m/quarantine/failed.jsonl")
    assert (failed["item"], failed["state"], failed["class"]) == (8, "quarantined", kind)
    assert failed["text"] == "word 9." and failed["why"] and failed["answer" if answer else "why"]
    assert account(played)["account"]["ok"] == 11 and account(played)["classes"] == {kind: 1}
    assert len(lines(played.out / "out/m/results.jsonl")) == 11
    assert [r.event.code for r in played.records("map_item_failed")] == [kind]


def test_failures_that_are_allowed_are_no_failure(stage):
    played = mapped(stage, {"text": "x"}, {"text": "", "when": "word 9."}, items=12, command=f"{MAP} --allow-failed 1")
    assert code(played) == 0 and account(played)["account"]["quarantined"] == 1


def test_bad_input_is_accounted_for_item_by_item(stage):
    begin = "printf 'good\\nba\\377d\\n' > words.txt; "
    begin += "head -c 50000000 /dev/zero | tr '\\0' x >> words.txt; printf '\\nlast\\n' >> words.txt"
    played = mapped(stage, {"text": "x"}, begin=begin, disk="256MiB")
    assert account(played)["account"] == {"items": 4, "ok": 2, "failed": 0, "quarantined": 2, "skipped": 0, "pending": 0}
    why = [row["why"] for row in lines(played.out / "out/m/quarantine/failed.jsonl")]
    assert "not UTF-8" in why[0] and "over" in why[1]
    assert account(played)["calls"] == 2


def test_an_empty_input_is_an_empty_account(stage):
    played = mapped(stage, {"text": "x"}, begin=": > words.txt")
    assert code(played) == 0 and account(played)["account"]["items"] == 0 and "0 items" in said(played)
    assert (played.out / "out/m/results.jsonl").read_text() == ""


def test_records_of_csv_are_asked_about_with_their_header(stage):
    begin = "printf 'id,text\\n1,\"two\\nlines\"\\n2,x\\n' > t.csv"
    command = "gear map --over t.csv --split records:1 --prompt /tmp/p --out out/m"
    played = mapped(stage, {"text": "no"}, {"text": "whole", "when": 'id,text\n1,"two\nlines"'}, begin=begin, command=command)
    assert [row["answer"] for row in lines(played.out / "out/m/results.jsonl")] == ["whole", "no"]


def test_refusals_that_pass_are_waited_out(stage):
    steps = [{"text": "x"}, {"status": 429, "when": "word", "times": 6}]
    played = mapped(stage, *steps, items=8)
    assert code(played) == 0 and account(played)["retries"] == 6 and account(played)["account"]["ok"] == 8


@pytest.mark.parametrize(("status", "kind"), [(401, "key"), (402, "quota"), (404, "unknown_model")])
def test_one_terminal_error_stops_the_map_and_tells_it(stage, status, kind):
    played = mapped(stage, {"text": "x"}, {"status": status, "when": "word 20."}, items=400, command=f"{MAP} --concurrency 4")
    told = account(played)
    assert code(played) == 1 and told["stopped"]["class"] == kind and f"stopped: {kind}" in said(played)
    assert told["account"]["skipped"] > 300 and told["account"]["pending"] == 0 and told["calls"] < 60
    assert len(lines(played.out / "out/m/quarantine/skipped.jsonl")) == told["account"]["skipped"]
    assert [r.event.ended for r in played.records("map_ended")] == ["stopped"]


def test_money_that_is_used_up_in_the_middle_ends_the_map_with_its_account(stage):
    step = {"text": "x", "usage": {"input": 1000, "output": 400}}
    played = mapped(stage, step, items=300, usd="0.50", command=f"{MAP} --max-output 400 --no-canary")
    told = account(played)
    assert told["stopped"]["class"] == "budget" and code(played) == 1
    assert 0 < told["account"]["ok"] < 300 and told["account"]["pending"] == 0
    assert sum(told["account"].values()) == 2 * told["account"]["items"] == 600
    assert played.record.spent["usd"] <= 500_000_000


def test_a_killed_map_begun_again_asks_about_the_unfinished_items_alone(stage):
    steps = [{"text": "x", "fault": "slow", "delay": 0.05}]
    kill = f"{MAP} --concurrency 4 & sleep 1; kill -9 $!; wait; {MAP} --concurrency 4"
    played = mapped(stage, *steps, items=200, command=f"({kill})")
    told = account(played)
    assert code(played) == 0 and told["account"]["ok"] == 200 and told["found"] > 20
    calls = [r.event for r in played.records("model_called") if r.event.label.startswith("map")]
    assert len(calls) == 200, "each item is asked about once"
    ended = {r.event.map: r.event for r in played.records("map_ended")}
    assert ended["m2"].ended == "done"
    assert ended["m1"].account["items"] == 200 and ended["m1"].ended == "abandoned"


def test_a_map_whose_program_is_killed_is_given_up_at_once(stage):
    steps = [{"text": "x", "fault": "slow", "delay": 0.2}]
    kill = f"{MAP} --concurrency 4 --no-canary & sleep 1; kill -9 $!; wait; sleep 2"
    played = mapped(stage, *steps, items=500, command=f"({kill})")
    [ended] = [r.event for r in played.records("map_ended")]
    assert ended.ended == "abandoned" and ended.calls < 60, "no call was begun after the kill"
    assert ended.account["pending"] == 500 - ended.account["ok"] and ended.account["skipped"] == 0


def test_a_map_that_is_going_on_when_the_run_ends_leaves_its_account(stage):
    played = mapped(stage, {"text": "x", "fault": "slow", "delay": 0.2}, items=500, command=f"{MAP} & sleep 1; true")
    [ended] = [r.event for r in played.records("map_ended")]
    assert isinstance(ended, MapEnded) and ended.ended == "cut"
    assert ended.account["items"] == 500 == sum(ended.account.values()) / 2 and ended.account["pending"] > 300


WRONG = {
    "gear map --over no.txt --split lines:1 --prompt /tmp/p --out out/m": "No such file",
    "gear map --over words.txt --split lines:1 --prompt no --out out/m": "--prompt no cannot be read",
    "gear map --over words.txt --split lines:1 --prompt /dev/null --out out/m": "a prompt has 1 to",
    f"{MAP} --schema '{{'": "neither a JSON Schema nor a file",
    "gear map --over words.txt --split lines:1 --prompt /tmp/p --out words.txt": "--out words.txt",
}


def test_wrong_arguments_are_told_before_anything_is_paid(stage):
    each = "; ".join(f"{command} 2>> out/no; echo $? >> out/no" for command in WRONG)
    refused = {
        f'{MAP} --schema \'{{"type": "object", "$ref": "http://x"}}\'': "$ref is refused",
        f"{MAP} --model other/model": "is not allowed",
        f"{MAP} --concurrency 9999": "concurrency is 9999",
    }
    more = "; ".join(f"{command} 2>> out/no; echo $? >> out/no" for command in refused)
    played = stage.play({"commands": [f"mkdir out; {BEGIN % 3}; {each}; {more}; gear done --as-is"]})
    told = (played.out / "out/no").read_text()
    assert all(text in told for text in (*WRONG.values(), *refused.values())), told
    assert [line for line in told.splitlines() if line in "123"] == ["2"] * len(WRONG) + ["1"] * len(refused)
    assert played.record.spent["calls"] == 1


def test_a_map_is_begun_fed_and_taken_over_http_too_and_what_makes_no_sense_is_refused(stage):
    post = "curl -s http://gear.box/v1/%s -d '%s' >> out/said; echo >> out/said"
    asked = [
        ("map", {"prompt": "say: {item}"}),
        ("map-items", {"map": "m1", "items": [{"item": 0, "shard": "a", "text": "one"}], "end": True}),
        ("map-items", {"map": "m1"}),
        ("map", {"prompt": " "}),
        ("map", {"prompt": "p", "max_output": -1}),
        ("map", {"prompt": "p", "schema": {"type": "array"}}),
        ("map", {"prompt": "p"}),
        ("map-items", {"map": "m2", "items": [{"item": "x"}]}),
        ("map-items", {"map": "m2", "items": [{"item": n, "shard": "", "text": "x"} for n in range(200)]}),
    ]
    text = "; ".join(post % (name, json.dumps(body)) for name, body in asked)
    played = stage.play({"commands": [f"mkdir out; {text}; gear done"]}, worker=stage.script({"text": "yes"}))
    answers = lines(played.out / "out/said")
    assert answers[0]["map"] == "m1" and answers[1]["ended"] and answers[1]["endings"][0]["answer"] == '"yes"'
    codes = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert codes == ["no_map", "bad_prompt", "bad_count", "bad_schema", "bad_item", "map_full"]


def test_a_canary_that_fails_stops_the_map_before_it_costs_and_says_how_it_fails(stage):
    steps = [{"text": "It is a word."}, {"text": '{"n": 1}', "when": "word 1"}]
    played = mapped(stage, *steps, items=400, command=f"{MAP} --schema '{SHAPE}'")
    told = account(played)
    assert code(played) == 1 and told["stopped"]["class"] == "canary" and told["calls"] == 20
    assert told["account"]["skipped"] == 380 and told["account"]["pending"] == 0
    assert told["canary"]["items"] == 20 and told["canary"]["rate"] > 0.5 and told["canary"]["projected"] == 20 * told["nano_usd"]
    assert told["clusters"][0]["code"] == "not_json" and "<text>" in told["clusters"][0]["message"]
    assert told["clusters"][0]["count"] == told["canary"]["failed"]
    [event] = [r.event for r in played.records("canary_ended")]
    assert event.why and event.clusters[0]["code"] == "not_json"
    assert "of the first 20 items failed" in said(played) and "not_json" in said(played)


def test_a_canary_that_is_allowed_to_fail_lets_the_rest_go(stage):
    steps = [{"text": '{"n": 1}'}, {"text": "no", "when": "word 1"}]
    played = mapped(stage, *steps, items=200, command=f"{MAP} --schema '{SHAPE}' --max-failure-rate 1")
    told = account(played)
    assert told["account"]["skipped"] == 0 and told["account"]["quarantined"] == 111 and told["calls"] == 200
    assert told["canary"]["why"] == "" and len(lines(played.out / "out/m/results.jsonl")) == 89
    assert [row["item"] for row in lines(played.out / "out/m/results.jsonl")][:3] == [1, 2, 3]


def test_a_map_that_would_cost_more_than_is_left_is_not_begun_but_for_its_canary(stage):
    step = {"text": "x", "usage": {"input": 1000, "output": 400}}
    played = mapped(stage, step, items=2000, usd="0.90", command=f"{MAP} --max-output 400")
    told = account(played)
    assert told["stopped"]["class"] == "canary" and "the rest would cost" in said(played) and told["calls"] == 30
    assert told["account"]["ok"] == 30 and told["account"]["skipped"] == 1970


def test_one_answer_to_everything_is_told(stage):
    played = mapped(stage, {"text": "no"}, items=60)
    assert code(played) == 0 and account(played)["different"] == 1 and "all 60 answers are the same" in said(played)


def test_without_a_canary_all_are_asked_at_once(stage):
    played = mapped(stage, {"text": "no"}, items=60, command=f"{MAP} --schema '{SHAPE}' --no-canary")
    assert account(played)["canary"] is None and account(played)["calls"] == 60
