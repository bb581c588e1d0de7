"""The append-only record of a run: what passed a door, what was spent, what was decided.

A journal is a folder of segments `000001.jsonl`, `000002.jsonl`, ... of about 64 MB. A line is one record: a JSON object
`{"seq", "time", "boot", "agent", "type", ...the event's fields, "prev"}`, where `prev` is the SHA-256 of the line before, without
its newline (64 zeros for the first), across segments. `time` is Unix time, `boot` CLOCK_BOOTTIME, both in seconds.

Invariants:
- One writer a folder, by a lock that dies with its process. Records are only ever added.
- `append` keeps a record in memory, `flush` hands everything to the kernel (survives a kill of ours), `durable` waits until the
  disk has it (survives a power cut); one fdatasync in a thread serves everyone who waits, the event loop never does.
- A write or sync that failed ends the journal: nothing is tried again, since the kernel may have dropped the data, and everyone
  who appends or waits is told. What was durable before stays.
- A line is at most 256 KiB. Longer text and lists are cut, with a mark where and a `cut` field that says how long they were.
- An incomplete last line, left by a crash, is cut on reopening, and its bytes are handed out so that they go on record.

The threat: an agent, or a hand afterwards, that changes what happened. Any change, removal or reordering of records is detected
by `verify`, up to a head that one holds; what was removed after it, at the end, is not. See `docs/threat-model.md`.
"""

from gearcase.journal.lines import LINE_BYTES, Record
from gearcase.journal.proof import Verification, verify
from gearcase.journal.reading import follow, read
from gearcase.journal.writer import Journal

__all__ = ["LINE_BYTES", "Journal", "Record", "Verification", "follow", "read", "verify"]
