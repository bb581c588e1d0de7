"""A first `box.toml` for a repository, with a remark on every line that a person should decide on. It loads as it is."""

from __future__ import annotations

from collections.abc import Iterator

from gearcase.box.project import Project
from gearcase.box.writing import toml_string


def first_box(project: Project) -> str:
    """The text of the box."""
    return "\n".join(_lines(project)) + "\n"


def _lines(project: Project) -> Iterator[str]:
    yield "# A box for this repository. What each key means: gearcase box schema. All values: gearcase box show"
    yield "#"
    yield '#     gearcase run "WHAT SHALL BE DONE" -f box.toml'
    yield "#     gearcase diff        # what the run changed"
    yield "#     gearcase apply       # a new branch with it; your files stay as they are"
    yield ""
    yield 'goal = ""  # or as the first word of `gearcase run`'
    yield ""
    yield "[model]"
    yield '# lead = "anthropic/claude-opus-5-5"  # drives the agent; its key from the environment, or --model'
    yield ""
    yield "[limits]"
    yield "usd = 2.00"
    yield 'wall = "45m"'
    yield ""
    yield from _files(project)
    yield from _sandbox(project)
    yield from _checks(project)
    yield from _doors(project)


def _files(project: Project) -> Iterator[str]:
    yield "[files]"
    yield "# A copy goes in as it stands: uncommitted work, ignored files and history too, but not git's configuration and hooks."
    for name in project.secrets:
        yield f"# {_inert(name)} goes along, and the agent can read it: move it away first if it holds keys."
    yield 'give = ["."]'
    yield "# The folder's name inside. `gearcase apply` leaves out what git ignores."
    if project.many:
        yield "# This folder holds many files, and a delivery at most 10,000."
    if len(project.take) > 1:
        yield "# What `!` names stays inside: folders that hold what others made."
    if len(project.take) == 1:
        yield f"take = [{toml_string(project.take[0])}]"
    else:
        yield "take = ["
        yield from (f"  {toml_string(pattern)}," for pattern in project.take)
        yield "]"
    yield ""


def _sandbox(project: Project) -> Iterator[str]:
    programs = sorted({test.program for test in project.tests})
    programs += sorted({f"{test.program}:{test.module}" for test in project.tests if test.module})
    if programs:
        yield "[sandbox]"
        yield "# Looked for inside before money is spent."
        yield f"packages = [{', '.join(map(toml_string, programs))}]"
        yield ""


def _checks(project: Project) -> Iterator[str]:
    if not project.tests:
        yield "# No tests were found. What does done mean? Until a check says so, a run ends `unverified`:"
        yield "# [[check]]"
        yield '# name = "builds"'
        yield "# run = 'cp -r \"$DELIVERED\"/* work && cd work && ...'"
        yield "# files = []"
        yield ""
    for test in project.tests:
        yield f"# Found by {_inert(test.told_by)}. It runs outside the agent's reach, on a copy of what would be delivered."
        if test.files:
            yield "# `files` are this folder's and not the agent's: what it changed in your tests does not count, what it added runs."
        yield "[[check]]"
        yield f"name = {toml_string(test.name)}"
        yield f"run = {toml_string(test.run)}"
        yield f"files = [{', '.join(map(toml_string, test.files))}]"
        yield 'show = "output"  # the agent may read what failed'
        yield ""


def _doors(project: Project) -> Iterator[str]:
    """Doors that the repository seems to need, each as remarks: what is reached is for a person to decide."""
    if project.locks:
        by_host: dict[str, list[str]] = {}
        for lock in project.locks:
            for host in lock.hosts:
                by_host.setdefault(host, []).append(lock.file)
        yield "# There is no network inside: what is installed here is what there is. To let packages be brought, open their hosts:"
        yield "# [doors.http]"
        yield "# allow = ["
        yield from (f"#   {toml_string(host)},  # {', '.join(map(_inert, files))}" for host, files in by_host.items())
        yield "# ]"
        yield ""
    named: set[str] = set()
    for file, key in project.databases:
        prefix = key.removesuffix("DATABASE_URL")[:40].strip("_").lower().replace("_", "-")
        name = prefix if prefix[:1].isalpha() else f"db{prefix}"
        if name in named:
            continue
        named.add(name)
        yield f"# {key} in {_inert(file)} is not reachable from inside. To give the agent a throw-away copy of it, in its place:"
        yield f"# [doors.postgres.{name}]"
        yield '# mode = "branch"  # or "fresh", an empty one, without `from`'
        yield '# from = "postgresql://USER@HOST:5432/DATABASE"  # where it is, without the password'
        yield '# password_env = "PGPASSWORD"  # the variable of yours that holds the password'
        yield ""


def _inert(text: str) -> str:
    """A name in a comment, which no newline of it can end."""
    return "".join(character if character.isprintable() else "?" for character in text)
