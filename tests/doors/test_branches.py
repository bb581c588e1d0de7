"""A change of a given repository becomes a branch; nothing of the user's is touched, nothing of the repository's is executed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gearcase.doors.branches import commits_since, make_branch, tracked
from gearcase.doors.changes import stayed, told_by_rules
from gearcase.doors.files import Delivery, give, take
from gearcase.doors.patterns import Patterns
from gearcase.doors.repositories import is_git_name, recall, remember
from gearcase.errors import GearcaseError, UsageError
from gearcase.run.change import remarks, selected
from gearcase.sandbox.blobs import BlobStore

ME = (os.geteuid(), os.getegid())
IDENTITY = ("-c", "user.name=u", "-c", "user.email=u@example.org")


def git(folder, *arguments, check=True):
    around = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    ran = subprocess.run(
        ["git", "-C", folder, *IDENTITY, *arguments], env=around, capture_output=True, text=True, errors="surrogateescape"
    )
    assert not check or ran.returncode == 0, ran.stderr
    return ran.stdout.strip("\n")


class Desk:
    """A user's repository, what an agent has of it, and the run's folder."""

    def __init__(self, folder):
        self.repository = folder / "repo"
        self.repository.mkdir()
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.run = folder / "run"
        self.run.mkdir()
        self.store = BlobStore(self.run / "blobs")
        self.root = os.open(self.workspace, os.O_RDONLY | os.O_DIRECTORY)
        self.inside = self.workspace / "repo"
        git(self.repository, "init", "-q", "-b", "main")

    def writes(self, files, top=None, mode=0o644):
        for name, data in files.items():
            path = os.path.join(os.fsencode(top or self.repository), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(os.fsdecode(path)).write_bytes(data)
            os.chmod(path, mode)

    def commits(self, files=None, text="work"):
        self.writes(files or {})
        git(self.repository, "add", "-A")
        git(self.repository, "commit", "-q", "--allow-empty", "-m", text)
        return git(self.repository, "rev-parse", "HEAD")

    def gives(self):
        given = give([self.repository], self.root, ME, self.store)
        remember(self.run, [self.repository], given.manifest)
        return given

    def hands_over(self):
        delivery = take(self.root, ["repo/**"], self.run / "delivered", most_bytes=1 << 30)
        self.delivery = Delivery.from_json(delivery.to_json(""))
        (self.given,) = recall(self.run)
        self.files, self.ignored = selected(
            self.given, self.delivery, self.run / "delivered", Patterns(["repo/**"]), self.store, self.run
        )
        return self.files

    def applies(self, name="gearcase/run", run="run"):
        scratch = self.run / f"scratch-{len(os.listdir(self.run))}"
        scratch.mkdir()
        texts = {"title": "the goal", "body": "by a run", "run": run, "at": 1_700_000_000.0}
        return make_branch(self.given, self.files, self.store, self.run / "delivered", scratch, name=name, **texts)

    def works(self, files=(), gone=(), **options):
        """Give, change, hand over."""
        self.gives()
        self.writes(dict(files), self.inside, **options)
        for name in gone:
            (self.inside / name).unlink()
        return self.hands_over()

    def state(self):
        """All that is the user's: status, HEAD, index, stash, contents."""
        contents = {path: path.read_bytes() for path in self.repository.rglob("*") if path.is_file() and ".git" not in path.parts}
        index = (self.repository / ".git/index").read_bytes()
        return git(self.repository, "status", "--porcelain"), (self.repository / ".git/HEAD").read_text(), index, contents

    def holds(self, branch="gearcase/run"):
        """Path and content of everything on a branch."""
        names = git(self.repository, "ls-tree", "-r", "-z", "--name-only", branch).split("\0")[:-1]
        return {name: git(self.repository, "show", f"{branch}:{name}") for name in names}


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    os.close(made.root)


