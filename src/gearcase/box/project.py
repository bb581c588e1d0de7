"""What a repository tells about itself, so that a first box can be written for it: how it is tested, where its packages come from,
which databases it names, and what would be given along that the user may not think of.

Files are only read, up to a size, and never executed or imported. Values of secrets are not taken, only the names of keys.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from gearcase.box.inside import brings_module

_MOST = 4 << 20
"""Bytes of a file that are read."""
_MANY = 8000
"""Files, ignored ones included, above which a box keeps more back: a delivery holds 10,000 files."""
_MADE = (".venv", "venv", "node_modules", "target", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache", "gearcase-out")
"""Folders that hold what tools made or brought."""
_MADE_AT_TIMES = ("vendor",)
"""Others that may: they are often kept in the repository."""
_NO_TESTS = "no test specified"
_LOCKS: dict[str, tuple[str, ...]] = {
    "uv.lock": ("pypi.org", "files.pythonhosted.org"),
    "poetry.lock": ("pypi.org", "files.pythonhosted.org"),
    "pdm.lock": ("pypi.org", "files.pythonhosted.org"),
    "Pipfile.lock": ("pypi.org", "files.pythonhosted.org"),
    "requirements.txt": ("pypi.org", "files.pythonhosted.org"),
    "package-lock.json": ("registry.npmjs.org",),
    "npm-shrinkwrap.json": ("registry.npmjs.org",),
    "pnpm-lock.yaml": ("registry.npmjs.org",),
    "yarn.lock": ("registry.yarnpkg.com",),
    "Cargo.lock": ("index.crates.io", "static.crates.io"),
    "go.sum": ("proxy.golang.org", "sum.golang.org"),
    "Gemfile.lock": ("rubygems.org",),
    "composer.lock": ("repo.packagist.org", "api.github.com"),
}
_NAMED = {"uv.lock", "pdm.lock", "Pipfile.lock", "requirements.txt", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock"}
"""Lock files that name the hosts themselves; the others mean their registry."""
_HOST = re.compile(r"https?://(?:[^/@\s\"']+@)?([A-Za-z0-9.-]+\.[A-Za-z]{2,})(?=[/:\"'\s)])")
_DATABASE = re.compile(r"^[\s-]*(?:export\s+)?[\"']?([A-Z0-9_]*DATABASE_URL)[\"']?\s*[=:]", re.MULTILINE)
_COMPOSE = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


@dataclass(frozen=True, slots=True)
class TestCommand:
    """How tests are run, as a check: its name, command, files of this machine, the program it needs, and what told it.

    `module`: of that Python, where the files do not bring it.
    """

    __test__ = False

    name: str
    run: str
    files: tuple[str, ...]
    program: str
    told_by: str
    module: str = ""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file and the hosts that its packages come from."""

    file: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Project:
    """A repository. `take` are the patterns of what may leave; `secrets` files that are given along and look like secrets."""

    name: str
    take: tuple[str, ...]
    many: bool
    tests: tuple[TestCommand, ...]
    locks: tuple[Lock, ...]
    databases: tuple[tuple[str, str], ...]
    secrets: tuple[str, ...]


def look_at(top: Path) -> Project:
    """Look at the repository in a folder."""
    name = top.name
    many = _is_large(top)
    return Project(
        name=name,
        take=_take(top, many),
        many=many,
        tests=tuple(_tests(top)),
        locks=tuple(_locks(top)),
        databases=tuple(_databases(top)),
        secrets=tuple(path.name for path in sorted(top.glob(".env*")) if path.is_file() and not _is_sample(path.name)),
    )


