"""The sub-agents of one run: spawned, waited for, told, stopped; each a member of its own with a share of its parent's account.

The life of one: its share is carved and its files are those of the moment of `gear spawn`; it may stand in line; it works; it ends,
whatever the reason; those below it end; its deliverables are copied and checked; its accounts close, what is left returns; its box is
torn down; what it made is copied into its parent's files; its ending is on record, once. A parent that ends takes all below it along.

Threat: agents that spawn for ever (`Family` refuses), that spend together what each may spend alone (the ledger), that reach what their
parent does not (`Reach`), or give another's model orders: a note is marked as another agent's, and bounded in size and number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from gearcase.box import Box, Check
from gearcase.brake import Line
from gearcase.checks import CheckVerdict
from gearcase.doors.gear import Operation
from gearcase.errors import GearcaseError, Refused, UsageError
from gearcase.events import AgentReturned, AgentSpawned, AgentTold
from gearcase.run import orders
from gearcase.run.accounts import LEAD, Pace, Purse, open_purse
from gearcase.run.branches import OwnDatabases
from gearcase.run.ending import End
from gearcase.run.forks import chosen
from gearcase.run.handover import Acceptance
from gearcase.run.lineage import left_by, told_of
from gearcase.run.member import Member, Shared
from gearcase.run.notes import MOST_NOTE, NOTE, Notes
from gearcase.run.orders import Order, read_order
from gearcase.run.outcomes import end_of, first_words, limit_of, result_of
from gearcase.run.reach import Reach
from gearcase.run.returning import Laying, Returned, hand_back
from gearcase.run.room import sandbox_spec
from gearcase.run.spares import Spares
from gearcase.run.until import until_end
from gearcase.sandbox.beneath import printable
from gearcase.sandbox.manifest import Manifest
from gearcase.sandbox.snapshots import restore
from gearcase.seams import Sandbox, SandboxSpec
from gearcase.swarm.family import Family, Kin, Outcome

T = TypeVar("T")

LINGER = 15.0
"""Seconds after which `wait` answers with what there is: whoever asks asks again."""
SETTLE = 3.0
"""Seconds in which calls in flight may still end when a sub-agent's account closes; then they count as spent."""
ABOUT = """
# Your parent
Another agent ({parent}) gave you this goal and waits for the result. {files}
What leaves the box goes back into its files by copy; what it has changed meanwhile is never overwritten. Your note of `gear done` goes to
it. `gear tell parent TEXT` tells it something before you end; nobody else answers.
"""
_log = logging.getLogger(__name__)


OpenMember = Callable[[Shared, Purse, Box, Pace, Reach, SandboxSpec, Sandbox | None, Line], Awaitable[Member]]
"""How a member's box is made; see `Member.open`."""


@dataclass(slots=True)
class _Life:
    """One sub-agent while it lives, and what is kept of it."""

    kin: Kin
    order: Order
    purse: Purse
    files: Manifest  # what it was forked with
    before: Manifest  # its parent's files at that moment
    reach: Reach
    databases: OwnDatabases
    route: Any
    began: float
    go: asyncio.Event = field(default_factory=asyncio.Event)
    member: Member | None = None
    notes: list[str] = field(default_factory=list[str])
    trace: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    task: asyncio.Task[None] | None = None


