"""Limits of all runs of a user together: the day's money holds whatever runs at once, and what was spent can be laid beside an invoice."""

import contextlib
import csv
import io
import json
import os
import signal
import time

MODEL = "claude-haiku-4-5"
CALL = {"text": "and so on", "usage": {"input": 100, "output": 1000}}  # $0.0051
PROGRAM = f"""
import json, sys, time, urllib.request, urllib.error
body = json.dumps(dict(model="{MODEL}", max_tokens=3000, messages=[dict(role="user", content="go on")])).encode()
for number in range(int(sys.argv[1])):
    request = urllib.request.Request("http://model.box/v1/messages", body, {{"content-type": "application/json"}})
    try:
        urllib.request.urlopen(request).read()
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
        sys.exit(0 if error.code == 402 else 9)
"""


def box(user, provider):
    file = user.folder / "box.toml"
    file.write_text(f'[model]\nlead = "anthropic/{MODEL}"\n[model.providers.anthropic]\nbase = "{provider.base}"\n')
    return file


def calls(user, provider, count, *options):
    """What is typed to make that many calls in a box."""
    return ("exec", "-f", box(user, provider), *options, "--", "python3", "-c", PROGRAM, str(count))


def today(user):
    return json.loads(user.types("limits", "show", "--json", code=0).out)["today"]


def test_the_limits_have_defaults_and_are_changed(user):
    shown = json.loads(user.types("limits", "show", "--json", code=0).out)
    assert (shown["usd_per_day"], shown["usd_per_run"]) == (20 * 10**9, 5 * 10**9)
    told = user.types("limits", "set", "--usd-per-day", "7.50", code=0).out
    assert "$7.50" in told and "$5.00" in told
    assert user.types("limits", code=0).out == user.types("limits", "show", code=0).out == told
    assert user.types("limits", "set", code=2).err.count("gearcase limits set --usd-per-day") == 1


def test_a_box_that_asks_for_more_than_a_run_may_have_does_not_start(user):
    with user.provides(CALL) as provider:
        ended = user.types(*calls(user, provider, 1, "--usd", "6"), code=2, **user.keys)
        assert "a run may have $5.00" in ended.err and "gearcase limits set --usd-per-run 6" in ended.err
        user.types("limits", "set", "--usd-per-run", "6", code=0)
        user.types(*calls(user, provider, 1, "--usd", "6"), code=0, **user.keys)
        assert len(provider.calls()) == 1


def test_the_day_holds_over_ten_runs_at_once_three_of_which_are_killed(user):
    user.types("limits", "set", "--usd-per-day", "0.60", code=0)
    with user.provides({**CALL, "delay": 0.4}) as provider:
        running = [
            user.starts(*calls(user, provider, 200, "--usd", "0.50", "--name", f"run-{n}"), **user.keys) for n in range(10)
        ]
        while len(provider.calls()) < 12:
            time.sleep(0.01)
        three = []
        while len(three) < 3:
            for owner in (user.home / "state").glob("gearcase/runs/*/owner"):  # `ps` takes longer than the day's money lasts
                with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):  # it begins, or has ended
                    if len(three) < 3 and owner.parent.name not in three:
                        os.kill(json.loads(owner.read_text())["pid"], signal.SIGKILL)
                        three.append(owner.parent.name)
            time.sleep(0.01)
        told = [one.communicate(timeout=90)[0] for one in running]
        billed = provider.billed("anthropic")
        assert 0.3 * 600_000_000 < billed <= 600_000_000  # the killed ones' leases count as spent
        assert sum("a day" in one for one in told) == 7, told
        for one in three:
            user.types("report", one)  # puts it in order
        day = today(user)
        assert billed <= day["spent"] <= 600_000_000 and day["leased"] == 0
        refused = user.types(*calls(user, provider, 200, "--name", "one-more"), code=0, **user.keys)
        assert "402" in refused.out and "00:00 UTC" in refused.out
        assert provider.billed("anthropic") <= 600_000_000


def test_a_run_of_an_agent_that_meets_the_day_hands_over_what_it_has(user):
    user.types("limits", "set", "--usd-per-day", "0.05", code=0)
    with user.provides({**CALL, "commands": ["mkdir -p out; date >> out/x"]}) as provider:
        ended = user.types(
            *("run", "go on for ever", "-f", box(user, provider), "--take", "out/**", "--usd", "0.50", "--json"),
            code=11,
            **user.keys,
        )
        assert ended.record["limit"] == "budget" and ended.record["delivered"]
        assert 0 < provider.billed("anthropic") <= 50_000_000
        assert "a day" in json.dumps(user.journal())


def test_a_script_costs_nobody_anything_and_counts_for_no_day(user):
    user.types("limits", "set", "--usd-per-day", "0.000001", code=0)
    user.types("run", "g", "--model", user.script({"commands": ["gear done"]}), "--json", code=0)
    assert today(user)["spent"] == 0


def test_what_was_spent_is_told_by_day_run_agent_and_model_as_the_provider_billed_it(user):
    with user.provides(CALL) as provider:
        user.types(*calls(user, provider, 3, "--name", "first"), code=0, **user.keys)
        user.types(*calls(user, provider, 2, "--name", "second"), code=0, **user.keys)
        billed = provider.billed("anthropic")
    rows = list(csv.DictReader(io.StringIO(user.types("spend", "--since", "1d", "--by", "run", "--csv", code=0).out)))
    assert [(row["run"], row["calls"], row["usd"]) for row in rows] == [
        ("first", "3", "0.015300000"),
        ("second", "2", "0.010200000"),
    ]
    [day] = json.loads(user.types("spend", "--json", code=0).out)
    assert (day["usd"], day["calls"], day["certain"]) == (billed, 5, billed)
    assert "$0.03" in user.types("spend", "--by", "model", code=0).out
    assert today(user)["spent"] == billed
    assert len(list(csv.DictReader(io.StringIO(user.types("spend", "--by", "call", "--csv", code=0).out)))) == 5
    assert "look back" in user.types("spend", "--since", "yesterday", code=2).err


