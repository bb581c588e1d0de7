"""What a repository tells about itself becomes a box that loads, and nothing of it acts."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gearcase.box import load_box
from gearcase.box.inside import has_module
from gearcase.box.project import look_at
from gearcase.box.starting import first_box

GEARCASE = Path(sys.executable).with_name("gearcase")


def made(top, files):
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (top / "box.toml").write_text(first_box(look_at(top)))
    return load_box(top / "box.toml").box


@pytest.mark.parametrize(
    ("files", "name", "part"),
    [
        ({"pytest.ini": "[pytest]\n", "tests/test_a.py": ""}, "tests", "python3 -m pytest -q"),
        ({"pyproject.toml": "[tool.pytest.ini_options]\n"}, "tests", "python3 -m pytest -q"),
        ({"setup.cfg": "[tool:pytest]\n"}, "tests", "python3 -m pytest -q"),
        ({"tox.ini": "[testenv]\ncommands = pytest {posargs}\n"}, "tests", "python3 -m pytest -q"),
        ({"tests/test_a.py": "import unittest\n"}, "tests", "python3 -m unittest discover -s tests >"),
        ({"tests/test_a.py": "", "tests/__init__.py": ""}, "tests", "python3 -m unittest discover -s tests -t . >"),
        ({"test_a.py": ""}, "tests", "python3 -m unittest discover >"),
        ({"tests/test_a.py": "def test_it():\n    assert True\n"}, "tests", "python3 -m pytest -q"),
        ({"package.json": '{"scripts": {"test": "node --test"}}'}, "npm-test", "npm test"),
        ({"go.mod": "module x\n"}, "go-test", "go test ./..."),
        ({"Cargo.toml": "[package]\n"}, "cargo-test", "cargo test --offline"),
        ({"Makefile": "all:\n\ttrue\ntest: all\n\t./run\n"}, "make-test", "make test"),
        ({"Makefile": "check:\n\t./run\n"}, "make-test", "make check"),
    ],
)
def test_how_tests_are_run_becomes_a_check(tmp_path, files, name, part):
    (check,) = made(tmp_path, files).checks
    assert check.name == name and part in check.run and "$DELIVERED" in check.run


FAILS = "import unittest\nclass A(unittest.TestCase):\n    def test_it(self): self.assertEqual({}, 2)\n"


@pytest.mark.parametrize(
    ("files", "passes"),
    [
        ({"tests/test_a.py": FAILS.format(1)}, False),
        ({"tests/test_a.py": FAILS.format(2)}, True),
        ({"tests/test_a.py": FAILS.format(1), "tests/__init__.py": ""}, False),
        ({"tests/test_a.py": "", "src/a.py": ""}, False),
        ({"test_a.py": FAILS.format(1)}, False),
        ({"test_a.py": FAILS.format(2)}, True),
    ],
)
def test_a_check_by_unittest_finds_the_tests_and_none_at_all_are_no_success(tmp_path, files, passes):
    top, here = tmp_path / "project", tmp_path / "check"
    (check,) = made(top, files).checks
    here.mkdir()
    for path in check.files:
        shutil.copytree(path, here / path.name)
    around = {**os.environ, "DELIVERED": str(tmp_path)}
    done = subprocess.run(["sh", "-c", check.run], cwd=here, env=around, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr


def test_two_languages_are_two_checks_and_make_is_for_when_there_is_none(tmp_path):
    box = made(tmp_path, {"go.mod": "module x\n", "package.json": '{"scripts": {"test": "x"}}', "Makefile": "test:\n\tx\n"})
    assert [check.name for check in box.checks] == ["npm-test", "go-test"]
    assert box.sandbox.packages == ("go", "npm")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'},
        {"package.json": "not json"},
        {"package.json": "[" * 100_000},
        {"package.json": '["scripts"]'},
        {"pyproject.toml": "[[[not toml"},
        {"Makefile": "test := 1\n"},
        {"src/a.py": "x"},
    ],
)
def test_without_tests_there_is_no_check_and_still_a_box(tmp_path, files):
    assert made(tmp_path, files).checks == ()


def test_tests_and_packages_of_this_machine_are_the_checks_and_not_the_agents(tmp_path):
    files = {"tests/test_a.py": "", "pytest.ini": "", ".venv/pyvenv.cfg": "", ".venv/lib/python3.11/site-packages/x.py": ""}
    (check,) = made(tmp_path, files).checks
    assert [path.name for path in check.files] == ["tests", ".venv"]
    assert "cp -r tests work/" in check.run and '"$OLDPWD"/.venv/lib/python3.11/site-packages' in check.run
    box = made(tmp_path / "js", {"package.json": '{"scripts": {"test": "x"}}', "node_modules/a/index.js": ""})
    assert [path.name for path in box.checks[0].files] == ["node_modules"]


def test_a_test_runner_that_the_files_do_not_bring_is_looked_for_before_money_is_spent(tmp_path):
    files = {"tests/test_a.py": "", "pytest.ini": ""}
    assert made(tmp_path / "a", files).sandbox.packages == ("python3", "python3:pytest")
    brought = {**files, ".venv/pyvenv.cfg": "", ".venv/lib/python3.11/site-packages/pytest/__init__.py": ""}
    assert made(tmp_path / "b", brought).sandbox.packages == ("python3",)
    assert made(tmp_path / "c", {"go.mod": "module x\n"}).sandbox.packages == ("go",)


def test_init_says_at_once_that_the_test_runner_is_not_inside(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    told = gearcase(tmp_path, "init")
    lacks = json.loads(gearcase(tmp_path, "init", "--force", "--json").stdout)["lacking"]
    assert told.returncode == 0
    assert lacks == ([] if has_module("pytest") else ["pytest"])
    assert ("pytest is not seen inside a box" in told.stderr) == bool(lacks)
    assert ("gearcase init --force" in " ".join(told.stderr.split())) == bool(lacks)


def test_the_whole_folder_is_given_and_may_leave(tmp_path):
    box = made(tmp_path / 'odd "name" [x]', {"a": ""})
    assert [path.name for path in box.files.give] == ['odd "name" [x]']
    assert box.files.take == ('odd "name" [x]/**',)
    assert box.limits.usd == 2 * 10**9


def test_folders_of_what_others_made_stay_inside(tmp_path):
    box = made(tmp_path, {"src/a": "", "node_modules/x/index.js": "", ".venv/bin/python": "", "vendor/own": ""})
    name = tmp_path.name
    assert box.files.take == (f"{name}/**", f"!{name}/.venv", f"!{name}/node_modules")


def test_of_very_many_files_those_that_may_be_of_others_stay_too(tmp_path):
    (tmp_path / "node_modules").mkdir()
    for number in range(8001):
        (tmp_path / "node_modules" / str(number)).touch()
    box = made(tmp_path, {"src/a": "", "vendor/b": "", ".git/x": ""})
    name = tmp_path.name
    assert box.files.take == (f"{name}/**", f"!{name}/node_modules", f"!{name}/vendor")


def test_hosts_of_lock_files_and_databases_are_remarks_without_values(tmp_path):
    lock = {
        "packages": {"node_modules/a": {"resolved": "https://npm.example.org/a.tgz", "funding": "https://author.example.net/"}}
    }
    files = {
        "package-lock.json": json.dumps(lock, indent=1),
        "poetry.lock": "x",
        "Cargo.lock": 'source = "registry+https://example.org/index"\n',
        ".env": "export DATABASE_URL=postgres://u:hunter2@h/x\nOTHER=1\n",
        "compose.yml": "services:\n  app:\n    environment:\n      - TEST_DATABASE_URL=postgres://u:hunter2@h/x\n",
        ".env.example": "DATABASE_URL=\n",
    }
    made(tmp_path, files)
    text = (tmp_path / "box.toml").read_text()
    assert "DATABASE_URL in .env is" in text and "TEST_DATABASE_URL in compose.yml is" in text
    assert '"npm.example.org",  # package-lock.json' in text
    assert "hunter2" not in text and "author.example.net" not in text
    assert ".env goes along" in text and ".env.example goes along" not in text


def test_the_doors_that_are_remarked_are_doors_once_their_marks_are_taken_away(tmp_path):
    files = {
        "uv.lock": "x",
        ".env": "DATABASE_URL=postgres://u:hunter2@h/x\n",
        "compose.yml": "services:\n  app:\n    environment:\n      - TEST_DATABASE_URL=x\n",
    }
    assert not made(tmp_path, files).doors.postgres
    opened = [
        line.removeprefix("# ") if re.match(r'# (\[doors|\]|allow =|  "|mode =|from =|password_env =)', line) else line
        for line in (tmp_path / "box.toml").read_text().splitlines()
    ]
    (tmp_path / "box.toml").write_text("\n".join(opened))
    doors = load_box(tmp_path / "box.toml").box.doors
    assert [str(rule) for rule in doors.http.allow] == ["pypi.org", "files.pythonhosted.org"]
    assert {name: door.mode for name, door in doors.postgres.items()} == {"db": "branch", "test": "branch"}


def test_names_of_files_cannot_write_keys_into_the_box(tmp_path):
    box = made(tmp_path, {".env\n[limits]\nusd = 900\n#": "DATABASE_URL=x\n", "a": ""})
    assert box.limits.usd == 2 * 10**9
    tree = tomllib.loads((tmp_path / "box.toml").read_text())
    assert set(tree) == {"goal", "model", "limits", "files"}


def gearcase(folder, *arguments):
    around = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "100"}
    return subprocess.run([GEARCASE, *arguments], cwd=folder, env=around, capture_output=True, text=True, timeout=60)


def test_init_writes_a_box_once_and_only_at_the_top_of_a_repository(tmp_path):
    assert "no_repository" in gearcase(tmp_path, "init").stderr
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub").mkdir()
    below = gearcase(tmp_path / "sub", "init")
    assert below.returncode == 2 and f"cd {tmp_path}" in below.stderr.replace("\n", "")
    assert gearcase(tmp_path, "init").returncode == 0
    assert gearcase(tmp_path, "box", "check").returncode == 0
    (tmp_path / "box.toml").write_text("mine")
    again = gearcase(tmp_path, "init")
    assert again.returncode == 2 and "exists" in again.stderr and (tmp_path / "box.toml").read_text() == "mine"
    told = gearcase(tmp_path, "init", "--force", "--json")
    assert told.returncode == 0 and json.loads(told.stdout)["checks"] == []
    assert gearcase(tmp_path, "box", "check").returncode == 0
