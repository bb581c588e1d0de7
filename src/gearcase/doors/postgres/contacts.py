"""Which relations of a throw-away database were touched, as its servers counted them, on record as it becomes known."""

from __future__ import annotations

from collections.abc import Sequence

from gearcase.doors.postgres import facts
from gearcase.doors.postgres.cluster import Cluster
from gearcase.doors.postgres.facts import Inventory
from gearcase.events import Amounts, Contact
from gearcase.seams import Recorder

_NOTHING: Amounts = {"read": 0, "written": 0}


class Contacts:
    """Of one door. `before` is what it began as, `must_touch` what has to be touched."""

    def __init__(self, door: str, recorder: Recorder, agent: str, before: Inventory, must_touch: Sequence[str]) -> None:
        self._door = door
        self._recorder = recorder
        self._agent = agent
        self._before = before
        self._must_touch = must_touch
        self._touched: dict[str, Amounts] = {}
        self._left: dict[str, Amounts] = {}  # on servers that were left by a return
        self._told: Contact | None = None

    async def look(self, cluster: Cluster) -> None:
        """Put what its server has counted by now on record, where that is news. Raises RunError `door_failed`."""
        for name, amounts in (await facts.touched(cluster)).items():
            before, left = self._touched.get(name, _NOTHING), self._left.get(name, _NOTHING)
            self._touched[name] = {key: max(amounts[key] + left[key], before[key]) for key in _NOTHING}
        missing = [name for name in self._must_touch if not any(self._touched.get(name, {}).values())]
        lost = await facts.lost(cluster, self._before)
        contact = Contact(self._door, self._touched.copy(), missing, lost)
        if contact != self._told:
            self._told = contact
            self._recorder.append(contact, self._agent)

    def leave(self) -> None:
        """Another server takes over, which counts from nothing."""
        self._left = self._touched.copy()
