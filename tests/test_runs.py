"""Where runs live on disk."""

import os
import subprocess
import sys

import pytest

from gearcase import runs
from gearcase.errors import UsageError


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_a_run_folder_is_for_its_user_alone():
    folder, owner = runs.create("goal")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    owner.release()


def test_the_latest_run_is_meant_when_nothing_is_said_and_prefixes_and_names_work():
    first, one = runs.create("a", "plain-pear")
    second, two = runs.create("b", "plain-plum")
    assert runs.find().id == second.id
    assert runs.find("plain-pe").id == first.id
    assert runs.find(first.id[:6]).id == first.id or first.id[:6] == second.id[:6]
    with pytest.raises(UsageError) as caught:
        runs.find("plain")
    assert caught.value.code == "which_run"
    with pytest.raises(UsageError) as caught:
        runs.find("nothing-like-it")
    assert caught.value.code == "no_run"
    one.release()
    two.release()


def test_a_name_is_given_once():
    _folder, owner = runs.create("a", "plain-pear")
    with pytest.raises(UsageError) as caught:
        runs.create("b", "plain-pear")
    assert caught.value.code == "name_taken"
    owner.release()


def test_a_second_owner_is_refused_while_the_first_lives():
    folder, owner = runs.create("a")
    assert folder.owner_pid() == os.getpid()
    with pytest.raises(UsageError) as caught:
        runs.own(folder)
    assert caught.value.code == "owned"
    owner.release()
    runs.own(folder).release()


def test_a_dead_owner_is_known_as_dead_even_when_its_pid_lives_again(state):
    script = "from gearcase import runs; f, o = runs.create('a'); print(f.id)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    folder = runs.find(done.stdout.strip())
    assert folder.owner_pid() == 0
    owner = folder.path / "owner"
    text = owner.read_text()
    dead = text.split('"pid": ')[1].split(",")[0]
    owner.write_text(text.replace(f'"pid": {dead}', f'"pid": {os.getpid()}'))
    assert folder.owner_pid() == 0
