"""A repository goes in, a change comes out: real packages, from their source archives, through the installed command."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PINS = Path(__file__).with_name("sources.txt")
PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments")

pytestmark = pytest.mark.timeout(600)  # the first test of a machine downloads the archives


@pytest.fixture(scope="session")
def archives():
    """The pinned source archives, downloaded once on this machine."""
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    folder = Path(__file__).parents[2] / ".cache" / f"sources-{pins}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            download = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary",
                ":all:",
                "--require-hashes",
            ]
            subprocess.run([*download, "--dest", folder, "--requirement", PINS], check=True)
            (folder / "complete").touch()
    return {file.name.partition("-")[0]: file for file in folder.glob("*.tar.gz")}


class Repository:
    """A package under git in the user's folder, with the test runner in a virtual environment that git ignores."""

    def __init__(self, user, archive):
        subprocess.run(["tar", "--no-same-owner", "-xzf", archive, "-C", user.folder], check=True)
        unpacked = user.folder / archive.name.removesuffix(".tar.gz")
        self.name = archive.name.partition("-")[0]
        self.path = unpacked.rename(user.folder / self.name)
        self.user = user
        (self.path / ".gitignore").write_text(".venv/\n*.pyc\n.env\n")
        site = self.path / ".venv/lib/python3.11/site-packages"
        site.mkdir(parents=True)
        (self.path / ".venv/pyvenv.cfg").write_text("version = 3.11\n")
        installed = Path(sysconfig.get_paths()["purelib"])
        for package in PYTEST:
            shutil.copytree(installed / package, site / package, ignore=shutil.ignore_patterns("*.pyc"))
        shutil.copy(installed / "py.py", site)
        for facts in (*installed.glob("pytest-*.dist-info"), *installed.glob("pluggy-*.dist-info")):
            shutil.copytree(facts, site / facts.name)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "user")
        self.git("config", "user.email", "user@example.org")
        self.git("add", "-A")
        self.git("commit", "-qm", "as released")
        user.folder = self.path

    def git(self, *arguments, check=True):
        ran = subprocess.run(
            ["git", "-C", self.path, *arguments], env=self.user.environment, capture_output=True, text=True, timeout=60
        )
        assert not check or ran.returncode == 0, ran.stderr
        return ran.stdout.strip("\n")

    def state(self):
        """What must stay the user's: status, HEAD, index and every file that is not ignored."""
        names = self.git("ls-files", "-co", "--exclude-standard", "-z").split("\0")[:-1]
        contents = {name: (self.path / name).read_bytes() for name in names}
        index = self.git("ls-files", "-s"), self.git("stash", "list")
        return self.git("status", "--porcelain"), (self.path / ".git/HEAD").read_text(), index, contents


def test_a_change_of_a_real_package_is_tested_shown_and_put_on_a_branch(user, archives):
    append = "printf '\\ndef doubled(text):\\n    return text + text\\n' >> six.py"
    test = 'printf \'import six\\n\\n\\ndef test_doubled():\\n    assert six.doubled("a") == "aa"\\n\' > test_doubled.py'
    steps = [
        {
            "commands": [
                f"cd six && git log --oneline | grep released && {append}; {test}; mkdir __pycache__; touch __pycache__/x.pyc"
            ]
        },
        {"commands": ["gear done --note 'doubled'"]},
    ]
    model = user.script(*steps)
    six = Repository(user, archives["six"])
    (six.path / "README.rst").write_text("My own words, not yet committed.\n")
    (six.path / "notes.txt").write_text("not tracked\n")
    (six.path / ".env").write_text("DATABASE_URL=postgres://user:hunter2@db/x\n")
    told = user.types("init", code=0).out
    assert "[tool:pytest] in setup.cfg" in told and "DATABASE_URL in .env" in told
    assert "hunter2" not in (six.path / "box.toml").read_text()
    user.types("box", "check", code=0)
    assert "exists" in user.types("init", code=2).err
    before = six.state()
    record = user.types(
        *("run", "add doubled()", "-f", "box.toml", "--model", model, "--name", "double", "--json"), code=0
    ).record
    assert (record["status"], record["residue"]) == ("accepted", [])
    assert record["refused"] == [], "the repository's .git was never asked for"
    assert six.state() == before, "a run changed the user's files"
    report = " ".join(user.types("report", "double", code=0).out.split())
    assert "six/six.py" in report and "six/test_doubled.py" in report and "files as given, unchanged" in report
    assert "site-packages" not in report and "refused" not in report, "what came back as it was given is counted, not listed"
    shown = user.types("diff", code=0)
    assert "+def doubled(text):" in shown.out and "added test_doubled.py" in shown.out
    assert "\033" not in shown.out and ".pyc" not in shown.out and "My own words" not in shown.out
    facts = user.types("diff", "double", "--stat", "--json", code=0).record
    assert {one["path"]: (one["change"], one["added"], one["removed"]) for one in facts["files"]} == {
        "six.py": ("changed", 3, 0),
        "test_doubled.py": ("added", 5, 0),
    }
    made = user.types("apply", "double", "--json", code=0).record
    assert six.state() == before, "apply changed the user's files"
    assert made["branch"] == "gearcase/double" and made["base"] == six.git("rev-parse", "main")
    assert six.git("show", "--name-only", "--format=", made["commit"]).split() == ["six.py", "test_doubled.py"]
    assert six.git("show", "--name-only", "--format=", made["uncommitted"]).split() == ["README.rst"]
    assert six.git("show", "gearcase/double:README.rst") == "My own words, not yet committed."
    assert "gearcase/double is there already" in " ".join(user.types("apply", code=0).out.replace("branch ", "").split())
    user.types("apply", "--patch", user.home / "six.patch", code=0)
    six.git("apply", "--check", user.home / "six.patch")
    assert user.types("apply", "--patch", user.home / "six.patch", code=2).err.startswith("error exists")


