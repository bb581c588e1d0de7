"""A run again from what was recorded: no key, no provider, every command executed, the same money and the same verdict."""

import json

BOX = """
goal = "Write words.txt in capitals to out/words.txt"
[model]
lead = "openai/gpt-5-mini"
allow = ["openai/gpt-4.1"]
[model.providers.openai]
base = "{base}"
[files]
give = ["words.txt"]
take = ["out/**"]
[[check]]
name = "capitals"
run = "grep -qx '[A-Z]*' $DELIVERED/out/words.txt"
"""
QUESTION = json.dumps({"model": "gpt-4.1", "max_tokens": 50, "messages": [{"role": "user", "content": "how?"}]})
ASK = f"curl -s $OPENAI_BASE_URL/chat/completions -d '{QUESTION}' > answer.json; grep -o 'with tr' answer.json"
BUILD = "cat words.txt; mkdir -p out; tr a-z A-Z < words.txt > out/words.txt"


def record(user, *steps):
    """A run against a real server, recorded; returns its record."""
    (user.folder / "words.txt").write_text("hello\n")
    with user.provides(*steps) as provider:
        (user.folder / "box.toml").write_text(BOX.format(base=provider.base))
        ended = user.types("run", "--record", "a.cassette", "--name", "first-one", "--out", "a", "--json", code=0, **user.keys)
        assert ended.record["spent"]["usd"] == provider.billed("openai") > 0
    return ended.record


def test_a_cassette_beside_its_box_is_played_without_a_key_and_at_the_recorded_price(user):
    busy = {"status": 529}
    first = record(user, {"commands": [ASK]}, {"text": "with tr"}, busy, busy, {"commands": [BUILD, "gear done"]})
    again = user.types("replay", "a.cassette", "--strict", "--name", "second-one", "--out", "b", "--json", code=0).record
    assert again["status"] == first["status"] == "accepted"
    assert again["spent"]["usd"] == first["spent"]["usd"]
    assert again["seconds"] < first["seconds"], "it waited out again what was waited for the busy provider"
    assert (user.folder / "b/out/words.txt").read_text() == "HELLO\n"
    commands = [one for one in user.journal("second-one") if one["type"] == "command_ended"]
    assert [one["exit_code"] for one in commands] == [0, 0, 0]
    assert {one["model"] for one in user.journal("second-one") if one["type"] == "model_called"} == {"gpt-5-mini", "gpt-4.1"}


def test_a_replay_can_be_replayed_and_says_whether_the_verdict_is_the_same(user):
    record(user, {"commands": [BUILD, "gear done --as-is"]})
    assert "accepted: the same verdict as first-one" in user.types("replay", "--name", "second-one", "--out", "b", code=0).err
    (user.folder / "words.txt").write_text("42\n")
    other = user.types("replay", "second-one", "--out", "c", code=10)
    assert "rejected: another verdict than second-one (accepted)" in other.err


def test_what_differs_is_counted_and_with_strict_ends_the_run_and_is_shown(user):
    record(user, {"commands": [BUILD]}, {"commands": ["gear done"]})
    (user.folder / "words.txt").write_text("goodbye\n")
    loose = user.types("replay", "a.cassette", "--out", "b", "--json", code=0).record
    assert len(loose["warnings"]) == 1 and loose["warnings"][0].startswith("1 call differs from the cassette")
    strict = user.types("replay", "a.cassette", "--strict", "--out", "c", "--json", code=13).record
    assert strict["error"]["code"] == "cassette_mismatch"
    recorded, now = strict["error"]["cause"].splitlines()[3:5]
    assert recorded.startswith("-") and recorded.endswith("hello") and now.startswith("+") and now.endswith("goodbye")
    assert not (user.folder / "c").exists()


def test_recorded_calls_that_nobody_asks_for_are_told(user):
    record(user, {"commands": ["true"]}, {"commands": [BUILD, "gear done"]})
    file = user.folder / "a.cassette"
    lines = file.read_text().splitlines(keepends=True)
    last = json.loads(lines[-1])
    file.write_text("".join([*lines, json.dumps({**last, "key": "lead lead 2", "order": 9}) + "\n"]))
    ended = user.types("replay", "a.cassette", "--out", "b", "--json", code=0).record
    assert ended["warnings"] == ["1 recorded call was not asked for"]


def test_what_cannot_be_replayed_is_said_before_anything_starts(user):
    model = user.script({"text": "hi"})
    ask = 'curl -s $ANTHROPIC_BASE_URL/v1/messages -d "{\\"model\\":\\"scripted\\",\\"max_tokens\\":50,\\"messages\\":[]}"'
    user.types("exec", "--quiet", "--model", model, "--name", "no-agent", "--", "sh", "-c", ask, code=0)
    assert "holds no agent's calls" in user.types("replay", "no-agent", code=2).err
    assert "cannot read" in user.types("replay", "no-agent", "--cassette", "missing", code=2).err
    (user.folder / "words.txt").write_text("hello\n")
    (user.folder / "box.toml").write_text(BOX.format(base="http://127.0.0.1:9"))
    assert "cannot be used" in user.types("replay", "words.txt", code=2).err
    assert len(list((user.home / "state").glob("gearcase/runs/*/run.json"))) == 1
