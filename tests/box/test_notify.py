"""Where pages go is declared by references alone: what leads to a person's phone is never in the box itself."""

import pytest

from gearcase.box import effective_toml, load_box
from gearcase.errors import UsageError

WHOLE = """
[notify]
bell = false
repeat = "5m"

[notify.to.phone]
kind = "ntfy"
url = "https://ntfy.sh/my-runs"
headers = { Authorization = "Bearer ${NTFY_TOKEN}" }

[notify.to.team]
kind = "slack"
url = "${SLACK_WEBHOOK}"
key_files = { SLACK_WEBHOOK = "slack.txt" }

[notify.to.duty]
kind = "pagerduty"
routing_key = "${PAGERDUTY_KEY}"

[notify.to.own]
kind = "webhook"
url = "http://127.0.0.1:9000/pages"
"""


def loaded(folder, text):
    (folder / "box.toml").write_text(text)
    return load_box(folder / "box.toml", environment={})


def mistakes(folder, text):
    with pytest.raises(UsageError) as caught:
        loaded(folder, text)
    return [one["message"] for one in caught.value.context["mistakes"]]


def test_several_targets_of_every_kind(tmp_path):
    (tmp_path / "slack.txt").write_text("https://hooks.slack.com/services/T0/B0/secret-part\n")
    box = loaded(tmp_path, WHOLE).box
    assert {name: one.kind for name, one in box.notify.to.items()} == {
        "phone": "ntfy",
        "team": "slack",
        "duty": "pagerduty",
        "own": "webhook",
    }
    assert (box.notify.bell, box.notify.repeat) == (False, 300.0)
    assert box.notify.to["team"].key_files["SLACK_WEBHOOK"] == tmp_path / "slack.txt"


def test_the_effective_box_is_the_same_box_and_holds_no_secret(tmp_path):
    (tmp_path / "slack.txt").write_text("https://hooks.slack.com/services/T0/B0/secret-part\n")
    box = loaded(tmp_path, WHOLE).box
    written = effective_toml(box)
    assert "secret-part" not in written and 'repeat = "5m"' in written
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert loaded(elsewhere, written).box == box


def test_without_a_word_only_the_bell_rings(tmp_path):
    notify = loaded(tmp_path, "").box.notify
    assert (notify.bell, notify.repeat, dict(notify.to)) == (True, 600.0, {})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('kind = "slack"\nurl = "https://hooks.slack.com/services/T0/B0/sesame"', "${NAME}"),
        ('kind = "pagerduty"\nrouting_key = "0123456789sesame"', "${NAME}"),
        ('kind = "webhook"\nurl = "https://x.test/p?token=sesame"', "${NAME}"),
        ('kind = "webhook"\nurl = "https://user:sesame@x.test/p"', "password"),
        ('kind = "webhook"\nurl = "https://x.test/p"\nheaders = { Authorization = "Bearer sesame" }', "${NAME}"),
    ],
)
def test_a_secret_in_the_box_itself_is_refused_and_not_repeated(tmp_path, keys, said):
    (told,) = mistakes(tmp_path, f"[notify.to.one]\n{keys}\n")
    assert said in told and "sesame" not in told


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('kind = "ntfy"', "`url`"),
        ('kind = "ntfy"\nurl = "https://ntfy.sh"', "topic"),
        ('kind = "pagerduty"', "routing_key"),
        ('kind = "webhook"\nurl = "https://x.test/"\nrouting_key = "${KEY}"', "pagerduty"),
        ('kind = "webhook"\nurl = "ftp://x.test/"', "http"),
        ('kind = "telegram"\nurl = "https://x.test/"', "ntfy"),
    ],
)
def test_a_target_that_leads_nowhere_is_refused(tmp_path, keys, said):
    (told,) = mistakes(tmp_path, f"[notify.to.one]\n{keys}\n")
    assert said in told


def test_a_key_file_that_is_not_there_is_told(tmp_path):
    keys = 'kind = "slack"\nurl = "${HOOK}"\nkey_files = { HOOK = "nowhere.txt" }'
    (told,) = mistakes(tmp_path, f"[notify.to.one]\n{keys}\n")
    assert "nowhere.txt" in told