def refused(desk, code, **options):
    with pytest.raises(UsageError) as caught:
        desk.applies(**options)
    assert caught.value.code == code and caught.value.remedy
    return caught.value


# --- the branch


def test_the_branch_holds_the_change_and_nothing_of_the_users_is_touched(desk):
    base = desk.commits({"a.py": b"one\n", "b.py": b"two\n", "gone.py": b"x\n", "run.sh": b"#!/bin/sh\n", "d/e": b"deep\n"})
    git(desk.repository, "stash", "list")
    desk.works({"a.py": b"ONE\n", "new/c.py": b"three\n", "bin": bytes(range(256))}, gone=["gone.py"])
    (desk.inside / "run.sh").chmod(0o755)
    shutil.rmtree(desk.run / "delivered")
    desk.hands_over()
    before = desk.state()
    made = desk.applies()
    assert desk.state() == before
    assert (made.base, made.uncommitted, made.left_out, made.fresh) == (base, "", (), True)
    assert git(desk.repository, "rev-list", f"{base}..gearcase/run") == made.commit
    shown = git(desk.repository, "diff-tree", "-r", "--no-commit-id", "--name-status", "gearcase/run").split("\n")
    assert shown == ["M\ta.py", "A\tbin", "D\tgone.py", "A\tnew/c.py", "M\trun.sh"]
    assert git(desk.repository, "ls-tree", "gearcase/run", "run.sh").startswith("100755")
    assert git(desk.repository, "log", "-1", "--format=%s|%an", "gearcase/run") == "the goal|gearcase"
    assert git(desk.repository, "fsck", "--strict", "--no-dangling") == ""
    assert not desk.applies().fresh


def test_uncommitted_work_stands_in_a_commit_of_its_own_before_the_agents(desk):
    base = desk.commits({"a.py": b"one\ntwo\nthree\n", "mine.py": b"1\n", "dropped.py": b"x\n"})
    desk.writes({"a.py": b"one\ntwo\nMINE\n", "mine.py": b"2\n", "note.txt": b"untracked\n", "touched.txt": b"untracked\n"})
    (desk.repository / "dropped.py").unlink()
    git(desk.repository, "add", "mine.py")
    desk.works({"a.py": b"AGENT\ntwo\nMINE\n", "touched.txt": b"by the agent\n"})
    before = desk.state()
    made = desk.applies()
    assert desk.state() == before
    assert git(desk.repository, "rev-list", f"{base}..gearcase/run").split() == [made.commit, made.uncommitted]
    mine = git(desk.repository, "diff-tree", "-r", "--no-commit-id", "--name-status", made.uncommitted).split("\n")
    assert mine == ["M\ta.py", "D\tdropped.py", "M\tmine.py", "A\ttouched.txt"]
    patch = git(desk.repository, "show", "--format=", made.commit, "--", "a.py")
    assert "+AGENT" in patch and "-one" in patch and "+MINE" not in patch
    assert "note.txt" not in desk.holds()


def test_what_git_ignores_is_no_part_of_it_unless_it_is_tracked(desk):
    desk.writes({".gitignore": b"*.pyc\nbuild/\n!keep.pyc\n", "kept.pyc": b"tracked", "sub/.gitignore": b"local\n"})
    git(desk.repository, "add", "-f", "kept.pyc")
    desk.commits()
    desk.writes({"build/x": b"mine", ".git/info/exclude": b"secret*\n"})
    files = desk.works(
        {
            "a.pyc": b"x",
            "build/x": b"changed",
            "kept.pyc": b"new",
            "keep.pyc": b"y",
            "sub/local": b"z",
            "secret.txt": b"s",
            ":(glob)*": b"odd",
            "ok": b"o",
        }
    )
    assert [one.path for one in files] == [b":(glob)*", b"keep.pyc", b"kept.pyc", b"ok"] and desk.ignored == 4
    desk.applies()
    assert set(desk.holds()) == {".gitignore", ":(glob)*", "keep.pyc", "kept.pyc", "ok", "sub/.gitignore"}


