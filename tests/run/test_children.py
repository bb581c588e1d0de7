"""Sub-agents in any order of spawns, spending, failures, stops and ends: money is conserved, and each has one ending."""

import asyncio
import itertools
from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gearcase.agent.loop import AgentEnd
from gearcase.box import Box
from gearcase.brake import BoxClock
from gearcase.checks import CheckVerdict
from gearcase.doors.files import Delivery
from gearcase.errors import GearcaseError, RunError
from gearcase.events import AgentReturned, AgentSpawned
from gearcase.ledger import Ledger
from gearcase.run.accounts import LEAD, LEAD_PURSE, RUN, Pace, close_agent_accounts, open_accounts
from gearcase.run.children import Children
from gearcase.run.reach import Reach
from gearcase.sandbox.manifest import Manifest

ROUTE = SimpleNamespace(name="m", reference="m")


class Recorded:
    """A record in memory."""

    def __init__(self):
        self.events = []

    def append(self, event, agent=""):
        self.events.append((agent, event))
        return len(self.events)


class Free:
    """A brake that nobody pulls."""

    async def wait_for(self, wanted):
        await asyncio.Event().wait()


class Actor:
    """A member without a box: it spends, spawns and ends as the example says."""

    def __init__(self, stage, purse, box, pace):
        self.stage, self.purse, self.box, self.pace = stage, purse, box, pace
        self.route, self.reach = ROUTE, Reach(SimpleNamespace(doors=(), listeners=(), names={}, environment={}), None, ())
        self.driving = SimpleNamespace(short_of="usd")
        self.sandbox = SimpleNamespace(owner=(0, 0), died=asyncio.Event().wait)
        self.room = SimpleNamespace(
            failed=asyncio.get_running_loop().create_future(),
            sandbox=self.sandbox,
            tick=asyncio.Event().wait,
            trace=[],
            shut_doors=self._nothing,
            lost=lambda reason: None,
            fail=lambda error: None,
        )
        self.workspace = SimpleNamespace(state=self._state, change=self._change, begin=lambda files: None)
        self.agent = SimpleNamespace(step=0, run=self._run, tell=lambda text: None)

    async def _nothing(self, *_):
        await asyncio.sleep(0)

    serve = end_maps = _nothing

    async def _state(self):
        await asyncio.sleep(0)
        return Manifest()

    async def _change(self, work):
        await asyncio.sleep(0)
        return work(-1, Manifest())

    def equip(self, route, swarm, **more):
        return SimpleNamespace(stage=self._stage, final=self._final)

    async def _stage(self, staging):
        staging.mkdir(parents=True)
        return Delivery()

    async def _final(self, staging, delivery):
        await asyncio.sleep(0)
        return [CheckVerdict(check.name, "passed") for check in self.box.checks]

    async def _run(self):
        return await self.stage.act(self.purse)

    async def close(self):
        self.stage.closed.append(self.purse.agent)
        return ()


class Driverless:
    """Makes no box: there is never a spare."""

    async def open(self, spec):
        raise RunError("sandbox_failed", "no box", remedy="none")


class Stage:
    """One example: the books, the tree, and what each agent does in turn."""

    def __init__(self, acts, folder):
        self.acts = itertools.chain(iter(acts), itertools.repeat(("done", 0)))
        self.recorder, self.closed = Recorded(), []
        self.ledger = Ledger(self.recorder)
        self.box = Box.model_validate({"goal": "g", "limits": {"usd": 1.0}, "swarm": {"agents": 12, "live": 3}})
        open_accounts(self.ledger, self.box)
        clock = BoxClock()
        self.shared = SimpleNamespace(
            folder=SimpleNamespace(id="x", path=folder),
            recorder=self.recorder,
            ledger=self.ledger,
            clock=clock,
            brake=Free(),
            store=None,
            http=None,
            tools=(),
            signature={},
            driver=Driverless(),
            forks=SimpleNamespace(fill=self._fill),
        )
        self.lead = Actor(self, LEAD_PURSE, self.box, Pace(self.box, clock, self.recorder))
        self.children = Children(self.shared, self.lead, {}, self.open)

    async def _fill(self, sandbox, files):
        return ()

    async def open(self, shared, purse, box, pace, reach, spec, ready):
        if next(self.acts)[0] == "no box":
            raise RunError("sandbox_failed", "no box", remedy="none")
        return Actor(self, purse, box, pace)

    async def act(self, purse):
        """What an agent does until it ends. Whatever it may not do is refused to it, as at its doors."""
        for _ in range(4):
            what, number = next(self.acts)
            await asyncio.sleep(0)
            self.conserved()
            try:
                if what == "spawn":
                    await self.children.spawn(
                        purse.agent, {"goal": "g", "usd": f"{number / 1000}", "check": "c" if number % 2 else None}
                    )
                elif what == "spend":
                    hold = self.ledger.hold(purse.work, {"usd": number * 10**6, "calls": 1})
                    self.ledger.sent(hold)
                    await asyncio.sleep(0.001 * (number % 3))
                    self.ledger.settle(hold, {"usd": number * 10**6 // 2, "calls": 1})
                elif what == "leave a hold":
                    self.ledger.hold(purse.work, {"usd": number * 10**6})
                elif what == "wait":
                    await self.children.wait(purse.agent, {})
                elif what == "stop":
                    await self.children.stop(purse.agent, {"agent": f"a{number % 12}"})
                elif what in ("fail", "budget", "done"):
                    return AgentEnd({"fail": "failed"}.get(what, what))
            except GearcaseError:
                continue
        return AgentEnd("done")

    def conserved(self):
        for name, _ in self.ledger.accounts():
            for resource in ("usd", "tokens", "calls", "egress"):
                one = self.ledger.balance(name, resource)
                if one.limit is not None:
                    assert one.spent + one.held + one.carved + one.free == one.limit, name
                    assert min(one.spent, one.held, one.carved) >= 0 and one.over == 0


ACTS = ["spawn", "spawn", "spawn", "spend", "leave a hold", "wait", "stop", "fail", "budget", "done", "no box"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 200)), max_size=80), cut=st.booleans())
def test_money_is_conserved_over_the_tree_and_each_sub_agent_ends_once(tmp_path_factory, acts, cut):
    async def scenario():
        stage = Stage(acts, tmp_path_factory.mktemp("run"))
        work = asyncio.create_task(stage.act(LEAD_PURSE))
        if cut:
            await asyncio.sleep(0.002)
            work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await stage.children.close()
        stage.conserved()
        spawned = [agent for agent, event in stage.recorder.events if isinstance(event, AgentSpawned)]
        returned = [agent for agent, event in stage.recorder.events if isinstance(event, AgentReturned)]
        assert sorted(returned) == sorted(spawned) and len(set(returned)) == len(returned)
        assert {name for name, _ in stage.ledger.accounts()} == {RUN, LEAD, "reserve"}
        spent = {agent: event.spent for agent, event in stage.recorder.events if isinstance(event, AgentReturned)}
        parents = {agent: event.parent for agent, event in stage.recorder.events if isinstance(event, AgentSpawned)}
        top = sum(amounts.get("usd", 0) for agent, amounts in spent.items() if parents[agent] == LEAD)
        assert top <= stage.ledger.subtree_spent(LEAD)["usd"]
        close_agent_accounts(stage.ledger)
        run = stage.ledger.balance(RUN, "usd")
        assert run.carved == run.held == 0 and run.spent + run.free == run.limit
        assert len(set(stage.closed)) == len(stage.closed), "each box was closed once"

    asyncio.run(asyncio.wait_for(scenario(), 60))
