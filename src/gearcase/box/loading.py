"""From a file and options to a box, with the source of every value and *all* mistakes at once.

The steps, each adding to one list of mistakes: TOML to a tree (a syntax error ends it there), options laid over the tree, paths
expanded and looked for, defaults that fit this machine, the models of `declaration.py`, and what only the whole can tell.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from gearcase.box.declaration import Box
from gearcase.box.lines import PathKey, lines_of
from gearcase.box.mistakes import Mistake, dotted, failure, from_validation, nearest, place
from gearcase.box.paths import PathMistake, absolute, existing
from gearcase.box.secrets import conflicts
from gearcase.box.tools import find_tools
from gearcase.errors import UsageError

DEFAULT = "default"
MACHINE = "default, lowered to this machine"

_ADDED = {("files", "give"), ("files", "see"), ("files", "take"), ("check",), ("model", "allow"), ("sandbox", "tools")}
_FILE_UPSTREAMS = {"cassette": "file", "scripted": "file", "manual": "new folder"}


@dataclass(frozen=True, slots=True)
class Override:
    """A value from the command line. Lists (`give`, `see`, `take`, `allow`, `check`) add to the file's, other keys replace.

    `value` is what one would write in the file; `option` is its name (`--usd`). Paths are relative to the working directory.
    """

    key: tuple[str, ...]
    value: Any
    option: str


@dataclass(frozen=True, slots=True)
class LoadedBox:
    """A box and where it came from. `sources` maps a dotted key (`limits.usd`) to `default`, `box.toml:7` or `--usd`."""

    box: Box
    path: Path | None
    folder: Path
    sources: Mapping[str, str]

    def source(self, key: str) -> str:
        """Where the value of a dotted key came from."""
        return self.sources.get(key, DEFAULT)


@dataclass(slots=True)
class _Draft:
    """A box in the making."""

    tree: dict[str, Any]
    folder: Path
    file: str
    environment: Mapping[str, str]
    lines: dict[PathKey, int] = field(default_factory=dict[PathKey, int])
    options: dict[PathKey, str] = field(default_factory=dict[PathKey, str])
    machine: dict[PathKey, str] = field(default_factory=dict[PathKey, str])
    mistakes: list[Mistake] = field(default_factory=list[Mistake])

    def wrong(self, path: PathKey, message: str, near: str = "") -> None:
        """Add a mistake at a path, unless it has one: what is wrong first explains the rest."""
        if any(mistake.key == dotted(path) for mistake in self.mistakes):
            return
        line, option = place(path, self.lines, self.options)
        self.mistakes.append(Mistake(dotted(path), f"`{dotted(path)}` {message}", line, option, near))

    def table(self, *path: str) -> dict[str, Any]:
        """The table at a path, or an empty one where it is absent or not a table."""
        value: Any = self.tree
        for part in path:
            value = cast(dict[str, Any], value).get(part) if isinstance(value, dict) else None
        return cast(dict[str, Any], value) if isinstance(value, dict) else {}

    def list_of(self, *path: str) -> list[Any]:
        """The list at a path, or an empty one where it is absent or not a list."""
        value = self.table(*path[:-1]).get(path[-1])
        return cast(list[Any], value) if isinstance(value, list) else []


def load_box(
    path: Path,
    overrides: Sequence[Override] = (),
    environment: Mapping[str, str] = os.environ,
    *,
    without_gone: bool = False,
) -> LoadedBox:
    """The box of a file; `without_gone`: of what it gives only what is still there.

    Raises UsageError `box` that lists every mistake, `no_box` when the file cannot be read.
    """
    path = Path(os.path.normpath(Path.cwd() / path))
    text = _read(path)
    try:
        tree = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise failure([_syntax(str(error), text)], path.name) from None
    draft = _Draft(tree, path.parent, path.name, environment, lines_of(text))
    if without_gone and (given := draft.list_of("files", "give")):
        draft.tree["files"]["give"] = [one for one in given if (path.parent / str(one)).exists()]
    return _finish(draft, path, overrides)


def box_from_options(
    overrides: Sequence[Override], folder: Path | None = None, environment: Mapping[str, str] = os.environ
) -> LoadedBox:
    """A box without a file. Raises UsageError `box`."""
    return _finish(_Draft({}, folder or Path.cwd(), "", environment), None, overrides)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        mistake = Mistake("", "a byte that is not UTF-8", line)
        raise failure([mistake], path.name) from None
    except OSError as error:
        near = ""
        if path.parent.is_dir():
            near = nearest(path.name, (p.name for p in path.parent.iterdir() if p.suffix == ".toml"))
        raise UsageError(
            "no_box",
            f"no box could be read at {path}",
            cause=error.strerror or str(error),
            remedy=f"did you mean {path.parent / near}?" if near else "name a box file with -f, or give a goal and options",
            near=near,
        ) from None


def _syntax(message: str, text: str) -> Mistake:
    match = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", message)
    said = message[: match.start()].strip() if match else message
    line = int(match[1]) if match and match[1] else text.count("\n") + 1
    column = f" at column {match[2]}" if match and match[2] else ""
    return Mistake("", f"not TOML: {said}{column}", line)


def _finish(draft: _Draft, path: Path | None, overrides: Sequence[Override]) -> LoadedBox:
    _resolve(draft, list(_path_places(draft)), draft.folder)
    _lay_over(draft, overrides)
    _find_check_files(draft)
    _fit_machine(draft)
    box: Box | None = None
    try:
        box = Box.model_validate(draft.tree)
    except ValidationError as error:
        draft.mistakes += from_validation(error, draft.lines, draft.options)
    if box is not None:
        _whole(draft, box)
    if box is None or draft.mistakes:
        raise failure(draft.mistakes, draft.file)
    return LoadedBox(box, path, draft.folder, _sources(draft))


# --- paths -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a path stands in the tree, and what must be there."""

    path: PathKey
    kind: str  # any | file | new folder