def test_a_call_that_was_at_the_provider_when_its_run_was_killed_is_told_at_its_worst_case(user):
    with user.provides({**CALL, "fault": "slow", "delay": 30}) as provider:
        running = user.starts(*calls(user, provider, 1, "--name", "cut"), **user.keys)
        user.waits_for("sent")
        while not provider.calls():
            time.sleep(0.01)
        owner = json.loads(next((user.home / "state").glob("gearcase/runs/*/owner")).read_text())
        os.kill(owner["pid"], signal.SIGKILL)
        running.communicate(timeout=30)
        [row] = json.loads(user.types("spend", "--by", "call", "--json", code=0).out)
        assert (row["run"], row["agent"], row["model"], row["calls"], row["certain"]) == ("cut", "lead", MODEL, 1, 0)
        assert row["usd"] >= provider.billed("anthropic") > 0
        assert row["usd"] == json.loads(user.types("report", "cut", "--json", code=0).out)["spent"]["usd"]
        assert "not reported" in " ".join(user.types("spend", "--by", "model", code=0).out.split())


SPENDS = {"commands": ["mkdir -p out; date >> out/x"], "usage": {"input": 1000, "output": 4000}}


def until(user, wanted, name="asks"):
    for _ in range(600):
        told = {one["name"]: one["state"] for one in json.loads(user.types("ps", "--json", code=0).out)}
        if told.get(name) in wanted:
            return told[name]
        time.sleep(0.05)
    raise AssertionError(f"{name} is {told.get(name)}, not {wanted}: {user.log()}")


def asks(user, *more):
    """A run in the background whose money is used up; it stands still and asks."""
    model = user.script(*[SPENDS] * 12, {"commands": ["gear done"]})
    user.types(*("run", "g", "--model", model, "--take", "out/**", "--usd", "0.20", "--name", "asks", "--detach", *more), code=0)
    assert until(user, {"frozen", "exhausted", "unverified"}) == "frozen"
    assert any("--add-usd" in one.get("reason", "") for one in user.journal("asks"))


def test_a_run_whose_money_is_used_up_asks_and_goes_on_with_more(user):
    asks(user)
    user.types("resume", "asks", "--add-usd", "3", code=0)
    assert until(user, {"unverified", "exhausted"}) == "unverified"
    ended = json.loads(user.types("report", "asks", "--json", code=0).out)
    assert ended["spent"]["usd"] > 200_000_000 and ended["limits"]["usd"] == 3_200_000_000
    user.types("journal", "verify", "asks", code=0)


def test_a_run_that_gets_no_more_hands_in(user):
    asks(user)
    user.types("resume", "asks", code=0)
    assert until(user, {"unverified", "exhausted"}) == "exhausted"


def test_where_nobody_answers_the_standing_answer_holds(user):
    asks(user, "--unanswered", "deny", "--after", "9s")
    assert until(user, {"exhausted"}) == "exhausted"
    assert "nobody answered for 9" in json.dumps(user.journal("asks"))


def test_money_is_granted_while_a_run_goes_on(user):
    model = user.script({"commands": ["while [ ! -e go ]; do sleep 0.05; done"]}, {"commands": ["gear done"]})
    user.types("run", "g", "--model", model, "--name", "asks", "--detach", code=0)
    assert "$7.00 in all" in user.types("grant", "asks", "--usd", "5", code=0).out
    assert "no amount" in user.types("grant", "asks", "--usd", "-1", code=2).err.lower() + user.types("grant", code=2).err
    user.types("kill", "asks", code=0)
    until(user, {"stopped"})
    assert "not running" in user.types("grant", "asks", "--usd", "5", code=13).err


def test_every_run_is_frozen_and_killed_at_once(user):
    model = user.script({"commands": ["sleep 60"]})
    for name in ("one", "two", "three"):
        user.types("run", "g", "--model", model, "--name", name, "--detach", code=0)
    frozen = json.loads(user.types("freeze", "--all", "--json", code=0).out)
    assert {(one["name"], one["level"]) for one in frozen} == {(name, "frozen") for name in ("one", "two", "three")}
    assert {until(user, {"frozen"}, name) for name in ("one", "two", "three")} == {"frozen"}
    assert "kill --all --yes" in user.types("kill", "--all", code=2).err
    user.types("kill", "--all", "--yes", code=0)
    for name in ("one", "two", "three"):
        until(user, {"stopped"}, name)
    assert "no run lives" in user.types("freeze", "--all", code=0).out


def test_a_run_that_was_left_is_watched_again(user):
    model = user.script({"commands": ["while [ ! -e go ]; do sleep 0.05; done"], "delay": 0.2}, {"commands": ["gear done"]})
    user.types("run", "g", "--model", model, "--name", "left", "--detach", code=0)
    watching = user.starts("attach", "left")
    time.sleep(1)
    assert watching.poll() is None
    user.types("kill", "left", code=0)
    told, _ = watching.communicate(timeout=30)
    assert watching.returncode == 12 and "STOPPED" in told
