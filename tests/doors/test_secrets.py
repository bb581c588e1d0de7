"""Where a secret's value comes from."""

import sys
from types import SimpleNamespace

import pytest

from gearcase.doors.secrets import checked, find_secret, in_keyring
from gearcase.errors import UsageError


def test_the_systems_keyring_is_asked_for_service_and_user(monkeypatch):
    entries = {("github", "me"): " ghp_from_keyring \n"}
    keyring = SimpleNamespace(get_password=lambda service, user: entries.get((service, user)))
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    assert in_keyring("github/me", "[secrets.github]") == "ghp_from_keyring"
    assert in_keyring("github/you", "[secrets.github]") == ""


def test_without_the_keyring_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(UsageError) as error:
        in_keyring("github/me", "[secrets.github]")
    assert error.value.code == "missing_key" and "gearcase[keyring]" in error.value.remedy


def test_no_error_and_no_text_of_a_secret_holds_its_value(tmp_path):
    (tmp_path / "token").write_text("from a file\n")
    assert find_secret("T", tmp_path / "token", {"T": "from the environment"}, "x").value == "from a file"
    assert "canary" not in repr(checked("T", "canary-4711", "x"))
    for value, code in (
        ("", "missing_secret"),
        ("canary", "bad_secret"),
        ("canary\n4711", "bad_secret"),
        ("canäry-4711", "bad_secret"),
    ):
        with pytest.raises(UsageError) as error:
            checked("T", value, "[secrets.x]")
        assert error.value.code == code and "can" not in str(error.value.envelope()).replace("cannot", "").replace("can be", "")
