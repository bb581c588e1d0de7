"""What is said of a map: counts by class, clusters of failures, the spread of its answers, and all of it on record."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from typing import Any, Literal

from gearcase.events import CanaryEnded, Event, MapEnded, MapItemFailed, MapProgressed, MapStarted, SpreadWarned
from gearcase.seams import Recorder
from gearcase.swarm.account import ItemAccount
from gearcase.swarm.items import Canary, Ended, MapSpec, Use
from gearcase.swarm.questions import Tally
from gearcase.swarm.signature import Clusters
from gearcase.swarm.spread import Spread
from gearcase.swarm.worker import Fault

DIFFERENT = 1000
_ON_RECORD = 100
_TELL = 1.0

End = Literal["done", "stopped", "abandoned", "cut"]


class Telling:
    """Of one map. It decides nothing."""

    def __init__(self, name: str, spec: MapSpec, recorder: Recorder, agent: str) -> None:
        self.found = 0
        self.classes: Counter[str] = Counter()
        self.clusters = Clusters()
        self._different: set[int] = set()
        self._spread = Spread()
        self._name = name
        self._spec = spec
        self._recorder = recorder
        self._agent = agent
        self._told = (ItemAccount(), 0)
        self._began = self._spoke = time.monotonic()
        self.record(
            MapStarted(
                map=name,
                prompt=spec.prompt_hash,
                text=spec.run or spec.prompt,
                model=spec.model,
                split=spec.split,
                expected=spec.expected,
                concurrency=spec.concurrency,
                allow_failed=spec.allow_failed,
                schema=dict(spec.schema.source) if spec.schema else {},
                validator=spec.validator,
            )
        )

    def record(self, event: Event) -> None:
        """Put it on record."""
        self._recorder.append(event, self._agent)

    @property
    def different(self) -> int:
        """How many different answers there are; DIFFERENT of them and more are not told apart."""
        return len(self._different)

    @property
    def warnings(self) -> dict[str, str]:
        """What is odd about the spread of the answers."""
        return self._spread.warnings

    def ended(self, ended: Ended, account: ItemAccount) -> Fault | None:
        """An item has ended; returns why the map must stop, where its answers say nothing any more."""
        self.found += ended.found
        if ended.state == "ok" and len(self._different) < DIFFERENT:
            self._different.add(hash(ended.answer))
        fault, item = ended.fault, ended.item
        if fault is not None:
            self.classes[fault.code] += 1
            if ended.state != "skipped":
                self.clusters.add(fault, item.shard)
            failures = account.failed + account.quarantined
            if ended.state in ("failed", "quarantined") and failures <= _ON_RECORD:
                told = (item.number, item.shard[:300], ended.state, fault.code, fault.message[:500], ended.attempts)
                self.record(MapItemFailed(self._name, *told))
        return self._look_at_spread(item.number, ended.answer) if ended.state == "ok" and not self._spec.run else None

    def _look_at_spread(self, number: int, answer: str) -> Fault | None:
        if (found := self._spread.add(number, answer)) is None:
            return None
        kind, told = found
        self.record(SpreadWarned(self._name, kind, told))
        if kind != "degenerate":
            return None
        return Fault("terminal", "spread", f"{told}: see results.jsonl, and try it with another model or prompt")

    def progress(self, account: ItemAccount, tally: Tally, projected: int, held: int) -> None:
        """How far it is, where that has changed and a second has passed."""
        now = time.monotonic()
        if now - self._spoke < _TELL or (account, held) == self._told:
            return
        self._spoke, self._told = now, (account, held)
        rate = round(account.done / (now - self._began), 2)
        counts = (tally.calls, tally.retries, tally.spent, projected, rate, held)
        self.record(MapProgressed(self._name, asdict(account), self.found, *counts))

    def canary(self, canary: Canary) -> None:
        """It was judged: what comes now is the rest."""
        clusters = [cluster.as_json() for cluster in self.clusters.largest(5)]
        told = (canary.items, canary.failed, canary.rate, canary.projected, canary.why, clusters, canary.first_failed)
        self.record(CanaryEnded(self._name, *told))
        self._spread.roll_out()

    def end(
        self,
        how: End,
        account: ItemAccount,
        tally: Tally,
        use: Use,
        stopped: Fault | None,
        known: dict[str, int],
        repair: dict[str, Any],
    ) -> None:
        """Its end."""
        self.record(
            MapEnded(
                map=self._name,
                ended=how,
                account=asdict(account),
                found=self.found,
                calls=tally.calls,
                retries=tally.retries,
                spent=tally.spent,
                seconds=round(time.monotonic() - self._began, 3),
                classes=dict(self.classes),
                why=stopped.message[:500] if stopped else "",
                clusters=[cluster.as_json() for cluster in self.clusters.largest()],
                sandboxes=use.sandboxes,
                cpu=round(use.cpu, 3),
                known=known,
                warnings=dict(self.warnings),
                repair=repair,
                different=self.different,
            )
        )