@pytest.mark.parametrize(
    "name", ["new\nline", "-rf", "--force", 'quo"te', "tab\there", ":(top)x", "back\\slash", b"not-\xff-utf8", "ä b"]
)
def test_hostile_names_arrive_as_they_are(desk, name):
    desk.commits({name: b"before\n", "other": b"x\n"})
    text = os.fsdecode(name) if isinstance(name, bytes) else name
    desk.works({name: b"after\n", f"dir/{text}": b"new\n"})
    desk.applies()
    assert desk.holds() == {text: "after", f"dir/{text}": "new", "other": "x"}


def test_a_folder_becomes_a_file_and_a_file_a_folder(desk):
    desk.commits({"a": b"file\n", "b/c": b"x\n", "b/d": b"y\n"})
    desk.gives()
    (desk.inside / "a").unlink()
    shutil.rmtree(desk.inside / "b")
    desk.writes({"a/new": b"1\n", "b": b"2\n"}, desk.inside)
    desk.hands_over()
    desk.applies()
    assert desk.holds() == {"a/new": "1", "b": "2"}


def test_the_start_is_the_commit_that_was_given_wherever_the_branch_is_now(desk, tmp_path):
    base = desk.commits({"a": b"1\n"})
    desk.works({"a": b"2\n"})
    desk.commits({"b": b"later\n"})
    desk.commits({"c": b"later\n"})
    assert desk.applies().base == base
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert commits_since(desk.given, scratch) == 2
    git(desk.repository, "reset", "-q", "--hard", base)
    assert commits_since(desk.given, scratch) == 0
    git(desk.repository, "checkout", "-q", "--orphan", "elsewhere")
    git(desk.repository, "commit", "-qm", "other")
    git(desk.repository, "branch", "-f", "main", "elsewhere")
    assert commits_since(desk.given, scratch) is None


def test_a_detached_head_a_linked_work_tree_and_sha256_are_no_obstacle(desk, tmp_path):
    base = desk.commits({"a": b"1\n"})
    git(desk.repository, "checkout", "-q", "--detach")
    desk.works({"a": b"2\n"})
    assert desk.given.branch == "" and desk.applies().base == base
    for kind in ("linked", "sha256"):
        other = desk_at(tmp_path / kind)
        if kind == "sha256":
            shutil.rmtree(other.repository / ".git")
            git(other.repository, "init", "-q", "-b", "main", "--object-format=sha256")
        other.commits({"a": b"1\n"})
        if kind == "linked":
            other.repository.rename(tmp_path / "main-tree")
            git(tmp_path / "main-tree", "worktree", "add", "-q", "-b", "side", str(other.repository))
            assert (other.repository / ".git").is_file()
        other.works({"a": b"2\n"})
        other.applies()
        assert other.holds() == {"a": "2"}
        os.close(other.root)


def desk_at(folder):
    folder.mkdir()
    return Desk(folder)


def test_a_sparse_work_tree_lacks_files_and_the_branch_does_not(desk):
    desk.commits({"a": b"1\n", "far/b": b"2\n"})
    git(desk.repository, "sparse-checkout", "set", "--no-cone", "/a")
    assert not (desk.repository / "far").exists()
    desk.works({"a": b"3\n"})
    made = desk.applies()
    assert made.uncommitted == "" and desk.holds() == {"a": "3", "far/b": "2"}


def test_lines_that_end_otherwise_only_in_the_work_tree_are_no_change(desk):
    desk.commits({".gitattributes": b"*.txt text eol=crlf\n", "a.txt": b"one\ntwo\n"})
    desk.writes({"a.txt": b"one\r\ntwo\r\n"})
    desk.works({"a.txt": b"one\r\n2\r\n"})
    made = desk.applies()
    assert made.uncommitted == ""
    assert git(desk.repository, "show", "--numstat", "--format=", "gearcase/run") == "1\t1\ta.txt"


