"""A database of a server copied beside itself: the branch that a sub-agent has of its parent's branch.

The server makes it from files as a template where nobody else is in it, which takes no longer than copying them. Else it is dumped and
restored, which lets whoever is in it go on.

Threat: what an agent defined runs while it is restored (a CHECK, a default). So that is done as the agent, never as a superuser; only
extensions, which no agent can have written, are made before it.
"""

from __future__ import annotations

import contextlib
import os
import secrets

from gearcase.doors.housed import failed
from gearcase.doors.postgres.cluster import AGENT, RESTORER, Cluster, literal, quoted
from gearcase.errors import GearcaseError, RunError

_IN_USE = "is being accessed by other users"
_CONTACT = "gearcase.contact"
_AS_AGENT = ("--no-owner", "--no-privileges", "--no-comments")
_EXTENSIONS = "SELECT coalesce(json_agg(extname ORDER BY oid), '[]') FROM pg_extension WHERE extname <> 'plpgsql';"


async def copy_database(cluster: Cluster, of: str, to: str) -> str:
    """Make the database `to`, a copy of `of`, owned by the agent; returns how: `template` or `dump`.

    Raises RunError `door_failed`; then there is none.
    """
    try:
        try:
            await cluster.ask(f"CREATE DATABASE {quoted(to)} OWNER {AGENT} TEMPLATE {quoted(of)};", database="postgres")
            how = "template"
        except RunError as error:
            if _IN_USE not in error.cause:
                raise
            await _by_dump(cluster, of, to)
            how = "dump"
        await _same_contact(cluster, of, to)
    except BaseException:
        with contextlib.suppress(GearcaseError):  # what stopped it is told
            await drop_database(cluster, to)
        raise
    return how


async def drop_database(cluster: Cluster, name: str) -> None:
    """Remove a database, whoever is in it. Raises RunError `door_failed`."""
    await cluster.ask(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE);", database="postgres")


async def _by_dump(cluster: Cluster, of: str, to: str) -> None:
    await cluster.ask(f"CREATE DATABASE {quoted(to)} OWNER {AGENT} TEMPLATE template0;", database="postgres")
    for extension in await cluster.facts(_EXTENSIONS, of):
        await cluster.ask(f"CREATE EXTENSION IF NOT EXISTS {quoted(extension)};", database=to)
    if cluster.binaries.major < 15:  # newer ones let the owner of a database make tables in it
        await cluster.ask(f"ALTER SCHEMA public OWNER TO {AGENT};", database=to)
    file = f"copy-{secrets.token_hex(8)}"
    try:
        dump = ("--format=custom", "--compress=0", "--no-sync", f"--dbname={of}", f"--file=/workspace/{file}")
        restore = ("--exit-on-error", "--single-transaction", *_AS_AGENT, f"--dbname={to}", f"/workspace/{file}")
        for user, program, arguments in ((RESTORER, "pg_dump", dump), (AGENT, "pg_restore", restore)):
            done = await cluster.run(program, *arguments, user=user)
            if done.exit_code != 0:
                raise failed(f"the database {of} could not be copied", done)
        await cluster.ask("SELECT pg_stat_reset();", database=to)  # what was restored is not touched
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file, dir_fd=cluster.housed.sandbox.workspace)


async def _same_contact(cluster: Cluster, of: str, to: str) -> None:
    """What a database says of itself is not copied with it."""
    nonce = (await cluster.ask(f"SELECT current_setting('{_CONTACT}', true);", database=of)).strip()
    await cluster.ask(f"ALTER DATABASE {quoted(to)} SET {_CONTACT} = {literal(nonce)};", database="postgres")
