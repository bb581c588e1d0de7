"""A box from a file or from keywords. A keyword is an option of the command line: `usd=2` is `--usd 2`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from gearcase.box import LoadedBox, Override, box_from_options, load_box
from gearcase.errors import UsageError


class Keywords(TypedDict, total=False):
    """What can be said of a box in keywords; everything else is said in a file."""

    goal: str
    model: str
    worker: str
    allow: Sequence[str]
    give: Sequence[str | os.PathLike[str]]
    see: Sequence[str | os.PathLike[str]]
    take: Sequence[str]
    checks: Sequence[str | Mapping[str, Any]]
    usd: float | Decimal | str
    usd_per_minute: float | Decimal | str
    tokens: int
    calls: int
    steps: int
    wall: float | str
    cpu_time: float | str
    memory: int | str
    cpus: float
    disk: int | str
    processes: int
    need: Sequence[str]


_LISTS = {"give": ("files", "give"), "see": ("files", "see"), "take": ("files", "take"), "allow": ("model", "allow")}
_VALUES = {
    "goal": ("goal",),
    "model": ("model", "lead"),
    "worker": ("model", "worker"),
    "need": ("sandbox", "need"),
    **{key: ("limits", key) for key in "usd usd_per_minute tokens calls steps wall cpu_time memory cpus disk processes".split()},
}


@dataclass(frozen=True, slots=True)
class Box(LoadedBox):
    """A box, with where each of its values came from: `box` holds the values in base units, `sources` their origins."""

    @classmethod
    def from_toml(cls, file: str | os.PathLike[str], **keywords: Unpack[Keywords]) -> Box:
        """The box of a file. Keywords replace its values; lists add to them. Raises UsageError that lists every mistake."""
        return cls._of(load_box(Path(file), list(_overrides(keywords))))

    @classmethod
    def of(cls, wanted: str = "", /, **keywords: Unpack[Keywords]) -> Box:
        """A box from a goal and keywords; what is not said is the default. Raises UsageError that lists every mistake."""
        if wanted:
            keywords["goal"] = wanted
        return cls._of(box_from_options(list(_overrides(keywords))))

    @classmethod
    def _of(cls, loaded: LoadedBox) -> Box:
        return cls(loaded.box, loaded.path, loaded.folder, loaded.sources)


def box_of(what: LoadedBox | str, keywords: Keywords) -> LoadedBox:
    """A box that was made already, or one of a goal and keywords."""
    if not isinstance(what, LoadedBox):
        return Box.of(what, **keywords)
    if keywords:
        names = ", ".join(keywords)
        raise UsageError("box_is_made", f"the box is made already: {names} came too late", remedy="say it where the box is made")
    return what


def _overrides(keywords: Keywords) -> Iterator[Override]:
    for name, value in cast("Mapping[str, Any]", keywords).items():
        if name in _LISTS:
            for item in _many(name, value):
                yield Override(_LISTS[name], os.fspath(item), name)
        elif name == "checks":
            for number, check in enumerate(_many(name, value), 1):
                table = {"name": f"check-{number}", "run": check} if isinstance(check, str) else dict(check)
                yield Override(("check",), table, name)
        elif name in _VALUES:
            yield Override(_VALUES[name], value, name)
        else:
            known = ", ".join(Keywords.__annotations__)
            raise UsageError("unknown_keyword", f"a box has no keyword {name!r}", remedy=f"one of: {known}; else write a file")


def _many(name: str, value: Any) -> Iterable[Any]:
    if isinstance(value, str | os.PathLike):
        raise UsageError("not_a_list", f"{name} is a list: {value!r} is one value", remedy=f"write {name}=[{os.fspath(value)!r}]")
    return value