def test_files_behind_a_filter_and_in_submodules_are_left_out_with_the_reason(desk, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 7\n"
    desk.commits(
        {".gitattributes": b"*.bin filter=lfs -text\n*.key filter=crypt\n", "a.bin": pointer, "b.bin": pointer, "x": b"1"}
    )
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    git(inner, "commit", "-q", "--allow-empty", "-m", "s")
    git(desk.repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "sub")
    desk.commits()
    desk.writes({"a.bin": b"content", "b.bin": b"content"})
    desk.works({"a.bin": b"changed", "new.key": b"plain secret", "sub/file": b"s", "x": b"2"})
    assert desk.files[-1].path == b"x"
    made = desk.applies()
    reasons = {refusal.path: refusal.reason for refusal in made.left_out}
    assert set(reasons) == {b"a.bin", b"new.key", b"sub/file"}
    assert "filter lfs" in reasons[b"a.bin"] and "filter crypt" in reasons[b"new.key"] and "submodule" in reasons[b"sub/file"]
    assert git(desk.repository, "show", "--name-only", "--format=", "gearcase/run") == "x"
    assert made.uncommitted == ""
    flags = {(one.path, one.flag) for one in remarks(desk.files, (), desk.given)}
    assert (b"sub/file", "submodule") in flags


def test_links_do_not_leave_and_are_named_when_the_agent_made_them(desk):
    desk.commits({"a": b"1\n"})
    os.symlink("a", desk.repository / "old")
    os.symlink("/etc/passwd", desk.repository / "out")
    desk.commits()
    desk.gives()
    os.symlink("/etc/shadow", desk.inside / "new")
    (desk.inside / "a").write_text("2\n")
    desk.hands_over()
    named = list(stayed(desk.given, desk.delivery))
    assert [(one.path, one.reason) for one in named] == [(b"new", "a link, to /etc/shadow")]
    made = desk.applies()
    assert made.uncommitted == ""
    assert git(desk.repository, "show", "--name-only", "--format=", "gearcase/run") == "a"
    assert [(one.path, one.flag) for one in remarks(desk.files, named, desk.given)] == [(b"new", "link")]


def test_many_files_and_a_large_one(desk):
    desk.commits({f"d{number % 7}/f{number}": b"%d\n" % number for number in range(600)} | {"big": bytes(5 << 20)})
    with open(desk.repository / "big", "ab") as file:
        file.write(b"mine")
    desk.gives()
    with open(desk.inside / "big", "ab") as file:
        file.write(b"agent")
    desk.writes({f"n/{number}": b"x%d" % number for number in range(600)}, desk.inside)
    assert len(desk.hands_over()) == 601
    made = desk.applies()
    assert made.uncommitted and git(desk.repository, "cat-file", "-s", "gearcase/run:big") == str((5 << 20) + 9)


# --- clear errors


def test_a_branch_that_is_there_or_has_moved_is_left_as_it_is(desk):
    base = desk.commits({"a": b"1\n"})
    desk.works({"a": b"2\n"})
    made = desk.applies()
    git(desk.repository, "checkout", "-q", "gearcase/run")
    moved = desk.commits({"b": b"review\n"})
    git(desk.repository, "checkout", "-q", "main")
    assert made.commit[:4] not in refused(desk, "branch_exists").message
    assert git(desk.repository, "rev-parse", "gearcase/run") == moved
    git(desk.repository, "branch", "taken", base)
    refused(desk, "branch_exists", name="taken")
    refused(desk, "branch_exists", name="taken/below")
    assert desk.applies(name="other").fresh


@pytest.mark.parametrize("name", ["-x", "a..b", "a b", "x.lock", "@{-1}", "a~1", "new\nline", ".hidden", "refs/../x"])
def test_a_name_that_is_none_is_refused(desk, name):
    desk.commits({"a": b"1\n"})
    desk.works({"a": b"2\n"})
    refused(desk, "bad_branch", name=name)


def test_no_commit_no_repository_no_such_commit_no_change(desk, tmp_path):
    desk.works({"a": b"1\n"})
    assert "commit" in refused(desk, "no_commit").message
    other = desk_at(tmp_path / "other")
    other.commits({"a": b"1\n"})
    other.works()
    refused(other, "no_change")
    other.writes({"a": b"2\n"}, other.inside)
    shutil.rmtree(other.run / "delivered")
    other.hands_over()
    shutil.rmtree(other.repository / ".git")
    refused(other, "repository_gone")
    git(other.repository, "init", "-q")
    refused(other, "commit_gone")
    os.close(other.root)


def test_staged_files_that_somebody_changed_are_not_committed(desk):
    desk.commits({"a": b"1\n"})
    desk.works({"a": b"2\n"})
    (desk.run / "delivered/repo/a").write_bytes(b"3\n")
    with pytest.raises(GearcaseError) as caught:
        desk.applies()
    assert caught.value.code == "staging_changed"
    assert git(desk.repository, "branch", "--list", "gearcase/*") == ""


def test_two_runs_on_one_repository_make_two_branches(desk, tmp_path):
    desk.commits({"a": b"1\n"})
    desk.works({"a": b"2\n"})
    two = desk_at(tmp_path / "two")
    shutil.rmtree(two.repository)
    two.repository = desk.repository
    two.works({"a": b"3\n"})
    desk.applies()
    refused(two, "branch_exists")
    two.applies(name="gearcase/two")
    assert (desk.holds()["a"], desk.holds("gearcase/two")["a"]) == ("2", "3")
    os.close(two.root)


# --- nothing of the repository is executed


def test_nothing_that_a_hostile_repository_names_is_executed(desk, tmp_path):
    canary = tmp_path / "canary"
    bait = tmp_path / "bait"
    bait.write_text(f'#!/bin/sh\necho "$0 $@" >> {canary}\ncat\n')
    bait.chmod(0o755)
    desk.commits({"a.txt": b"1\n", ".gitattributes": b"*.txt filter=evil diff=evil\n*.md filter=evil\n"})
    repository, hooks = desk.repository, desk.repository / ".git/hooks"
    for hook in ("pre-commit", "post-commit", "reference-transaction", "post-index-change", "post-checkout"):
        shutil.copy(bait, hooks / hook)
    for key, value in {
        "core.fsmonitor": str(bait),
        "core.hooksPath": str(hooks),
        "core.pager": str(bait),
        "filter.evil.clean": str(bait),
        "filter.evil.smudge": str(bait),
        "filter.evil.required": "true",
        "diff.evil.textconv": str(bait),
        "diff.external": str(bait),
        "core.sshCommand": str(bait),
        "commit.gpgSign": "true",
        "gpg.program": str(bait),
        "core.editor": str(bait),
        "core.worktree": str(tmp_path),
    }.items():
        git(repository, "config", key, value)
    canary.unlink(missing_ok=True)
    desk.works({"a.txt": b"2\n", "b.md": b"new\n", "c": b"plain\n"})
    desk.applies()
    tracked(desk.given, desk.run)
    told_by_rules(desk.given, desk.store, [b"a.txt"])
    assert not canary.exists(), canary.read_text()
    git(repository, "config", "--unset", "core.worktree")  # positive controls: the same repository bites an ordinary git
    for attack in (
        ["status"],
        ["add", "a.txt"],
        ["update-ref", "refs/heads/control", "HEAD"],
        ["diff", "HEAD"],
        ["commit", "-am", "x"],
    ):
        desk.writes({"a.txt": b"%d\n" % os.urandom(1)[0]})
        canary.unlink(missing_ok=True)
        git(repository, *attack, check=False)
        assert canary.exists(), attack


def test_missing_objects_are_not_fetched_by_the_repositorys_own_transport(desk, tmp_path):
    canary = tmp_path / "canary"
    bait = tmp_path / "bait"
    bait.write_text(f"#!/bin/sh\ntouch {canary}\n")
    bait.chmod(0o755)
    desk.commits({"a": b"1\n", "lost": b"lost\n"})
    desk.works({"a": b"2\n"})
    number = git(desk.repository, "rev-parse", "HEAD:lost")
    (desk.repository / ".git/objects" / number[:2] / number[2:]).unlink()
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.url": "ssh://example.invalid/x",
        "remote.origin.promisor": "true",
        "core.sshCommand": str(bait),
    }.items():
        git(desk.repository, "config", key, value)
    try:
        desk.applies()
    except GearcaseError as error:
        assert error.code == "git_failed"
    assert not canary.exists()
    git(desk.repository, "cat-file", "-p", number, check=False)
    assert canary.exists()  # positive control


