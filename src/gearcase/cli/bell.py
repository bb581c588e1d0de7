"""The terminal bell: one that watches a run rings when somebody is paged."""

from __future__ import annotations

import time

from gearcase.events import Paged
from gearcase.journal import Record

_NEWS = 30.0
"""Seconds after which a page is a story: who attaches later hears no ringing of yesterday."""


def rings(record: Record) -> bool:
    """Whether a terminal that follows the journal rings at this record."""
    return isinstance(record.event, Paged) and record.event.bell and time.time() - record.time < _NEWS
