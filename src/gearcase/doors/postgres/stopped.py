"""A branch of a cluster that stands still: its files are copied into the sandbox of a server, and become that server's own.

Of a data directory come tables, transaction states and the one piece of log that a clean stop needs. Its settings, its rules of who may
connect and its logs stay outside: they could name commands and libraries. No link out is copied, nothing in the directory is written to.

Threat: what was copied is code: triggers, functions, settings of roles and databases that load libraries. Before anything connects, one
process without clients, in which neither of them runs, makes it ours: roles keep no right and no password, every object of the database
is the agent's, the other databases take no connection, and what leads out (subscriptions, user mappings) is gone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gearcase.doors.postgres.binaries import Binaries, candidates
from gearcase.errors import RunError, UsageError
from gearcase.sandbox.copying import Weight, copy_in, weigh
from gearcase.units import format_bytes

_CONTROL = struct.Struct("=QIIIxxxxqQQI")
"""The beginning of `global/pg_control`: identifier, two versions, state, time, checkpoint, redo, timeline."""
CONTROL = 8192
"""Bytes of `global/pg_control`."""
_SHUT_DOWN = 1
_FOLDERS = (b"base", b"global", b"pg_multixact", b"pg_xact")
_EMPTY = (
    *("pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify", "pg_replslot"),
    *("pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal/archive_status"),
)
"""Folders that a server wants, of which it needs nothing after a clean stop."""
_OWNERS = {
    "pg_class": "relowner",
    "pg_proc": "proowner",
    "pg_type": "typowner",
    "pg_namespace": "nspowner",
    "pg_collation": "collowner",
    "pg_conversion": "conowner",
    "pg_operator": "oprowner",
    "pg_opclass": "opcowner",
    "pg_opfamily": "opfowner",
    "pg_ts_config": "cfgowner",
    "pg_ts_dict": "dictowner",
    "pg_statistic_ext": "stxowner",
    "pg_largeobject_metadata": "lomowner",
    "pg_foreign_server": "srvowner",
    "pg_extension": "extowner",
}
_ACCESS = {
    "pg_class": "relacl",
    "pg_proc": "proacl",
    "pg_type": "typacl",
    "pg_namespace": "nspacl",
    "pg_largeobject_metadata": "lomacl",
}
_FIRST = 16384
"""Objects below it are the server's own."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A data directory that can be copied. `segment` is the size of a piece of its log, `log` the one that is needed."""

    folder: Path
    binaries: Binaries
    control: bytes
    log: bytes
    segment: int
    bytes: int

    def copy_to(self, root: int, owner: tuple[int, int]) -> None:
        """Copy it as `data` below a folder. Raises RunError `cluster_runs`, and what `copy_in` does."""
        copied = copy_in(self.folder, root, b"data", owner, outside=self._outside)
        if linked := [one for one in copied.left_out if is_needed(one.reason)]:
            raise _linked(self.folder, os.fsdecode(linked[0].path))
        if _control(self.folder) != self.control or _pid(self.folder):
            raise _runs(self.folder, "was started while it was copied")
        make_empty(root, owner)

    def _outside(self, path: bytes) -> str:
        return outside(path, (self.log,))


_NOT_NEEDED = "not needed"


def make_empty(root: int, owner: tuple[int, int]) -> None:
    """Make what a server wants in `data` below a folder, and what nothing is copied of."""
    for name in _EMPTY:
        os.mkdir(f"data/{name}", 0o700, dir_fd=root)
        os.chown(f"data/{name}", *owner, dir_fd=root)


def outside(path: bytes, logs: Collection[bytes]) -> str:
    """Why something below the directory is not copied; empty where it is. `logs`: the pieces of its log that are."""
    first, _, rest = path.partition(b"/")
    wanted = path in (b"PG_VERSION", b"pg_wal") or (first == b"pg_wal" and rest in logs) or first in _FOLDERS
    return "" if wanted and not rest.startswith(b"pgsql_tmp") else _NOT_NEEDED


def is_needed(reason: str) -> bool:
    """Whether what was left out, for this reason, is missed."""
    return reason != _NOT_NEEDED


@dataclass(frozen=True, slots=True)
class Control:
    """What a cluster says of itself: whether it was shut down, where its log has to be read from, in which timeline."""

    is_shut_down: bool
    redo: int
    timeline: int

    @classmethod
    def of(cls, control: bytes) -> Control:
        """From the content of `global/pg_control`. Raises struct.error."""
        _, _, _, state, _, _, redo, timeline = _CONTROL.unpack_from(control)
        return cls(state == _SHUT_DOWN, redo, timeline)

    def log(self, segment: int, number: int) -> bytes:
        """The name of a piece of its log, whose pieces have so many bytes."""
        pieces = (1 << 32) // segment
        return f"{self.timeline:08X}{number // pieces:08X}{number % pieces:08X}".encode()