class Children:
    """All sub-agents of a run, at every depth. Its operations take (agent, arguments) as every handler of the gear door does."""

    def __init__(
        self,
        shared: Shared,
        lead: Member,
        operations: Mapping[str, Operation],
        open_member: OpenMember = Member.open,
        given: int = 0,
    ) -> None:
        limits = lead.box.swarm
        self._open = open_member
        self._spares = Spares(shared.driver, shared.forks, shared.folder.id)
        self._shared = shared
        self._lead = lead
        self._operations = operations
        self._family = Family(LEAD, limits.depth, limits.agents, limits.live, given)
        self._lives: dict[str, _Life] = {}
        self._halts: dict[str, asyncio.Future[End]] = {}
        self._notes = Notes()
        self._changed = asyncio.Event()
        self._closing = False
        self._discarded: set[str] = set()
        self.residue: list[str] = []

    # --- operations --------------------------------------------------------------------------------------------------------

    async def spawn(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Begin one. Raises Refused and UsageError; then there is none, and nothing is carved."""
        family, ledger = self._family, self._shared.ledger
        again = self._lives[family.find(agent, str(arguments["again"])).id] if arguments.get("again") else None
        order = read_order(arguments, again.order if again is not None else None)
        if again is not None and order.name == family.passed_on(again.kin):
            order = replace(order, name="")  # it is taken, and passes on
        parent = self._member(agent)
        family.may_spawn(agent, order.name)
        route = self._route(parent, order)
        reach = parent.reach if order.doors is None else parent.reach.picked(order.doors, self._shared.http)
        before = await parent.workspace.state()
        files = chosen(before, order.give, left_by(again.kin) if again is not None else ()) if order.give else before
        family.may_spawn(agent, order.name)  # others were spawned meanwhile, perhaps
        if self._closing:
            raise Refused("agent_ended", "the run is ending", remedy="nothing is spawned any more")
        carved, key = order.limits(ledger, parent.purse), family.next_id()
        databases = OwnDatabases(reach.doors.branches(order.branch, key), self._shared.brake, self._shared.housing)
        reach = replace(reach, doors=databases.among(reach.doors))
        purse = open_purse(ledger, key, parent.purse, carved, parent.box.limits.wind_down_reserve)
        ledger.charge(purse.work, {"agents": 1}, "spawn")
        box = order.box(parent.box, parent.pace, carved)
        limits = {**carved, "steps": box.limits.steps, "wall": round(box.limits.wall * 1000)}
        depth = (parent_kin.depth if (parent_kin := family.of(agent)) else 0) + 1
        name = order.name or (family.passed_on(again.kin) if again is not None else "") or key
        kin = Kin(key, name, agent, depth, order.goal, route.name, limits, again.kin.id if again else "", order.check)
        family.adopt(kin)
        life = self._lives[key] = _Life(kin, order, purse, files, before, reach, databases, route, self._shared.clock.now())
        self._halts[key] = asyncio.get_running_loop().create_future()
        doors = [*(door.id for door in reach.doors.doors), *(f"secrets.{name}" for name in reach.secrets)]
        event = AgentSpawned(
            parent=agent,
            name=kin.name,
            goal=order.goal[:2000],
            model=route.name,
            depth=depth,
            limits=limits,
            files=files.files,
            bytes=files.size,
            take=list(order.take),
            doors=doors,
            check=order.check[:1000],
            again=kin.again,
        )
        self._shared.recorder.append(event, key)
        self._dispatch()
        life.task = asyncio.create_task(self._live(life))
        return {"agent": key, "state": kin.state, "limits": orders.told(limits), "files": files.files, "agents_left": family.left}

    async def wait(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Until those that are named, or all that nobody waited for, have ended; with `any`, until one has. At most LINGER seconds."""
        family = self._family
        named = [str(one) for one in cast("list[Any]", arguments.get("agents") or [])]
        wanted = [family.find(agent, one) for one in named] or [one for one in family.children(agent) if not one.told]
        if not wanted:
            raise Refused(
                "nobody", "there is no sub-agent to wait for", remedy="`gear spawn` begins one; `gear agents` lists them"
            )
        family.lend(agent)
        self._dispatch()
        try:
            async with asyncio.timeout(LINGER):
                while not _enough(wanted, bool(arguments.get("any"))):
                    await self._change()
        except TimeoutError:
            pass  # whoever waits asks again
        finally:
            family.take_back(agent)
        ended = [one for one in wanted if one.outcome is not None]
        over = _enough(wanted, bool(arguments.get("any")))
        for one in ended if over else ():
            one.told = True
        return {
            "ended": [result_of(one) for one in ended] if over else [],
            "waiting": [one.id for one in wanted if one.outcome is None],
            "agents": [one.id for one in wanted],
            "over": over,
            "passed": over and all(one.outcome is not None and one.outcome.passed for one in ended),
        }

    async def agents(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All below the caller, as a tree in order."""
        limits = self._lead.box.swarm
        rows = [self._row(one) for one in self._family.below(agent)]
        return {"agents": rows, "left": self._family.left, "at_work": self._family.at_work, "at_once": limits.live}

    async def tell(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A note to the caller's parent or to one of its own sub-agents, for its next turn. Raises Refused and UsageError."""
        text, name = str(arguments["text"]), str(arguments["agent"])
        if not text.strip() or len(text) > MOST_NOTE:
            raise UsageError(
                "bad_note", f"a note has 1 to {MOST_NOTE} characters", remedy="put more into a file that leaves with you"
            )
        mine = self._family.of(agent)
        if name == "parent":
            if mine is None:
                raise Refused("no_parent", "you have no parent: you are the lead", remedy="`gear ask-for` asks the operator")
            to, relation = mine.parent, "a sub-agent of yours"
        else:
            to, relation = self._family.find(agent, name).id, "your parent"
            if to not in [one.id for one in self._family.children(agent)]:
                raise Refused("not_yours", f"{to} is another's sub-agent", remedy="tell the one that spawned it")
        life, note = self._lives.get(to), NOTE.format(sender=agent, relation=relation, text=text)
        if life is not None and life.kin.state == "ended":
            raise Refused("agent_ended", f"{to} has ended", remedy=f"send it again: gear spawn --again {to} GOAL")
        member = self._lead if life is None else life.member
        self._notes.deliver(to, member.agent if member is not None else None, life.notes if life is not None else None, note)
        self._shared.recorder.append(AgentTold(to, text), agent)
        return {"told": to}

    async def stop(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """End one below the caller; answers with its result."""
        kin = self._family.find(agent, str(arguments["agent"]))
        self._halt(kin.id, End("stopped", "stopped by the agent that spawned it"))
        if (task := self._lives[kin.id].task) is not None:
            await asyncio.wait({task}, timeout=LINGER)
        return result_of(kin)

    async def result(self, agent: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """How one below the caller ended, or how far it is; with `trace` its last commands and errors."""
        kin = self._family.find(agent, str(arguments["agent"]))
        told = result_of(kin)
        if arguments.get("trace"):
            life = self._lives[kin.id]
            told["trace"] = list(life.member.room.trace) if life.member is not None else life.trace
        return told

    def living(self) -> list[Kin]:
        """All that have not ended, parents before theirs."""
        return [kin for kin in self._family.below(LEAD) if kin.outcome is None]

    def tell_of(self, doors: Collection[str], text: str) -> None:
        """A note of the operator's to all that live and reach their parent's own, at one of these doors, for their next turn."""
        for kin in self.living():
            life = self._lives[kin.id]
            shared = {door.id for door in life.reach.doors.doors if door in self._lead.reach.doors.doors}
            if shared & set(doors):
                if life.member is not None and life.member.agent is not None:
                    life.member.agent.tell(text)
                else:
                    life.notes.append(text)

    async def discard(self, why: str, patience: float) -> list[str]:
        """End all that live, by the operator: what they made does not come back. Returns the ids of those that have not ended in time,
        such as one whose files are being checked in a run that stands still.
        """
        below = self.living()
        self._discarded |= {kin.id for kin in below}
        for kin in below:
            self._halt(kin.id, End("stopped", why))
        tasks = {task for kin in below if (task := self._lives[kin.id].task) is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        return [kin.id for kin in self.living()]

    # --- the end of all ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """The lead is over: all below it end. Idempotent."""
        self._closing = True
        await self._end_below(LEAD)
        await self._spares.close()

    async def _end_below(self, agent: str) -> None:
        below = list(self._family.below(agent))
        for kin in below:
            self._halt(kin.id, End("parent_ended", f"{kin.parent} ended before it"))
        tasks = [task for kin in below if (task := self._lives[kin.id].task) is not None]
        await asyncio.gather(*tasks)

    def _halt(self, agent: str, end: End) -> None:
        if not self._halts[agent].done():
            self._halts[agent].set_result(end)

    # --- one life ----------------------------------------------------------------------------------------------------------

    async def _live(self, life: _Life) -> None:
        """From the line to its ending. Raises RunError where the books cannot be written: then the run ends."""
        kin, recorder = life.kin, self._shared.recorder
        end, returned, verdict = End("failed", "it did not begin"), Returned(), None
        try:
            await self._unless_halted(kin.id, self._prepared(life))
            if self._halts[kin.id].done():
                end = self._halts[kin.id].result()
            else:
                end, returned, verdict = await self._work(life)
        except GearcaseError as error:
            cause = f" ({error.cause.strip()[-500:]})" if error.cause else ""
            end = End("failed", f"{error.message}{cause}. {error.remedy}", error=error)
        except Exception as error:
            _log.exception("the sub-agent %s failed", kin.id)
            end = End("failed", f"Gearcase itself failed: {type(error).__name__}")
        finally:
            try:
                databases = await life.databases.close()
            finally:
                spent = await self._close_accounts(life)
        pace = life.member.pace if life.member is not None else None
        outcome = Outcome(
            status=end.reason,
            limit=limit_of(end, life.member),
            detail=end.detail[:2000],
            note=end.note[:MOST_NOTE],
            spent=spent,
            steps=life.member.agent.step if life.member is not None and life.member.agent is not None else 0,
            seconds=round(pace.used if pace is not None else 0.0, 3),
            verdict=verdict.verdict if verdict is not None else "",
            reason=verdict.reason if verdict is not None else "",
            output=end_of(verdict.output) if verdict is not None else "",
            copied=tuple(returned.copied),
            conflicts=tuple(returned.conflicts),
            refused=tuple(returned.refused),
            databases=databases,
        )
        if life.member is not None:
            life.trace = list(life.member.room.trace)
            life.member = None
        recorder.append(
            AgentReturned(
                parent=kin.parent,
                status=outcome.status,
                limit=outcome.limit,
                detail=outcome.detail,
                note=outcome.note,
                spent=spent,
                steps=outcome.steps,
                seconds=outcome.seconds,
                verdict=outcome.verdict,
            ),
            kin.id,
        )
        self._family.end(kin.id, outcome)
        life.files = life.before = Manifest()  # nobody asks for them any more
        self._dispatch()

    async def _prepared(self, life: _Life) -> None:
        """It is its turn, and its databases are there."""
        await life.go.wait()
        await life.databases.open()

    async def _work(self, life: _Life) -> tuple[End, Returned, CheckVerdict | None]:
        """In a box of its own: (how it ended, what came back, what its check said)."""
        shared, kin = self._shared, life.kin
        parent = self._member(kin.parent)
        box = life.order.box(parent.box, parent.pace, kin.limits)
        clock = shared.clock
        pace = Pace(box, clock, shared.recorder, agent=kin.id, began=clock.now(), above=self._lead.pace)
        spec = sandbox_spec(box, shared.tools, life.reach, f"{shared.folder.id}-{kin.id}", shared.signature)
        ready = await self._spares.take(spec, life.files)
        member = await self._open(shared, life.purse, box, pace, life.reach, spec, ready, (*parent.line, kin.id))
        life.member = member
        member.room.failed.add_done_callback(lambda failed: failed.cancelled() or self._lead.room.fail(failed.result()))
        try:
            if ready is None:
                await shared.forks.fill(member.sandbox, life.files)
            self._spares.prepare(spec, life.files)
            member.workspace.begin(life.files)
            before = told_of(self._lives[kin.again].kin, life.files) if kin.again else ""
            about = ABOUT.format(parent=kin.parent, files=_told_files(life.files) + before)

            def put(check: Check, sandbox: Sandbox) -> None:
                restore(sandbox.workspace, life.before, shared.store, sandbox.owner, known=Manifest())

            acceptance = member.equip(life.route, self._operations, about=about, put=put)
            await member.serve()
            assert member.agent is not None
            for note in life.notes:
                member.agent.tell(note)
            end = await until_end(member.agent.run(), member.room, member.brake, pace, self._halts[kin.id])
            await self._end_below(kin.id)
            await member.end_maps()
            await member.room.shut_doors()
            if end.reason in ("lost", "killed", "parent_ended") or kin.id in self._discarded:
                return end, Returned(), None
            handed = await self._unless_halted(kin.id, self._hand_back(life, acceptance), {"parent_ended"})
            return (end, *handed) if handed is not None else (self._halts[kin.id].result(), Returned(), None)
        finally:
            await self._end_below(kin.id)
            self.residue += await member.close()

    async def _hand_back(self, life: _Life, acceptance: Acceptance) -> tuple[Returned, CheckVerdict | None]:
        """Its deliverables are copied out, checked, and copied into its parent's files: (what came back, what its check said)."""
        shared, kin = self._shared, life.kin
        staging = shared.folder.path / "asked" / f"{kin.id}-made"
        parent = self._member(kin.parent)
        laying = Laying(
            agent=kin.id,
            forked=life.files,
            before=life.before,
            store=shared.store,
            owner=parent.sandbox.owner,
            into=life.order.into.encode("utf-8", "surrogateescape"),
        )
        return await hand_back(acceptance, staging, laying, parent.workspace, kin.parent, shared.recorder)

    async def _close_accounts(self, life: _Life) -> dict[str, int]:
        """Calls in flight get a moment; what is left returns to the parent. Returns what it and all below it spent."""
        ledger, purse = self._shared.ledger, life.purse
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while ledger.balance(purse.work, "calls").held or ledger.balance(purse.reserve, "calls").held:
                    await ledger.wait_change()
        spent = {name: amount for name, amount in ledger.subtree_spent(purse.whole).items() if amount}
        for account in (purse.work, purse.reserve):  # what is still held is cut when the account closes
            for name in ("usd", "tokens", "calls", "egress"):
                if held := ledger.balance(account, name).held:
                    spent[name] = spent.get(name, 0) + held
        ledger.close(purse.whole)
        return spent

    async def _unless_halted(self, agent: str, work: Coroutine[Any, Any, T], reasons: set[str] | None = None) -> T | None:
        """What the work comes to; None, and it is cancelled, where the agent is halted (for one of these reasons) first."""
        task, halt = asyncio.create_task(work), self._halts[agent]
        halted = asyncio.create_task(_halted(halt, reasons))
        killed = asyncio.create_task(self._killed(agent))
        try:
            await asyncio.wait({task, halted, killed}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for one in (task, halted, killed):
                one.cancel()
            await asyncio.gather(task, halted, killed, return_exceptions=True)

    async def _killed(self, agent: str) -> None:
        await self._shared.brake.wait_for(lambda level: level.name == "KILLED")
        self._halt(agent, End("killed", "killed by the operator"))

    # --- the line, and what is told ----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Whoever may start does; whoever waits looks again."""
        while (kin := self._family.start_next()) is not None:
            self._lives[kin.id].go.set()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _change(self) -> Awaitable[Any]:
        return self._changed.wait()

    def _member(self, agent: str) -> Member:
        """Raises Refused `agent_ended` for one that has no box any more."""
        member = self._lead if agent == LEAD else self._lives[agent].member
        if member is None:
            raise Refused("agent_ended", f"{agent} has ended", remedy="nothing is done for it any more")
        return member

    def _route(self, parent: Member, order: Order) -> Any:
        if order.model:
            return self._shared.door.routing.inside(order.model)
        if parent.route is None:
            raise UsageError("no_model", "no model drives you, so name one", remedy="gear spawn --model PROVIDER/MODEL GOAL")
        return parent.route

    def _row(self, kin: Kin) -> dict[str, Any]:
        life, ledger = self._lives[kin.id], self._shared.ledger
        told = result_of(kin)
        row = {
            key: told[key] for key in ("agent", "name", "parent", "status", "limit", "model", "limits", "spent") if key in told
        }
        row["check"] = {"verdict": kin.outcome.verdict} if kin.outcome is not None and kin.outcome.verdict else {}
        if kin.state != "ended":
            row["spent"] = orders.told({k: v for k, v in ledger.subtree_spent(life.purse.whole).items() if v})
        if life.member is not None:
            row["steps"] = life.member.agent.step if life.member.agent is not None else 0
            if life.member.room.trace:
                row["last"] = first_words(life.member.room.trace[-1]["command"])
        return {**row, "depth": kin.depth, "goal": first_words(kin.goal)}


async def _halted(halt: asyncio.Future[End], reasons: set[str] | None) -> None:
    end = await asyncio.shield(halt)
    if reasons is not None and end.reason not in reasons:
        await asyncio.Event().wait()


def _enough(wanted: Sequence[Kin], any_: bool) -> bool:
    ended = [one.outcome is not None for one in wanted]
    return any(ended) if any_ else all(ended)


def _told_files(files: Manifest) -> str:
    names = sorted({printable(entry.name) for entry in files.entries if entry.parent is None})
    left_out = [entry.path for entry in files.entries if entry.kind in ("socket", "device", "mount")]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    missing = f" (left out: {', '.join(map(printable, left_out[:5]))})" if left_out else ""
    return f"Its files of that moment are yours to work on: {shown}{missing}." if names else "It gave you no files."
