"""The postgres door: a database at NAME.box:5432, and what programs inside did with it, on record.

Behind it stands a throw-away server in a sandbox of its own (`Cluster`). Which relations were touched is what that server counted: it is
asked while the run goes on and once more when every session has ended. A sub-agent's branch of it is a door of its own, with a server of
its own: whoever owns the one reaches nothing of the other.

Threat: a server that was taken over, clients that speak nonsense. Neither reaches anything but the other: see `session` and `cluster`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gearcase.box import doors as declaration
from gearcase.box.dsn import parse_dsn
from gearcase.doors.housed import failed
from gearcase.doors.leaving import end_tasks_of
from gearcase.doors.postgres import facts
from gearcase.doors.postgres.binaries import newest
from gearcase.doors.postgres.cluster import AGENT, Cluster, quoted
from gearcase.doors.postgres.contacts import Contacts
from gearcase.doors.postgres.difference import DATABASES, as_text, branch_name, compare, keep
from gearcase.doors.postgres.gate import Gate
from gearcase.doors.postgres.live import Live, password_from_file
from gearcase.doors.postgres.opening import open_server
from gearcase.doors.postgres.record import Record
from gearcase.doors.postgres.returning import Returning
from gearcase.doors.postgres.session import Role, Session
from gearcase.doors.postgres.source import Source, password_of
from gearcase.errors import GearcaseError, Refused, RunError
from gearcase.events import ConnectionClosed, ConnectionOpened, DatabaseOpened, DoorRefused, Failure
from gearcase.seams import Housing, Place

PORT = 5432
MOST_SESSIONS = 128
LOOK_EVERY = 5.0
"""Seconds between two looks at what was touched."""
_LAST_LOOK = 20.0
_TOKEN = "only-a-token"
_MOST_RECORDS = 1000


class PostgresDoor:
    """One declared database. `alone`: it is the only one, so that programs find it by the usual variables.

    `room`: bytes of its states that are kept to return to. `of`: it is a branch of what is behind that door, and `agent`'s.
    """

    def __init__(
        self,
        name: str,
        declared: declaration.PostgresDoor,
        *,
        alone: bool,
        room: int = 0,
        of: PostgresDoor | None = None,
        agent: str = "",
    ) -> None:
        self.id = f"postgres.{name}"
        self._called = branch_name(name, agent)
        self._on_record = f"postgres.{self._called}"
        self._of = of
        self._agent = agent
        self._branches: set[str] = set()
        self.places = (Place(f"{name}.box", PORT),)
        self._name = name
        self._declared = declared
        self._alone = alone
        self._room = room
        self._returning: Returning | None = None
        self._before = facts.Inventory({}, {})
        self._after: facts.Inventory | None = None
        self._gate: Gate | None = None
        self._live: Live | None = None
        self._cluster: Cluster | None = None
        self._housing: Housing | None = None
        self._record: Record | None = None
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._numbers = itertools.count(1)
        self._contacts: Contacts | None = None
        self._latched = False
        self._refused: dict[str, int] = {}
        self.secrets: Sequence[str] = ()
        """What nothing that leaves may hold."""

    @property
    def environment(self) -> Mapping[str, str]:
        """See `Door`."""
        if not self._alone:
            return {}
        host = self.places[0].name
        return {
            "DATABASE_URL": f"postgresql://{AGENT}:{_TOKEN}@{host}:{PORT}/{self._name}",
            "PGHOST": host,
            "PGPORT": str(PORT),
            "PGUSER": AGENT,
            "PGDATABASE": self._name,
            "PGPASSWORD": _TOKEN,
        }

    async def open(self, housing: Housing) -> None:
        """Start the server and plant the nonce. Raises UsageError `missing_extra`, RunError `door_failed`."""
        began, declared = time.monotonic(), self._declared
        self._housing = housing
        self._record = Record(self._on_record, housing.recorder, values=declared.values)
        if declared.mode == "read_only":
            return await self._open_live(housing)
        cluster, size = await self._behind(housing)
        self._cluster = cluster
        self._before = await facts.inventory(cluster)
        contacts = Contacts(self._on_record, housing.recorder, self._agent, self._before, declared.must_touch)
        self._contacts = contacts
        nonce = secrets.token_hex(16)
        await cluster.ask(f"ALTER DATABASE {quoted(self._name)} SET gearcase.contact = '{nonce}'; SELECT pg_stat_reset();")
        tables = self._before.tables
        housing.recorder.append(
            DatabaseOpened(
                door=self._on_record,
                mode=declared.mode,
                server=cluster.binaries.major,
                source=self._source,
                tables=len(tables),
                rows=sum(tables.values()),
                bytes=size,
                seconds=round(time.monotonic() - began, 3),
                nonce=hashlib.sha256(nonce.encode()).hexdigest(),
                left_out=cluster.left_out,
                must_touch=list(declared.must_touch),
            ),
            self._agent,
        )
        if declared.mode == "branch":
            kept = housing.folder / DATABASES / f"{self._called}-before.dump"
            self._gate = Gate(self._on_record, cluster, kept, housing.recorder, lambda: contacts.look(self.standing()))
        if self._of is None:
            self._returning = Returning(self._name, housing, self.standing, self._put_in_place, declared, self._room)
        assert cluster.life is not None
        cluster.life.add_done_callback(self._server_ended)
        self._serving.append(asyncio.create_task(self._watch()))
        return None

    async def _open_live(self, housing: Housing) -> None:
        declared, began = self._declared, time.monotonic()
        assert declared.source is not None
        dsn = parse_dsn(declared.source)
        password = password_of(declared.password_env or "", declared.password_file, os.environ)
        source = Source(dsn, password, newest())
        password = password or password_from_file(source, os.environ)
        self.secrets = (password,) if password else ()
        live = Live(source, password)
        about = await live.open()
        self._live = live
        housing.recorder.append(
            DatabaseOpened(
                door=self.id,
                mode=declared.mode,
                server=about.version,
                source=declared.source,
                tables=len(about.tables),
                rows=sum(one.rows for one in about.tables),
                bytes=sum(one.bytes for one in about.tables),
                seconds=round(time.monotonic() - began, 3),
            )
        )

    async def _behind(self, housing: Housing) -> tuple[Cluster, int]:
        """The server, and the bytes that its source takes."""
        declared, password = self._declared, ""
        if declared.source is not None and not declared.is_stopped:
            password = password_of(declared.password_env or "", declared.password_file, os.environ)
            self.secrets = (password,) if password else ()
        of = self._of.standing() if self._of is not None else None
        server = await open_server(housing, self._name, declared, password, of)
        if self._of is not None:
            self._of._branches.add(self._agent)
        return server

    @property
    def _source(self) -> str:
        """Of what it is a copy: as the box says it, or the door of whose database it is a branch."""
        return self._of._on_record if self._of is not None else self._declared.source or ""

    def branch(self, agent: str) -> PostgresDoor:
        """See `Branches`."""
        if self._live is not None:
            remedy = "leave --branch out, or pick the other doors with --doors: it only reads"
            raise Refused("no_branch", f"{self._name} is a live database", remedy=remedy)
        plain = declaration.PostgresDoor(values=self._declared.values, memory=self._declared.memory, disk=self._declared.disk)
        declared = plain.model_copy(update={"mode": "branch"})
        return PostgresDoor(self._name, declared, alone=self._alone, of=self, agent=agent)

    @property
    def changes(self) -> list[str]:
        """What became of it, a line each, once it is closed; empty where that is not known."""
        return [as_text(change) for change in compare(self._before, self._after)] if self._after is not None else []

    def standing(self) -> Cluster:
        """Its server. Raises RunError `door_failed` where it has ended."""
        if self._cluster is None:
            remedy = "go on without it; the operator finds why in the journal"
            raise RunError("door_failed", f"the database {self._name} has ended", remedy=remedy)
        return self._cluster

    async def serve(self, agent: str, place: Place, sock: socket.socket, pay: Callable[[int], None]) -> None:
        """See `Door`. What reaches a throw-away server has not left: nothing is paid."""
        sock.setblocking(False)
        self._serving.append(asyncio.create_task(self._accept(agent, sock, pay if self._live else self._passed), name=agent))

    async def leave(self, agent: str) -> None:
        """See `Door`."""
        await end_tasks_of(agent, [*self._serving, *self._tasks])
        self._serving = [task for task in self._serving if not task.done()]

    async def _accept(self, agent: str, listening: socket.socket, pay: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._tasks) >= MOST_SESSIONS:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            inner, _ = await loop.sock_accept(listening)
            inner.setblocking(False)
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._serve(agent, inner, pay), name=agent)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, agent: str, inner: socket.socket, pay: Callable[[int], None]) -> None:
        if self._returning is not None:
            await self._returning.keeping.begin()
        behind = self._cluster or self._live
        if behind is None:
            inner.close()  # it ends at this moment
            return
        assert self._record is not None
        role, number = Role(AGENT, self._name), next(self._numbers)
        session = Session(number, agent, inner, role, self._record, behind.reach, pay, self._gate)
        self._sessions.add(session)
        try:
            if key := await session.begin():
                await self._cancel(key)
            else:
                await self._pass_on(agent, session)
        except GearcaseError as error:
            self._refuse(agent, error)
            session.tell(error)
        except (OSError, TimeoutError):
            return  # the client is gone, or never said what it wants
        finally:
            self._sessions.discard(session)
            session.close()

    async def _pass_on(self, agent: str, session: Session) -> None:
        assert self._housing is not None
        recorder, began, why = self._housing.recorder, time.monotonic(), "failed"
        is_recorded = session.number <= _MOST_RECORDS
        if is_recorded:
            recorder.append(ConnectionOpened(self._on_record, session.number, self.places[0].name, PORT, ""), agent)
        if self._latched:
            session.hold("latch")
        try:
            why = await session.pass_on()
            if session.refused is not None:
                raise session.refused
        finally:
            if is_recorded:
                seconds = round(time.monotonic() - began, 3)
                name = self.places[0].name
                passed = (session.sent, session.received)
                recorder.append(ConnectionClosed(self._on_record, session.number, name, *passed, seconds, why), agent)

    async def _cancel(self, key: bytes) -> None:
        """Pass a cancelling message on, where it means a session of this door."""
        behind = self._cluster or self._live
        if behind is not None and any(key == session.key for session in self._sessions):
            await behind.cancel(key)

    async def _watch(self) -> None:
        """Tell what was touched, while statements come."""
        assert self._record is not None and self._cluster is not None and self._contacts is not None
        seen = 0
        while True:
            await asyncio.sleep(LOOK_EVERY)
            cluster = self._cluster
            if self._record.statements != seen and not cluster.housed.sandbox.frozen:
                seen = self._record.statements
                try:
                    await self._contacts.look(cluster)
                except GearcaseError:
                    if cluster is self._cluster:
                        raise  # else it was left by a return meanwhile

    async def look(self) -> None:
        """Tell what was touched up to now."""
        if self._contacts is not None and self._cluster is not None and not self._cluster.housed.sandbox.frozen:
            await self._contacts.look(self._cluster)

    def _server_ended(self, life: asyncio.Task[Any]) -> None:
        """A server that ends before it is told to, on record."""
        assert self._housing is not None
        if life.cancelled() or self._cluster is None or self._cluster.life is not life:
            return
        error = life.exception()
        if not isinstance(error, GearcaseError):
            error = failed(f"the database server of {self._name} has ended", life.result())
        self._housing.recorder.append(Failure(error.envelope()), self._agent)

    def _refuse(self, agent: str, error: GearcaseError) -> None:
        assert self._housing is not None
        count = self._refused[error.code] = self._refused.get(error.code, 0) + 1
        if str(count).strip("0") == "1":
            self._housing.recorder.append(DoorRefused(self._on_record, error.code, error.message, {"count": count}), agent)

    async def dump(self, target: Path) -> int:
        """Write what the database holds now into a new file; returns its bytes. Raises RunError `door_failed`."""
        if self._cluster is None or self._cluster.housed.sandbox.frozen:
            remedy = "resume the run; `gearcase db diff` tells what became of a database in the end"
            raise RunError("door_failed", f"the database {self._name} stands still or has ended", remedy=remedy)
        return await self._cluster.dump_to(target)

    # --- earlier states ------------------------------------------------------------------------------------------------------

    @property
    def returning(self) -> Returning | str:
        """See `Returns`."""
        return self._returning or "it is a live database, of which only reading is allowed"

    async def _put_in_place(self, cluster: Cluster) -> None:
        """Serve this one from now on: every session with the other ends, and so does that."""
        assert self._housing is not None and cluster.life is not None
        await self._housing.adopt(cluster.housed.sandbox)
        old, self._cluster = self.standing(), cluster
        for session in self._sessions:
            session.cut("rewound")
        if self._gate is not None:
            self._gate.cluster = cluster
        if self._contacts is not None:
            self._contacts.leave()
        cluster.life.add_done_callback(self._server_ended)
        await old.close()

    def _passed(self, count: int) -> None:
        """What reaches a throw-away server has not left: nothing is paid."""
        if self._returning is not None:
            self._returning.keeping.stirred = True

    def describe(self) -> Mapping[str, Any]:
        """See `Door`."""
        host = self.places[0].name
        whose = f" of {self._source}" if self._of is not None else ""
        beside = f"; sub-agents with a branch of it: {', '.join(sorted(self._branches))}" if self._branches else ""
        return {
            "address": f"postgresql://{AGENT}@{host}:{PORT}/{self._name}",
            "purpose": f"a PostgreSQL database ({self._declared.mode}{whose}){beside}",
            "must_touch": list(self._declared.must_touch),
        }

    def latch(self) -> None:
        """See `Door`."""
        self._latched = True
        for session in self._sessions:
            session.hold("latch")

    def unlatch(self) -> None:
        """See `Door`."""
        self._latched = False
        for session in self._sessions:
            session.release("latch")

    async def close(self) -> tuple[str, ...]:
        """See `Door`. What was touched is told before the server ends."""
        tasks = [*self._serving, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._serving.clear()
        if self._returning is not None:
            await self._returning.close()
        if self._live is not None:
            await self._live.close()
            assert self._record is not None
            self._record.flush()
        cluster, self._cluster = self._cluster, None
        if self._of is not None:
            self._of._branches.discard(self._agent)
        if cluster is None:
            return ()
        try:
            await self._last_look(cluster)
        finally:
            await cluster.close()
        return ()

    async def _last_look(self, cluster: Cluster) -> None:
        """What was touched, once every session has ended. Of a server that ended or stands frozen for good, it is what is known."""
        assert self._record is not None and self._housing is not None
        self._record.flush()
        if self._contacts is None or cluster.housed.sandbox.frozen or cluster.life is None or cluster.life.done():
            return
        try:
            async with asyncio.timeout(_LAST_LOOK):
                await facts.settle(cluster)
                await self._contacts.look(cluster)
                self._after = await facts.inventory(cluster)
                folder, mode = self._housing.folder / DATABASES, self._declared.mode
                keep(folder, self._called, mode, self._source, self._before, self._after)
        except GearcaseError as error:
            self._housing.recorder.append(Failure(error.envelope()), self._agent)
        except TimeoutError:
            remedy = "see what the agent's last statements were: gearcase logs"
            error = RunError("door_failed", f"the database {self._name} did not say what was touched", remedy=remedy)
            self._housing.recorder.append(Failure(error.envelope()), self._agent)
