"""Each target gets what its maker documents, over real HTTP; what is said is two lines of our own words."""

import json

import pytest

from gearcase.box.notify import Notify
from gearcase.errors import UsageError
from gearcase.notify.page import TEST, Page, Words, gone
from gearcase.notify.pager import attempt
from gearcase.notify.shapes import Destination, resolve, trigger
from gearcase.notify.targets import chosen, destinations, user_file
from tests.listener import listening

WORDS = Words(
    "monitor", "is frozen by monitor destructive: 3 < 4 & more.", "Nothing is spent.", ("gearcase resume a", "gearcase kill a")
)
PAGE = Page("ab12", "amber-fox", 2, WORDS)
WHAT = "amber-fox is frozen by monitor destructive: 3 < 4 & more."
THEN = "Nothing is spent. Answer: gearcase resume a | gearcase kill a"


def sent(kind, page=PAGE, path="", post=trigger, **keys):
    """What a server of this kind is sent."""
    with listening() as server:
        made = post(Destination("one", kind, server.url + path, **keys), page)
        answer = attempt(made.as_json())
        assert (answer.status, answer.why, answer.said) == (200, "", "ok")
        (got,) = server.got
    assert got.headers["Content-Type"] == "application/json"
    return got


def test_ntfy_is_published_as_json_to_the_root_with_the_topic_and_a_priority():
    got = sent("ntfy", path="/my-runs", headers={"Authorization": "Bearer tk_1"})
    assert got.path == "/" and got.headers["Authorization"] == "Bearer tk_1"
    assert got.json == {
        "topic": "my-runs",
        "title": "Gearcase: amber-fox",
        "message": f"{WHAT}\n{THEN}",
        "priority": 4,
        "tags": ["warning"],
    }


def test_ntfy_behind_a_path_and_a_run_with_a_name_of_any_language():
    got = sent("ntfy", Page("ab12", "læufer", 1, gone("læufer", 4)), path="/ntfy/my%20runs")
    assert (got.path, got.json["topic"], got.json["priority"]) == ("/ntfy/", "my runs", 5)
    assert got.json["title"] == "Gearcase: læufer"


def test_slack_gets_a_text_with_its_three_characters_escaped():
    got = sent("slack", path="/services/T0/B0/x")
    assert got.path == "/services/T0/B0/x"
    assert got.json == {"text": f"{WHAT}\n{THEN}".replace("&", "&amp;").replace("<", "&lt;")}


def test_pagerduty_gets_a_trigger_and_its_resolve_by_one_key():
    got = sent("pagerduty", path="/v2/enqueue", routing_key="R0")
    assert got.json == {
        "routing_key": "R0",
        "event_action": "trigger",
        "dedup_key": "gearcase-ab12-2",
        "client": "Gearcase",
        "payload": {
            "summary": WHAT,
            "source": "gearcase/amber-fox",
            "severity": "error",
            "class": "monitor",
            "custom_details": {
                "meanwhile": "Nothing is spent.",
                "answers": ["gearcase resume a", "gearcase kill a"],
                "run": "ab12",
            },
        },
    }
    ended = sent("pagerduty", post=resolve, routing_key="R0")
    assert ended.json == {"routing_key": "R0", "event_action": "resolve", "dedup_key": "gearcase-ab12-2"}


def test_a_webhook_gets_plain_json_and_hears_of_the_answer():
    got = sent("webhook").json
    assert (got["version"], got["event"], got["key"], got["text"]) == (1, "page", "gearcase-ab12-2", f"{WHAT}\n{THEN}")
    assert got["answers"] == ["gearcase resume a", "gearcase kill a"]
    assert sent("webhook", post=resolve).json["event"] == "answered"


def test_a_redirect_takes_no_secret_anywhere():
    with listening() as elsewhere, listening(307, headers={"Location": elsewhere.url}) as server:
        answer = attempt(trigger(Destination("one", "webhook", server.url, {"Authorization": "Bearer x"}), TEST).as_json())
        assert (answer.status, answer.again, elsewhere.got) == (307, False, [])
        assert "307" in answer.why


@pytest.mark.parametrize(
    ("url", "again"), [("http://127.0.0.1:9/sesame", True), ("http://127.0.0.1:x/sesame", False), ("http://a b/sesame", True)]
)
def test_what_could_not_be_sent_is_told_without_the_address(url, again):
    answer = attempt(trigger(Destination("one", "webhook", url), TEST).as_json(), timeout=2)
    assert answer.why and "sesame" not in answer.why and answer.again in (again, False)


# --- who is told -----------------------------------------------------------------------------------------------------------


def notify(**target):
    return Notify.model_validate({"to": {"one": target}})


def test_secrets_come_from_the_environment_or_a_file_and_are_in_no_text(tmp_path):
    (tmp_path / "hook").write_text("https://hooks.slack.com/services/T0/B0/sesame\n")
    (one,) = destinations(notify(kind="slack", url="${HOOK}", key_files={"HOOK": tmp_path / "hook"}), {})
    assert one.url.endswith("/sesame") and "sesame" not in repr(one) + repr(trigger(one, PAGE))
    (one,) = destinations(notify(kind="pagerduty", routing_key="${KEY}"), {"KEY": "sesame-sesame"})
    assert (one.url, one.routing_key) == ("https://events.pagerduty.com/v2/enqueue", "sesame-sesame")


@pytest.mark.parametrize(("value", "code"), [("", "missing_secret"), ("no-address-sesame", "bad_secret")])
def test_a_secret_that_is_missing_or_no_address_is_told_before_a_run(value, code):
    with pytest.raises(UsageError) as caught:
        destinations(notify(kind="slack", url="${HOOK}"), {"HOOK": value})
    assert caught.value.code == code and "HOOK" in str(caught.value) and "sesame" not in json.dumps(caught.value.envelope())


def test_a_users_own_targets_count_where_a_box_names_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert chosen(Notify()) == Notify()
    user_file().parent.mkdir()
    user_file().write_text('repeat = "3m"\n[to.phone]\nkind = "slack"\nurl = "${HOOK}"\nkey_files = { HOOK = "hook.txt" }\n')
    own = chosen(Notify())
    assert own.repeat == 180 and own.to["phone"].key_files["HOOK"] == tmp_path / "gearcase/hook.txt"
    box = notify(kind="webhook", url="http://127.0.0.1:1/")
    assert chosen(box) is box


def test_a_users_file_that_is_wrong_is_told_without_its_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    user_file().parent.mkdir()
    user_file().write_text('[to.phone]\nkind = "slack"\nurl = "https://hooks.slack.com/services/sesame"\n')
    with pytest.raises(UsageError) as caught:
        chosen(Notify())
    assert caught.value.code == "bad_notify" and "to.phone" in caught.value.cause
    assert "sesame" not in json.dumps(caught.value.envelope())
