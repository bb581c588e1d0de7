"""The server behind a door as its box declares it: empty, or a branch of a live database, of a stopped cluster, of another agent's."""

from __future__ import annotations

from pathlib import Path

from gearcase.box import doors as declaration
from gearcase.box.dsn import parse_dsn
from gearcase.doors.postgres import facts
from gearcase.doors.postgres.binaries import choose
from gearcase.doors.postgres.branching import Part, open_branch, open_copy
from gearcase.doors.postgres.cluster import Cluster
from gearcase.seams import Housing


async def open_server(
    housing: Housing, name: str, declared: declaration.PostgresDoor, password: str, of: Cluster | None
) -> tuple[Cluster, int]:
    """The server, and the bytes that its source takes. `password`: of a live source; `of`: the server of which it is a branch.

    Raises UsageError and RunError, and leaves nothing behind then.
    """
    if of is not None:
        cluster = await Cluster.open_branch(housing, of, declared.memory, declared.disk)
        return cluster, await facts.after_a_crash(cluster)
    if declared.source is None:
        return await Cluster.open(housing, choose(), name, declared.memory, declared.disk), 0
    if declared.is_stopped:
        folder, database = Path(declared.source), declared.database or name
        return await open_copy(housing, name, folder, database, declared.mask, declared.memory, declared.disk)
    part = Part(declared.exclude, declared.schema_only, declared.mask, declared.percent)
    return await open_branch(housing, name, parse_dsn(declared.source), password, part, declared.memory, declared.disk)