def _read(path: Path) -> str:
    """The beginning of a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return ""


def _is_sample(name: str) -> bool:
    return name.endswith((".example", ".sample", ".template", ".dist")) or name == ".envrc"


def _is_large(top: Path) -> bool:
    def names() -> Iterator[str]:
        for _folder, folders, files in os.walk(top):
            if ".git" in folders:
                folders.remove(".git")
            yield from files

    return next(islice(names(), _MANY, None), None) is not None


def _take(top: Path, many: bool) -> tuple[str, ...]:
    """Patterns of all that stands here but for the folders that hold what others made."""
    made = (*_MADE, *(_MADE_AT_TIMES if many else ()))
    there = [name for name in made if (top / name).is_dir() and not (top / name).is_symlink()]
    return (f"{top.name}/**", *(f"!{top.name}/{name}" for name in there))


# --- tests -----------------------------------------------------------------------------------------------------------------


def _tests(top: Path) -> Iterator[TestCommand]:
    found = [test for find in (_python, _node, _go, _cargo) if (test := find(top)) is not None]
    if not found and (made := _make(top)) is not None:
        found.append(made)
    yield from found


def _command(top: Path, what: str, laid_over: tuple[str, ...] = (), linked: str = "") -> str:
    """Copy what was delivered into the check's own folder, lay this machine's tests over it, and run there."""
    parts = [f'cp -r "$DELIVERED"/{shlex.quote(top.name)} work']
    parts += [f"cp -r {shlex.quote(folder)} work/" for folder in laid_over]
    if linked:
        parts.append(f"rm -rf work/{linked} && mv {linked} work/{linked}")
    return " && ".join([*parts, "cd work", what])


_TEST_FUNCTION = re.compile(r"^(async )?def test|^(import|from) pytest\b", re.MULTILINE)


def _test_folders(top: Path) -> tuple[str, ...]:
    return tuple(name for name in ("tests", "test") if (top / name).is_dir())


def _python(top: Path) -> TestCommand | None:
    pyproject, setup, tox = _read(top / "pyproject.toml"), _read(top / "setup.cfg"), _read(top / "tox.ini")
    folders = _test_folders(top)
    files = [path for folder in folders for path in islice((top / folder).rglob("*.py"), 500)]
    files += [*top.glob("test_*.py"), *top.glob("*_test.py")]
    signs = {
        "pytest.ini": (top / "pytest.ini").is_file(),
        "[tool.pytest] in pyproject.toml": "pytest" in _table(pyproject, "tool"),
        "[tool:pytest] in setup.cfg": "[tool:pytest]" in setup,
        "tox.ini": "pytest" in tox,
        "conftest.py": any(path.name == "conftest.py" for path in files) or (top / "conftest.py").is_file(),
        "pyproject.toml": "pytest" in pyproject,
        "setup.cfg": "pytest" in setup,
        "requirements files": any("pytest" in _read(path) for path in top.glob("*requirements*.txt")),
        "test functions": any(_TEST_FUNCTION.search(_read(path)) for path in files),
    }
    told_by = next((sign for sign, found in signs.items() if found), "")
    if not files and not told_by:
        return None
    if not told_by and not any(path.name.startswith("test") or path.stem.endswith("_test") for path in files):
        return None
    environment = "PYTHONSAFEPATH= PYTHONPATH=.:src"
    brought = folders
    packages = next((top / venv for venv in (".venv", "venv") if (top / venv / "pyvenv.cfg").is_file()), None)
    if packages is not None and (site := next(packages.glob("lib/python3*/site-packages"), None)) is not None:
        environment = f'PYTHONSAFEPATH= PYTHONPATH=.:src:"$OLDPWD"/{shlex.quote(str(site.relative_to(top)))}'
        brought = (*folders, packages.name)
    whole = f"{environment} python3 -m pytest -q" if told_by else _unittest(top, environment, folders)
    command = _command(top, whole, folders)
    module = "pytest" if told_by and not (packages is not None and brings_module(packages, "pytest")) else ""
    return TestCommand("tests", command, brought, "python3", told_by or ", ".join(folders) or "test files", module)


def _unittest(top: Path, environment: str, folders: Sequence[str]) -> str:
    """Discovery from the folder of tests, which need not be a package. Before Python 3.12 it calls no test at all a success."""
    where = ""
    if folders:
        where = f" -s {folders[0]}" + (" -t ." if (top / folders[0] / "__init__.py").is_file() else "")
    run = f"{environment} python3 -m unittest discover{where} > ran 2>&1"
    return f"{{ {run}; code=$?; cat ran; ! grep -q '^Ran 0 tests' ran && (exit $code); }}"


def _node(top: Path) -> TestCommand | None:
    try:
        package: Any = json.loads(_read(top / "package.json") or "{}")
    except (ValueError, RecursionError):
        return None
    scripts: Any = cast("dict[str, Any]", package).get("scripts") if isinstance(package, dict) else None
    script: Any = cast("dict[str, Any]", scripts).get("test") if isinstance(scripts, dict) else None
    if not isinstance(script, str) or not script.strip() or _NO_TESTS in script:
        return None
    modules = ("node_modules",) if (top / "node_modules").is_dir() else ()
    folders = _test_folders(top)
    command = _command(top, "npm test --silent", folders, *modules)
    return TestCommand("npm-test", command, (*folders, *modules), "npm", "scripts.test in package.json")


def _go(top: Path) -> TestCommand | None:
    if not (top / "go.mod").is_file():
        return None
    return TestCommand("go-test", _command(top, "GOPROXY=off go test ./..."), (), "go", "go.mod")


def _cargo(top: Path) -> TestCommand | None:
    if not (top / "Cargo.toml").is_file():
        return None
    folders = _test_folders(top)
    return TestCommand("cargo-test", _command(top, "cargo test --offline --quiet", folders), folders, "cargo", "Cargo.toml")


def _make(top: Path) -> TestCommand | None:
    for name in ("GNUmakefile", "makefile", "Makefile"):
        found = re.search(r"^(test|check)\s*:(?!=)", _read(top / name), re.MULTILINE)
        if found:
            folders = _test_folders(top)
            return TestCommand("make-test", _command(top, f"make {found[1]}", folders), folders, "make", f"{found[1]}: in {name}")
    return None


def _table(text: str, key: str) -> dict[str, Any]:
    try:
        value: Any = tomllib.loads(text).get(key, {})
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


# --- hosts and databases ---------------------------------------------------------------------------------------------------


def _locks(top: Path) -> Iterator[Lock]:
    for name, usual in _LOCKS.items():
        text = _read(top / name)
        if text:
            hosts = set(_HOST.findall(_origins(name, text))) if name in _NAMED else set[str]()
            yield Lock(name, tuple(sorted(hosts)[:10]) or usual)


def _origins(name: str, text: str) -> str:
    """The lines that say where packages come from, not where their authors live."""
    signs = {"requirements.txt": ("index-url", "find-links", "@ http")}.get(name, ("resolved", "url", "registry"))
    return "\n".join(line for line in text.splitlines() if any(sign in line for sign in signs))


def _databases(top: Path) -> Iterator[tuple[str, str]]:
    """(file, key) of every address of a database; its value is not looked at."""
    for path in [*sorted(top.glob(".env*")), *(top / name for name in _COMPOSE)]:
        for key in dict.fromkeys(_DATABASE.findall(_read(path))):
            yield path.name, key
