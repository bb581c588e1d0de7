"""`gear map --optimizer gepa`, typed in a box of the installed command: the search, its account, its lineage, and what a person sees."""

import json

ASKED = "Only the text of the prompt changes"
SHAPE = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
MAP = f"gear map --over words --split lines:1 --prompt p --schema '{SHAPE}' --optimizer gepa --out mapped"


def rewrite(prompt):
    return json.dumps({"prompt": prompt, "diagnosis": f"leads to {prompt}"})


def box(user, command, *replies):
    lead = user.script({"commands": [command]}, *replies)
    worker = user.script({"text": "It is a word."}, {"text": '{"n": 7}', "when": "as JSON"})
    text = f'goal = "g"\n[model]\nlead = "{lead}"\nworker = "{worker}"\n[files]\ntake = ["mapped/**", "said", "code"]\n'
    (user.folder / "box.toml").write_text(text)
    return user.types("run", "-f", "box.toml", "--usd", "1", "--out", "result", code=0)


def test_a_search_mends_a_map_and_each_prompt_that_was_tried_is_on_record(user):
    begin = "seq 1 120 | sed 's/^/word /; s/$/./' > words; echo 'Say {item}' > p"
    command = f"{begin}; {MAP} > said; echo $? > code; {MAP} >> said; gear done --as-is"
    replies = [
        {"text": "no JSON", "when": ASKED, "times": 1},
        {"text": rewrite("Say well {item}"), "when": ASKED, "times": 1},
        {"text": rewrite("Say as JSON {item}"), "when": ASKED},
    ]
    box(user, command, *replies)
    out = user.folder / "result"
    assert (out / "code").read_text() == "0\n", (out / "said").read_text()
    account = json.loads((out / "mapped/account.json").read_text())
    assert account["account"]["ok"] == 120 == account["found"] and account["calls"] == 0, "the same map again pays for nothing"
    told = user.types("prompts", "--json", code=0).record["maps"]
    tried = told[0]["tried"]
    assert [one["decision"] for one in tried] == ["refused", "refused", "default"] and told[1]["tried"] == []
    assert {one["optimizer"] for one in tried} == {"gepa"} and len({one["parent"] for one in tried}) == 1
    assert [len(one["looks"]) for one in tried] == [0, 1, 2]
    repair = told[0]["ended"]["repair"]
    assert repair["nano_usd"] == sum(one["spent"] for one in tried) <= repair["budget"]
    assert repair["calls"] == 3 + sum(asked for one in tried for _, asked in one["looks"])
    shown = user.types("prompts", code=0).out
    assert "+Say as JSON {item}" in shown and "gepa" in shown
    [run] = (user.home / "state/gearcase/runs").glob("*/journal")
    assert not [one for one in run.parent.rglob("*") if "gepa" in one.name or one.suffix == ".bin"], "it leaves no file"


def test_an_option_that_makes_no_sense_says_so_before_anything_is_paid(user):
    command = (
        "echo word > words; echo p > p; gear map --over words --split lines:1 --run cat --optimizer gepa --out m 2> said;"
        f"{MAP} --no-repair 2>> said; {MAP.replace('gepa', 'other')} 2>> said; gear done --as-is"
    )
    box(user, command)
    said = (user.folder / "result/said").read_text()
    assert "this map has none" in said and "this map has no repair" in said and "invalid choice: 'other'" in said
    assert "map_started" not in user.types("logs", "--json", code=0).out