_NAMED_FILES = (
    (("model", "providers"), ("key_file", "ca")),
    (("doors", "postgres"), ("password_file",)),
    (("doors", "api"), ("ca",)),
    (("secrets",), ("key_file", "ca")),
)
"""Tables of named tables, and the keys in each that name a file."""


_MODELS = frozenset({("model", "lead"), ("model", "worker"), ("model", "allow")})
"""Where a file may stand for a model, after `scripted:` and its like."""


def _path_places(draft: _Draft) -> Iterable[_Place]:
    for key in ("give", "see"):
        for number in range(len(draft.list_of("files", key))):
            yield _Place(("files", key, number), "any")
    for number, check in enumerate(draft.list_of("check")):
        yield from _check_places(number, check)
    for above, keys in _NAMED_FILES:
        for name in draft.table(*above):
            for key in keys:
                if key in draft.table(*above, name):
                    yield _Place((*above, name, key), "file")
    yield from _door_places(draft)
    named: list[tuple[PathKey, Any]] = [(("model", key), draft.table("model").get(key)) for key in ("lead", "worker")]
    named += [(("model", "allow", number), one) for number, one in enumerate(draft.list_of("model", "allow"))]
    for path, name in named:
        kind = _FILE_UPSTREAMS.get(str(name).partition(":")[0])
        if kind:
            yield _Place(path, kind)


def _door_places(draft: _Draft) -> Iterable[_Place]:
    for above in (("doors", "api"), ("notify", "to")):
        for name in draft.table(*above):
            for variable in draft.table(*above, name, "key_files"):
                yield _Place((*above, name, "key_files", variable), "file")
    for name in draft.table("doors", "redis"):
        if "://" not in str(draft.table("doors", "redis", name).get("from", "://")):
            yield _Place(("doors", "redis", name, "from"), "file")