def test_a_planted_hook_is_flagged_and_never_run(user, archives):
    canary = user.home / "canary"
    hook = f"printf '#!/bin/sh\\ntouch {canary}\\n'"
    plant = [
        "cd idna && mkdir -p .githooks .git/hooks .github/workflows",
        f"{hook} > .githooks/pre-commit; {hook} > .githooks/reference-transaction; chmod +x .githooks/*",
        "cp .githooks/* .git/hooks/; printf '[core]\\n\\tfsmonitor = .githooks/pre-commit\\n' > .git/config",
        "printf 'on: push\\n' > .github/workflows/ci.yml; printf 'import os\\n' > conftest.py; ln -s /etc/passwd passwd",
        "printf '* filter=evil\\n' > .gitattributes; printf '\\n# harmless\\n' >> idna/core.py; gear done --as-is",
    ]
    model = user.script({"commands": ["; ".join(plant)]})
    idna = Repository(user, archives["idna"])
    idna.git("config", "filter.evil.clean", f"touch {canary}; cat")
    user.types("init", code=0)
    before = idna.state()
    user.types("run", "mend core.py", "-f", "box.toml", "--model", model, "--name", "planted", "--json", code=0)
    idna.git("config", "core.hooksPath", ".githooks")
    shown = user.types("diff", code=0)
    remarks = [line for line in shown.err.splitlines() if line.startswith("! ")]
    for path in (".githooks/pre-commit", ".github/workflows/ci.yml", "conftest.py", ".gitattributes", "passwd"):
        assert any(f" {path} " in line for line in remarks), path
    made = user.types("apply", "--json", code=0).record
    assert {one["path"] for one in made["remarks"] if one["flag"] == "git hook"} == {
        ".githooks/pre-commit",
        ".githooks/reference-transaction",
    }
    assert not canary.exists()
    assert idna.state() == before and not (idna.path / ".git/hooks/pre-commit").exists()
    assert not any(".git/" in one["path"] for one in made["files"])
    delivered = json.loads(user.types("report", "--json", code=0).out)["delivered"]
    assert not any("/.git/" in one["path"] for one in delivered)
    idna.git("add", "box.toml")
    idna.git("commit", "-qm", "mine")
    assert not canary.exists()
    idna.git("switch", "-q", "gearcase/planted")  # positive control: whoever takes the branch without a look runs the hook
    idna.git("commit", "--allow-empty", "-qm", "control", check=False)
    assert canary.exists()


