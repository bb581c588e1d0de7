"""Calls of git on a repository that is not trusted: only plumbing, and nothing that its configuration names is ever executed.

Threat: a repository's configuration and attributes are programs (hooks, filters, textconv, external diffs, fsmonitor, remote
helpers that fetch missing objects, signing, pagers), and so may the user's be. So the environment is built anew, the user's and
the machine's configuration are not read, what the repository's own says is overridden, no transport is allowed, replaced objects
are not followed, and no command here looks at a work tree: the folder that git works in is empty or of our own making.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from gearcase.errors import GearcaseError, RunError, UsageError

DEADLINE = 900.0
"""Seconds after which a call of git is given up."""

_OVERRIDES = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.splitIndex=false",
    "index.sparse=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.alternateRefsCommand=false",
    "core.sshCommand=false",
    "core.askPass=false",
    "core.pager=cat",
    "core.editor=false",
    "credential.helper=",
    "protocol.allow=never",
    "commit.gpgSign=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "i18n.commitEncoding=UTF-8",
)
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "gearcase",
    "GIT_AUTHOR_EMAIL": "agent@gearcase.invalid",
    "GIT_COMMITTER_NAME": "gearcase",
    "GIT_COMMITTER_EMAIL": "agent@gearcase.invalid",
}


class Git:
    """One repository, by its `.git` (a folder or the file that points to one). `scratch` is an empty folder of ours."""

    def __init__(self, git_dir: Path, scratch: Path, *, work_tree: Path | None = None, deadline: float = DEADLINE) -> None:
        self._git_dir = git_dir.absolute()
        self._scratch = scratch.absolute()
        self._deadline = deadline
        self._work_tree = (work_tree or scratch).absolute()

    def run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        at: float | None = None,
        index: Path | None = None,
        fine: tuple[int, ...] = (0,),
    ) -> bytes:
        """What a call prints. `at` is the time of a commit in unix seconds, `index` a file to use in place of the repository's.

        `fine` are the exit codes that are no failure.

        Raises UsageError `no_git`, RunError `git_failed`.
        """
        done = self._call(arguments, stdin, at, index)
        if done.returncode not in fine:
            raise self._failed(arguments, done.stderr)
        return done.stdout

    def ask(self, *arguments: str, stdin: bytes = b"") -> str | None:
        """One line that a call prints; None where it says no by its exit code."""
        done = self._call(arguments, stdin, None, None)
        return None if done.returncode else os.fsdecode(done.stdout).strip("\n")

    def _call(
        self, arguments: tuple[str, ...], stdin: bytes, at: float | None, index: Path | None
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["git", "--no-pager", f"--git-dir={self._git_dir}"]
        for override in _OVERRIDES:
            command += ["-c", override]
        environment = {**_ENVIRONMENT, "PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._scratch)}
        if at is not None:
            environment |= {"GIT_AUTHOR_DATE": f"{int(at)} +0000", "GIT_COMMITTER_DATE": f"{int(at)} +0000"}
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        try:
            return subprocess.run(
                [*command, *arguments],
                cwd=self._work_tree,
                env=environment,
                capture_output=True,
                timeout=self._deadline,
                check=False,
                input=stdin,
            )
        except FileNotFoundError:
            raise UsageError("no_git", "there is no git on this machine", remedy="install git, then try again") from None
        except subprocess.TimeoutExpired:
            raise self._failed(arguments, b"it did not end") from None

    def _failed(self, arguments: tuple[str, ...], said: bytes) -> GearcaseError:
        return RunError(
            "git_failed",
            f"git {arguments[0]} failed on {self._git_dir}",
            cause=os.fsdecode(said[-2000:]).strip().encode("utf-8", "replace").decode(),
            remedy=f"look at the repository (git --git-dir={self._git_dir} fsck), mend it, and try again",
        )