def look(folder: Path, disk: int, room: int) -> Stopped:
    """What a data directory is, before anything of it is copied. `room`: bytes of the disk that it cannot have.

    Raises UsageError `not_a_cluster`, `other_version`; RunError `cluster_runs`, `too_large`, and what the disk says.
    """
    try:
        major = int((folder / "PG_VERSION").read_text("ascii").strip())
        control = _control(folder)
        told = Control.of(control)
        spaces = [one.name for one in os.scandir(folder / "pg_tblspc")]
        logs = [one for one in os.scandir(folder / "pg_wal") if len(one.name) == 24]
    except (OSError, ValueError, struct.error) as error:
        remedy = "name a data directory of PostgreSQL that this user can read: the one that holds PG_VERSION"
        raise UsageError("not_a_cluster", f"{folder} is no cluster that can be read", cause=str(error), remedy=remedy) from None
    if linked := [name for name in ("base", "global", "pg_wal", "pg_xact", "pg_multixact") if (folder / name).is_symlink()]:
        raise _linked(folder, linked[0])
    if spaces:
        raise _linked(folder, f"pg_tblspc/{spaces[0]}")
    binaries = _of_version(folder, major)
    if pid := _pid(folder):
        raise _runs(folder, f"runs (process {pid})")
    if not told.is_shut_down:
        raise _runs(folder, "runs elsewhere, or was not shut down")
    segment = max((one.stat(follow_symlinks=False).st_size for one in logs), default=16 << 20) or 16 << 20
    log = told.log(segment, told.redo // segment)
    whole = Weight()
    weigh(folder, whole, outside=lambda path: outside(path, (log,)))
    if whole.disk + room > disk:
        remedy = 'give it more (`disk = "..."` in its table), or name it by postgresql://, and copy less'
        message = f"{folder} takes {format_bytes(whole.disk)}, its server's disk is {format_bytes(disk)}"
        raise RunError("too_large", message, remedy=remedy)
    return Stopped(folder, binaries, control, log, segment, whole.size)


def take_over(database: str, ours: str, agent: str, restorer: str, password: str) -> str:
    """What a process without clients does in a database of a copy, so that it is called `ours` and is the agent's.

    Both names are literals of SQL. Commands end with an empty line; role 10 is the superuser that a cluster begins with, whatever its name.
    """
    is_agent = f"(SELECT oid FROM pg_authid WHERE rolname = '{agent}')"
    names = f"('{agent}', '{restorer}', 'postgres')"
    parts = [
        f"UPDATE pg_authid SET rolname = 'source-' || oid WHERE rolname IN {names} AND oid <> 10",
        "UPDATE pg_authid SET rolname = 'postgres', rolcanlogin = true, rolsuper = true, rolvaliduntil = NULL, rolconnlimit = -1 "
        "WHERE oid = 10",
        "UPDATE pg_authid SET rolsuper = false, rolcreaterole = false, rolcreatedb = false, rolcanlogin = false, "
        f"rolreplication = false, rolbypassrls = false, rolpassword = NULL WHERE oid >= {_FIRST}",
        "DELETE FROM pg_db_role_setting",
        "DELETE FROM pg_auth_members",
        f"ALTER ROLE postgres PASSWORD '{password}'",
        f"CREATE ROLE {restorer} SUPERUSER LOGIN PASSWORD '{password}'",
        f"CREATE ROLE {agent} LOGIN",
        "DELETE FROM pg_user_mapping",
        "DELETE FROM pg_subscription",
        "DELETE FROM pg_subscription_rel",
        "DELETE FROM pg_default_acl",
        "DO $$ DECLARE one record; BEGIN FOR one IN SELECT evtname FROM pg_event_trigger LOOP "
        "EXECUTE format('DROP EVENT TRIGGER %I', one.evtname); END LOOP; "
        "FOR one IN SELECT pubname FROM pg_publication LOOP EXECUTE format('DROP PUBLICATION %I', one.pubname); END LOOP; END $$",
        *(f"UPDATE {table} SET {column} = {is_agent} WHERE oid >= {_FIRST}" for table, column in _OWNERS.items()),
        *(
            f"UPDATE {table} SET {column} = NULL WHERE oid >= {_FIRST} AND {column} IS NOT NULL"
            for table, column in _ACCESS.items()
        ),
        f"UPDATE pg_attribute SET attacl = NULL WHERE attrelid >= {_FIRST} AND attacl IS NOT NULL",
        "DELETE FROM pg_shdepend WHERE deptype IN ('o', 'a', 'i') AND dbid = (SELECT oid FROM pg_database WHERE datname = "
        "current_database())",
        f"UPDATE pg_namespace SET nspowner = {is_agent} WHERE nspname = 'public' AND current_setting('server_version_num')::int < 150000",
        f"UPDATE pg_database SET datname = 'source-' || oid WHERE datname = {ours} AND datname <> {database}",
        f"UPDATE pg_database SET datallowconn = (datname = {database}), datistemplate = false",
        f"UPDATE pg_database SET datname = {ours}, datdba = {is_agent}, datacl = NULL, datconnlimit = -1 WHERE datname = {database}",
    ]
    return "".join(f"{one};\n\n" for one in parts)


def _control(folder: Path) -> bytes:
    return (folder / "global/pg_control").read_bytes()[:CONTROL]


def _pid(folder: Path) -> int:
    """The process that serves a cluster on this machine; 0 where there is none."""
    try:
        pid = int((folder / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return 0
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return 0
    except PermissionError:
        pass  # somebody else's, and alive
    return max(0, pid)


def _of_version(folder: Path, major: int) -> Binaries:
    for one in (here := candidates()):
        if one.major == major:
            return one
    versions = ", ".join(sorted({str(one.major) for one in here})) or "none"
    remedy = f"install PostgreSQL {major} on this machine, or start it there and name it by postgresql://"
    raise UsageError("other_version", f"{folder} is of version {major}; here are: {versions}", remedy=remedy)


def _runs(folder: Path, how: str) -> RunError:
    remedy = "name it by postgresql://USER@HOST/DATABASE while it runs, or stop it first: pg_ctl stop"
    return RunError("cluster_runs", f"the cluster {folder} {how}", remedy=remedy)


def _linked(folder: Path, name: str) -> UsageError:
    remedy = "start it and name it by postgresql://: a copy of files takes what lies in the directory itself"
    return UsageError("cluster_elsewhere", f"a part of the cluster {folder} lies elsewhere: {name}", remedy=remedy)