def _check_places(number: int, check: Any) -> Iterable[_Place]:
    files = cast(dict[str, Any], check).get("files") if isinstance(check, dict) else None
    if isinstance(files, list):
        for position in range(len(cast(list[Any], files))):
            yield _Place(("check", number, "files", position), "any")


def _resolve(draft: _Draft, places: Iterable[_Place], folder: Path) -> None:
    """Write absolute paths into the tree; a value that is no text is left for the models to refuse."""
    for at in places:
        holder: Any = draft.tree
        for part in at.path[:-1]:
            holder = holder[part]
        text = holder[at.path[-1]]
        if not isinstance(text, str):
            continue
        prefix, colon, rest = text.partition(":") if at.path[:2] in _MODELS else ("", "", text)
        if colon and not rest:
            continue  # the model's name is refused as a whole
        try:
            path = absolute(rest, folder, draft.environment)
            if at.kind != "new folder":
                existing(path, at.kind)
            elif path.exists():
                existing(path, "folder")
        except PathMistake as mistake:
            draft.wrong(at.path, mistake.message, mistake.near)
        else:
            holder[at.path[-1]] = f"{prefix}{colon}{path}"


def _find_check_files(draft: _Draft) -> None:
    """A check that names no files is given what its command names: `python3 checks/valid.py` needs `checks`."""
    for number, check in enumerate(draft.list_of("check")):
        if not isinstance(check, dict) or "files" in check:
            continue
        entry = cast(dict[str, Any], check)
        try:
            words = shlex.split(str(entry.get("run", "")))
        except ValueError:
            continue
        found = [top for word in words if (top := _named(word, draft.folder))]
        if found:
            entry["files"] = list(dict.fromkeys(found))
            draft.machine[("check", number, "files")] = "found in `run`"


def _named(word: str, folder: Path) -> str:
    """What stands beside the box and holds the file or folder that a word names; empty when there is none."""
    path = Path(os.path.normpath(folder / word))
    if not path.is_relative_to(folder) or path == folder or not path.exists():
        return ""
    return str(folder / path.relative_to(folder).parts[0])


# --- options, machine, sources ---------------------------------------------------------------------------------------------


def _lay_over(draft: _Draft, overrides: Sequence[Override]) -> None:
    places: list[_Place] = []
    for override in overrides:
        path = _lay_one(draft, override)
        if path[:2] in (("files", "give"), ("files", "see")):
            places.append(_Place(path, "any"))
        elif path[0] == "model" and str(override.value).partition(":")[0] in _FILE_UPSTREAMS:
            places.append(_Place(path, _FILE_UPSTREAMS[str(override.value).partition(":")[0]]))
    _resolve(draft, places, Path.cwd())


def _lay_one(draft: _Draft, override: Override) -> PathKey:
    holder = draft.tree
    for part in override.key[:-1]:
        if not isinstance(holder.get(part), dict):
            holder[part] = {}
        holder = cast(dict[str, Any], holder[part])
    last, path = override.key[-1], cast(PathKey, override.key)
    if override.key in _ADDED:
        if not isinstance(holder.get(last), list):
            holder[last] = []
        items = cast(list[Any], holder[last])
        items.append(override.value)
        path = (*override.key, len(items) - 1)
    else:
        holder[last] = override.value
    draft.options[path] = override.option
    return path


