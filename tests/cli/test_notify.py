"""`gearcase notify test`: whether those who are to be told can be reached, and what they answered."""

import json

import pytest

from gearcase.cli.app import run_command_line
from tests.listener import listening


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PAGERDUTY_KEY", "sesame-routing-key")
    return tmp_path


def targets(*servers):
    kinds = ("ntfy", "slack", "pagerduty", "webhook")
    text = ""
    for kind, server in zip(kinds, servers, strict=False):
        url = "${HOOK}" if kind == "slack" else f"{server.url}/topic"
        text += f'[notify.to.{kind}-one]\nkind = "{kind}"\nurl = "{url}"\n'
        text += 'routing_key = "${PAGERDUTY_KEY}"\n' if kind == "pagerduty" else ""
    return text


def test_every_target_is_told_and_what_it_answered_is_shown(place, monkeypatch, capsys):
    with listening(said='{"id": "a"}') as server:
        monkeypatch.setenv("HOOK", f"{server.url}/services/sesame")
        (place / "box.toml").write_text(targets(*[server] * 4))
        assert run_command_line(["notify", "test"]) == 0
        assert [one.json["event_action"] for one in server.got if "event_action" in one.json] == ["trigger", "resolve"]
        assert {one.path for one in server.got} == {"/", "/services/sesame", "/topic"}
    shown = capsys.readouterr()
    for kind in ("ntfy", "slack", "pagerduty", "webhook"):
        assert f"{kind}-one ({kind})  told (200)" in shown.out
    assert '{"id": "a"}' in shown.out and "sesame" not in shown.out + shown.err


def test_one_that_refuses_is_named_with_its_answer_and_no_secret(place, monkeypatch, capsys):
    with listening(403, said="invalid_token") as server, listening() as fine:
        monkeypatch.setenv("HOOK", f"{server.url}/services/sesame")
        (place / "other.toml").write_text(targets(fine, server))
        assert run_command_line(["notify", "test", "-f", "other.toml", "--json"]) == 13
        told = {one["to"]: one for one in json.loads(capsys.readouterr().out)}
        assert run_command_line(["notify", "test", "-f", "other.toml"]) == 13
    shown = capsys.readouterr()
    assert told["ntfy-one"]["why"] == ""
    assert (told["slack-one"]["status"], told["slack-one"]["said"]) == (403, "invalid_token")
    assert "slack-one" in shown.err and "sesame" not in shown.out + shown.err


def test_ones_own_targets_need_no_box(place, capsys):
    with listening() as server:
        (place / "config/gearcase").mkdir(parents=True)
        (place / "config/gearcase/notify.toml").write_text(targets(server).replace("notify.to", "to"))
        assert run_command_line(["notify", "test"]) == 0
        assert server.got[0].json["topic"] == "topic"


def test_where_nobody_is_to_be_told_it_says_how_to_name_one(capsys):
    assert run_command_line(["notify", "test"]) == 2
    assert "[notify.to.phone]" in capsys.readouterr().err