# --- what crosses over


def test_gits_configuration_and_hooks_stay_outside_and_the_log_can_be_read(desk):
    base = desk.commits({"a": b"1\n", "gearcase-out/x": b"old"})
    git(desk.repository, "config", "remote.origin.url", "https://user:ghp_token@example.org/x")
    desk.writes({".git/hooks/pre-commit": b"#!/bin/sh\n", ".git/modules/m/config": b"url", ".env": b"K=1"})
    given = desk.gives()
    assert {(one.path, one.reason) for one in given.left_out} >= {
        (b"repo/.git/config", "git's configuration may hold keys"),
        (b"repo/.git/hooks", "git's hooks run on this machine"),
        (b"repo/.git/modules/m/config", "git's configuration may hold keys"),
        (b"repo/gearcase-out", "what earlier runs delivered"),
    }
    assert not any(b"ghp_token" in path.read_bytes() for path in desk.inside.rglob("*") if path.is_file())
    assert (desk.inside / ".env").exists()
    assert git(desk.inside, "log", "--format=%H") == base


def test_git_folders_never_leave(desk):
    desk.commits({"a": b"1\n"})
    odd = [".git/hooks/post-checkout", "sub/.git/config", ".GIT/config", "git~1/x", ".git./x", ".g\u200cit/x", ".git::$INDEX/x"]
    desk.works(dict.fromkeys(odd, b"#!/bin/sh\n") | {"a": b"2\n", "sub/ok": b"y"}, mode=0o755)
    assert [file.path for file in desk.delivery.files] == [b"repo/a", b"repo/sub/ok"]
    assert [one.path for one in desk.files] == [b"a", b"sub/ok"]
    desk.applies()
    assert set(desk.holds()) == {"a", "sub/ok"}
    assert not is_git_name(b".gitignore") and not is_git_name(b".github")


def test_files_that_run_by_themselves_are_flagged_with_a_reason(desk):
    desk.commits({"a": b"1\n", "Makefile": b"all:\n", ".github/workflows/old.yml": b"x\n", "tool.sh": b"x"})
    (desk.repository / "tool.sh").chmod(0o755)
    risky = [
        ".githooks/pre-commit",
        ".github/workflows/ci.yml",
        "Makefile",
        ".envrc",
        "tests/conftest.py",
        "package.json",
        "setup.py",
    ]
    risky += [".gitattributes", ".gitmodules", ".pre-commit-config.yaml", ".vscode/tasks.json", ".gitlab-ci.yml", "compose.yml"]
    desk.works({**dict.fromkeys(risky, b"new\n"), "a": b"2\n", "tool.sh": b"y"}, gone=[".github/workflows/old.yml"])
    told = remarks(desk.files, (), desk.given)
    assert {os.fsdecode(one.path) for one in told} == {*risky, ".github/workflows/old.yml"}
    assert all(one.reason for one in told)


def test_a_folder_that_is_no_repository_is_not_remembered_as_one(desk):
    shutil.rmtree(desk.repository / ".git")
    desk.writes({"a": b"1"})
    desk.gives()
    assert recall(desk.run) == []