def _fit_machine(draft: _Draft) -> None:
    """Defaults never ask for more than the machine has: half its memory, its cores. A value that was written stays."""
    limits = draft.tree.setdefault("limits", {})
    if not isinstance(limits, dict):
        return
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    cores = len(os.sched_getaffinity(0))
    for key, default, here in (("memory", 4 * 2**30, half // 2**20 * 2**20), ("cpus", 2.0, cores)):
        if key not in limits and here < default:
            limits[key] = here
            draft.machine[("limits", key)] = MACHINE


def _sources(draft: _Draft) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for path, line in draft.lines.items():
        _add_source(found, path, f"{draft.file}:{line}")
    for path, option in draft.options.items():
        key = _public(path)
        if draft.options.get(path) and key in found and path[:2] not in _ADDED and path[:1] not in _ADDED:
            found[key] = []  # replaced
        _add_source(found, path, option)
    for path, source in draft.machine.items():
        found[_public(path)] = [source]
    return {key: ", ".join(dict.fromkeys(sources)) for key, sources in found.items()}


def _public(path: PathKey) -> str:
    """Lists of values have one source, tables of a list one each: `files.give`, `check[0].run`."""
    return dotted(path[:-1] if isinstance(path[-1], int) and path[0] != "check" else path)


def _add_source(found: dict[str, list[str]], path: PathKey, source: str) -> None:
    if isinstance(path[-1], int) and path[0] == "check" and len(path) > 2:
        path = path[:-1]
    known = found.setdefault(_public(path), [])
    known.append(source)


# --- what only the whole can tell ------------------------------------------------------------------------------------------


def _whole(draft: _Draft, box: Box) -> None:
    for key in ("give", "see"):
        _distinct(draft, ("files", key), getattr(box.files, key))
    names: set[str] = set()
    for number, check in enumerate(box.checks):
        if check.name in names:
            draft.wrong(("check", number, "name"), f"= {check.name!r} is the name of an earlier check")
        names.add(check.name)
        _distinct(draft, ("check", number, "files"), check.files)
    _taken_databases(draft, box)
    for path, message in conflicts(box.secrets):
        draft.wrong(("secrets", *path), message)
    for name, price in box.model.prices.items():
        rates = price.model_dump(exclude={"context", "max_output"}, exclude_none=True)
        missing = [key for key in ("input", "output") if rates and key not in rates]
        if missing:
            draft.wrong(("model", "prices", name), f"needs `{'` and `'.join(missing)}`: rates replace the table's whole")
    for name, provider in box.model.providers.items():
        keys = [key for key in ("key_env", "key_file", "keyring") if getattr(provider, key) is not None]
        if len(keys) > 1:
            draft.wrong(("model", "providers", name, keys[-1]), f"is one of {len(keys)} sources of one key: name one")
    for key in ("lead", "worker"):
        _outside(draft, box, key)
    for number, name in enumerate(box.sandbox.tools):
        try:
            find_tools([name], draft.environment)
        except PathMistake as mistake:
            draft.wrong(("sandbox", "tools", number), mistake.message, mistake.near)


def _taken_databases(draft: _Draft, box: Box) -> None:
    """What `take` calls a database is one of the box's own."""
    for number, pattern in enumerate(box.files.take):
        name = pattern.removeprefix("postgres:")
        door = box.doors.postgres.get(name)
        if name != pattern and (door is None or door.mode == "read_only"):
            draft.wrong(
                ("files", "take", number), f"= {pattern!r} names no database of the box's own", nearest(name, box.doors.postgres)
            )


def _distinct(draft: _Draft, at: PathKey, paths: tuple[Path, ...]) -> None:
    """Each path stands inside under its own name, so names differ."""
    seen: dict[str, Path] = {}
    for number, path in enumerate(paths):
        if not path.name:
            draft.wrong((*at, number), "is the root folder: name what the agent needs")
        elif path.name in seen:
            draft.wrong((*at, number), f"{path} would stand at the same place inside as {seen[path.name]}")
        seen[path.name] = path


def _outside(draft: _Draft, box: Box, key: str) -> None:
    """The folder through which a person plays the model must be out of the agent's sight."""
    name: str | None = getattr(box.model, key)
    if name is None or not name.startswith("manual:"):
        return
    folder = Path(name.partition(":")[2])
    for shown in (*box.files.give, *box.files.see):
        if folder.is_relative_to(shown):
            draft.wrong(("model", key), f"{folder} lies in {shown}, which the agent sees")