def test_two_runs_on_one_repository_and_what_can_not_be_applied(user, archives):
    work = "cd iniconfig && echo '# {}' >> src/iniconfig/__init__.py && mkdir -p docs && echo {} > docs/{}.txt; sleep 1"
    models = [user.script({"commands": [work.format(n, n, n), "gear done"]}) for n in ("one", "two")]
    wrong = user.script({"commands": ["echo x > iniconfig/x", "gear done --as-is"]})
    nothing = user.script({"commands": ["gear done --as-is"]})
    slow = user.script({"commands": ["sleep 60"]})
    iniconfig = Repository(user, archives["iniconfig"])
    box = ("--give", ".", "--take", "iniconfig/**", "--check", "test -d $DELIVERED/iniconfig/docs", "--json")
    before = iniconfig.state()
    runs = [user.starts("run", "g", *box, "--model", model, "--name", f"run-{n}") for n, model in enumerate(models)]
    for run in runs:
        out, err = run.communicate(timeout=90)
        assert run.returncode == 0, out + err
    for n, word in enumerate(("one", "two")):
        user.types("apply", f"run-{n}", code=0)
        changed = iniconfig.git("diff", "--name-only", f"main..gearcase/run-{n}").split()
        assert changed == [f"docs/{word}.txt", "src/iniconfig/__init__.py"]
    assert iniconfig.state() == before
    iniconfig.git("branch", "-f", "gearcase/run-0", "main")
    assert "branch_exists" in user.types("apply", "run-0", code=2).err
    user.types("apply", "run-0", "--branch", "elsewhere", code=0)
    user.types("run", "g", *box, "--model", wrong, "--name", "wrong", code=10)
    assert "+x" in user.types("diff", "wrong", code=0).out
    assert "not_delivered" in user.types("apply", "wrong", code=2).err
    user.types("run", "g", *box[:4], "--model", nothing, "--name", "nothing", code=0)
    assert "nothing changed" in user.types("diff", "nothing", code=0).err
    assert "no_change" in user.types("apply", "nothing", code=2).err
    live = user.starts("run", "g", *box, "--model", slow, "--name", "live")
    while "live" not in user.types("ps", code=0).out:
        pass
    assert "not_ended" in user.types("apply", "live", code=2).err
    user.types("kill", "live", "--yes", code=0)
    live.communicate(timeout=30)
    assert "nothing_handed_over" in user.types("apply", "live", code=2).err
    user.types("run", "g", "--give", "src", "--model", nothing, "--name", "part", code=0)
    assert "no_repository" in user.types("diff", "part", code=2).err
    iniconfig.path.rename(user.home / "moved")
    user.folder = user.home
    assert "repository_gone" in user.types("apply", "run-1", "--branch", "b", code=2).err
    assert "+# two" in user.types("diff", "run-1", code=0).out
    user.types("apply", "run-1", "--patch", "two.patch", code=0)


def test_what_has_no_room_in_the_workspace_is_refused_before_it_is_copied_with_a_size_that_would_do(user):
    large = user.folder / "large"
    large.mkdir()
    for number in range(8):
        (large / f"{number}.bin").write_bytes(bytes([number + 1]) * (10 << 20))
    options = ("exec", "--give", large, "--memory", "512MiB")
    refused = user.types(*options, "--disk", "64MiB", "--json", "--", "true", code=13)
    error = refused.record["error"]
    assert error["code"] == "too_large" and "80 MiB in 8 files" in error["message"] and "--disk 1GiB" in error["remedy"]
    assert refused.record["residue"] == []
    assert user.types(*options, "--disk", "128MiB", "--", "ls", "large", code=0).out.split() == [f"{n}.bin" for n in range(8)]


def test_any_program_changes_a_repository_that_is_given(user):
    folder = user.folder / "proj"
    folder.mkdir()
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    git = ("git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", folder)
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "begin")):
        subprocess.run([*git, *command], check=True)
    mend = ("sh", "-c", "cd proj; sed -i 's/a - b/a + b/' calc.py")
    user.types("exec", "--give", "proj", "--", *mend, code=0)
    assert "+    return a + b" in user.types("diff", code=0).out
    assert (folder / "calc.py").read_text().endswith("a - b\n")
    ended = user.types("exec", "--give", "proj", "--take", "elsewhere/**", "--", *mend, code=0)
    assert "nothing is known to have changed" in user.types("diff").err, ended.err
    told = user.types("exec", "--give", "proj/calc.py", "--", "true", code=0)
    assert "nothing may leave this box" in told.err
    assert "no git repository was given" in user.types("diff").err
    assert "nothing is known to have changed" in user.types("diff", cwd=folder).err, "in a repository its own latest run is meant"
