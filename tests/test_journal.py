import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gearcase.events
from gearcase.errors import RunError, UsageError
from gearcase.events import AgentTurn, Event, FilesChanged, GearUsed, Held, NameAsked, Sent, Tick
from gearcase.journal import LINE_BYTES, Journal, Record, follow, read, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal"


def written(folder: Path, count: int, segment_bytes: int = 1 << 26) -> list[str]:
    """A closed journal of so many records; returns the head after each."""
    journal, heads = Journal.create(folder, segment_bytes=segment_bytes), []
    for number in range(count):
        journal.append(AgentTurn(number, f'turn {number} of a run, with "quotes" and ünïcode', number % 3), "lead")
        heads.append(journal.head)
    journal.close()
    return heads


def lines(folder: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl"))).splitlines(keepends=True)


def rewrite(folder: Path, changed: list[bytes]) -> None:
    for path in folder.glob("*.jsonl"):
        path.unlink()
    (folder / "000001.jsonl").write_bytes(b"".join(changed))


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(RunError) as caught:
        act()
    assert caught.value.remedy
    return caught.value.code


# --- what is written is what is read ---------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, as far as JSON can hold them."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is dict:
        return st.dictionaries(TEXT, values_of(inside[1]), max_size=3)
    if origin is list:
        return st.lists(values_of(inside[0]), max_size=3)
    if inside:
        return st.one_of(*(values_of(one) for one in inside))
    return {str: TEXT, int: INTEGERS, float: FLOATS, bool: st.booleans(), type(None): st.none(), Any: VALUES}[kind]


def hints(kind: type[Event]) -> dict[str, Any]:
    """Types of an event's fields. (In its class body `type` is a text, which the usual way trips over.)"""
    return {one: eval(kind.__annotations__[one], vars(gearcase.events)) for one in kind.fields}


def events() -> st.SearchStrategy[Event]:
    kinds = sorted(Event.catalogue.values(), key=lambda kind: kind.type)
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.builds(kind, **{name: values_of(hint) for name, hint in hints(kind).items()})
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(many=st.lists(st.tuples(events(), TEXT), min_size=1, max_size=12), data=st.data())
def test_every_event_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, many: list[tuple[Event, str]], data: Any
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal.create(folder, segment_bytes=data.draw(st.sampled_from([1, 2_000, 1 << 26])))
    assert [journal.append(event, agent) for event, agent in many] == list(range(1, len(many) + 1))
    journal.close()
    records = list(read(folder))
    assert [(record.event, record.agent) for record in records] == many
    assert [record.seq for record in records] == list(range(1, len(many) + 1))
    assert records[-1].digest == journal.head
    assert verify(folder, journal.head).ok


def test_a_line_is_as_documented(folder: Path) -> None:
    journal = Journal.create(folder)
    journal.append(Held(1, "run", {"usd": 5}, "call"), "lead")
    journal.append(Sent(1))
    journal.close()
    first, second = lines(folder)
    assert list(json.loads(first)) == [
        "seq",
        "time",
        "boot",
        "agent",
        "type",
        "hold",
        "account",
        "amounts",
        "purpose",
        "billed_by",
        "prev",
    ]
    assert json.loads(first)["prev"] == "0" * 64
    assert json.loads(second)["prev"] == sha256(first[:-1]).hexdigest()
    assert json.loads(second)["type"] == "sent"


@pytest.mark.parametrize("text", ["\ud800", "a\udcff.txt", os.fsdecode(b"\xff\xfe"), "\x00\r\n\u2028\u0085", "😀" * 10])
def test_text_that_is_no_utf_8_does_not_break_an_append(folder: Path, text: str) -> None:
    journal = Journal.create(folder)
    journal.append(FilesChanged("s", 1, 0, 0, 1, [text]), agent=text)
    journal.append(GearUsed("done", True, {text: [text, {text: (text,)}]}))
    journal.close()
    first, second = read(folder)
    assert isinstance(first.event, FilesChanged)
    safe = text.encode("utf-8", "backslashreplace").decode()
    assert (first.event.paths, first.agent) == ([safe], safe)
    assert isinstance(second.event, GearUsed)
    assert second.event.detail == {safe: [safe, {safe: [safe]}]}
    assert verify(folder).ok


@pytest.mark.parametrize("value", [10**30, -(10**30), {1: 2}, Path("/x"), b"\xff", {"a"}, object, float("nan")])
def test_a_value_that_json_cannot_hold_is_kept_in_a_form_that_it_can(folder: Path, value: object) -> None:
    journal = Journal.create(folder)
    journal.append(GearUsed("done", True, {"value": value}))
    journal.close()
    [record] = read(folder)
    assert record.event is not None
    assert verify(folder).ok


def test_a_value_that_is_nested_without_end_is_cut(folder: Path) -> None:
    value: list[Any] = []
    for _ in range(400):
        value = [value]
    journal = Journal.create(folder)
    journal.append(GearUsed("done", True, {"value": value}))
    journal.close()
    assert "nested too deeply" in str(next(read(folder)).raw)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (AgentTurn(1, "x" * 1_000_000, 0), "text"),
        (AgentTurn(1, "\x01" * 200_000, 0), "text"),
        (AgentTurn(1, "😀" * 100_000, 0), "text"),
        (FilesChanged("s", 0, 0, 0, 0, [f"path/{number}" for number in range(200_000)]), "paths"),
        (GearUsed("x", True, {f"key {number}": "v" * 100 for number in range(20_000)}), "detail"),
        (GearUsed("x", True, {"k" * 500_000: 1}), ""),
        (GearUsed("x", True, {"rows": [{"text": "y" * 70_000} for _ in range(50)]}), "detail.rows[].text"),
    ],
)
def test_an_event_that_is_too_long_is_cut_with_a_mark(folder: Path, event: Event, field: str) -> None:
    journal = Journal.create(folder)
    journal.append(event)
    journal.append(Sent(1))
    journal.close()
    first, _ = records = list(read(folder))
    assert max(len(line) for line in lines(folder)) <= LINE_BYTES
    assert type(first.event) is type(event)
    assert not field or first.raw["cut"][field] > 0
    assert len(records) == 2
    assert verify(folder).ok


def test_a_cut_text_keeps_its_head_and_tail_and_says_what_is_left_out(folder: Path) -> None:
    journal = Journal.create(folder)
    journal.append(AgentTurn(1, "begin" + "x" * 1_000_000 + "end", 0))
    journal.close()
    [record] = read(folder)
    assert isinstance(record.event, AgentTurn)
    assert record.event.text.startswith("beginxxx")
    assert record.event.text.endswith("xxxend")
    assert "characters left out" in record.event.text
    assert record.raw["cut"] == {"text": 1_000_008}


def test_a_type_that_is_not_known_is_kept_as_it_is(folder: Path) -> None:
    [head] = written(folder, 1)
    unknown = {"seq": 2, "time": 1.5, "boot": 2.5, "agent": "a", "type": "of_the_future", "more": [1], "prev": head}
    with (folder / "000001.jsonl").open("ab") as file:
        file.write(json.dumps(unknown, separators=(",", ":")).encode() + b"\n")
    record = list(read(folder))[1]
    assert (record.event, record.type, record.raw) == (None, "of_the_future", unknown)
    assert verify(folder).ok
    journal = Journal.reopen(folder)
    assert journal.append(Sent(1)) == 3
    journal.close()


def test_fields_of_another_version_do_not_hinder(folder: Path) -> None:
    folder.mkdir(parents=True)
    common = {"time": 1.0, "boot": 1.0, "agent": ""}
    older = {"seq": 1, **common, "type": "settled", "hold": 1, "account": "run", "amounts": {}, "prev": "0" * 64}
    newer = {"seq": 2, **common, "type": "sent", "hold": 1, "colour": "red", "prev": ""}
    lacking = {"seq": 3, **common, "type": "sent", "prev": ""}
    (folder / "000001.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (older, newer, lacking)))
    events = [record.event for record in read(folder)]
    assert events[0] is not None
    assert events[1:] == [Sent(1), None]


# --- one writer ------------------------------------------------------------------------------------------------------------


def test_a_folder_has_one_writer_and_its_lock_dies_with_it(folder: Path) -> None:
    journal = Journal.create(folder)
    journal.append(Sent(1))
    assert code_of(lambda: Journal.reopen(folder)) == "journal_locked"
    assert code_of(lambda: Journal.create(folder)) == "journal_locked"
    other = f"from pathlib import Path; from gearcase.journal import Journal; Journal.reopen(Path({str(folder)!r}))"
    tried = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert "another process writes the journal" in tried.stderr
    journal.close()
    assert code_of(lambda: Journal.create(folder)) == "journal_exists"
    again = Journal.reopen(folder)
    assert again.seq == 1
    again.close()
    again.close()
    assert code_of(lambda: again.append(Sent(1))) == "journal_closed"


def test_a_folder_without_a_journal_is_named(tmp_path: Path) -> None:
    for act in (Journal.reopen, read, verify):
        for empty in (tmp_path, tmp_path / "none"):
            assert code_of(lambda: act(empty)) == "no_journal"  # noqa: B023


def test_no_descriptor_stays_open(folder: Path) -> None:
    async def scenario() -> None:
        journal = Journal.create(folder, segment_bytes=500)
        for number in range(50):
            journal.append(Sent(number))
            if number % 7 == 0:
                await journal.durable()
        journal.close()

    before = sorted(os.listdir("/proc/self/fd"))
    asyncio.run(scenario())
    for act in (lambda: Journal.create(folder), lambda: Journal.reopen(folder.parent)):
        with pytest.raises(RunError):
            act()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_segments_are_one_chain(folder: Path) -> None:
    heads = written(folder, 60, segment_bytes=2_000)
    paths = sorted(folder.glob("*.jsonl"))
    assert len(paths) > 5
    assert all(path.stat().st_size <= 2_000 for path in paths)
    assert verify(folder, heads[-1]).records == 60
    journal = Journal.reopen(folder, segment_bytes=2_000)
    assert (journal.seq, journal.head, journal.repaired) == (60, heads[-1], "")
    assert journal.append(Sent(1)) == 61
    journal.close()
    assert verify(folder, journal.head).ok
    first_of_third = json.loads(paths[2].read_bytes().splitlines()[0])["seq"]
    paths[2].unlink()
    assert verify(folder).first_bad == first_of_third


# --- tampering -------------------------------------------------------------------------------------------------------------


def test_a_rewritten_end_is_found_by_the_head_that_one_holds(folder: Path) -> None:
    heads = written(folder, 20)
    kept = lines(folder)[:12]
    for path in folder.glob("*.jsonl"):
        path.unlink()
    (folder / "000001.jsonl").write_bytes(b"".join(kept))
    journal = Journal.reopen(folder)
    for number in range(8):
        journal.append(AgentTurn(number, "another story", 0), "lead")
    journal.close()
    assert verify(folder).ok
    assert verify(folder, heads[11]).ok
    assert not verify(folder, heads[12]).ok
    proof = verify(folder, heads[-1], 20)
    assert (proof.ok, proof.first_bad) == (False, 20)


@pytest.mark.parametrize("digits", [16, 40, 64])
def test_a_head_may_be_shortened(folder: Path, digits: int) -> None:
    heads = written(folder, 5)
    assert verify(folder, heads[2][:digits]).ok
    assert not verify(folder, "f" * digits).ok


@pytest.mark.parametrize("head", ["abc", "z" * 64, "A" * 64, "a" * 65])
def test_what_cannot_be_a_head_is_refused(folder: Path, head: str) -> None:
    written(folder, 1)
    with pytest.raises(UsageError):
        verify(folder, head)


# --- crashes ---------------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_cut_and_its_bytes_are_handed_out(folder: Path) -> None:
    heads = written(folder, 5)
    path = folder / "000001.jsonl"
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for kept in range(1, len(last)):
        torn = last[:kept]
        path.write_bytes(whole[: -len(last)] + torn)
        assert verify(folder).first_bad == 5
        assert len(list(read(folder))) == 4
        journal = Journal.reopen(folder)
        assert base64.b64decode(journal.repaired) == torn
        assert (journal.seq, journal.head) == (4, heads[3])
        assert journal.append(Sent(1)) == 5
        journal.close()
        assert verify(folder, journal.head).ok


def test_pages_that_never_reached_the_disk_are_cut(folder: Path) -> None:
    written(folder, 5)
    with (folder / "000001.jsonl").open("ab") as file:
        file.write(b'{"seq":6,' + bytes(9_000))
    journal = Journal.reopen(folder)
    assert base64.b64decode(journal.repaired) == b'{"seq":6,'
    journal.close()
    assert verify(folder).records == 5


def test_an_empty_last_segment_is_gone_on_with(folder: Path) -> None:
    written(folder, 5)
    (folder / "000002.jsonl").touch()
    journal = Journal.reopen(folder)
    assert journal.append(Sent(1)) == 6
    journal.close()
    assert verify(folder, journal.head).ok
    assert (folder / "000002.jsonl").stat().st_size > 0


@pytest.mark.parametrize("seq", [1, 7, 29])
def test_a_journal_that_was_tampered_with_is_not_gone_on_with(folder: Path, seq: int) -> None:
    written(folder, 30, segment_bytes=3_000)
    changed = lines(folder)
    changed[seq - 1] = changed[seq - 1].replace(b"turn", b"burn")
    rewrite(folder, changed)
    with pytest.raises(RunError) as caught:
        Journal.reopen(folder)
    assert (caught.value.code, caught.value.context["seq"]) == ("journal_damaged", seq)
    assert lines(folder) == changed


def test_a_torn_line_in_an_earlier_segment_is_damage(folder: Path) -> None:
    written(folder, 30, segment_bytes=3_000)
    path = folder / "000001.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert code_of(lambda: Journal.reopen(folder)) == "journal_damaged"


WRITER = """
import sys
from pathlib import Path
from gearcase.events import AgentTurn
from gearcase.journal import Journal
journal = Journal.create(Path(sys.argv[1]), segment_bytes=100_000)
for number in range(int(sys.argv[2])):
    journal.append(AgentTurn(number, "x" * 200, 0), "writer")
    if number % 10 == 9:
        journal.flush()
        print(number + 1, flush=True)
"""


def test_what_was_flushed_survives_a_kill(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder), "10000000"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while int(process.stdout.readline()) < 2_000:
            pass
        process.send_signal(signal.SIGKILL)
        told = process.stdout.read().split()
    journal = Journal.reopen(folder)
    assert journal.seq >= max(2_000, *(int(one) for one in told if one.isdigit() and len(one) < 9), 0)
    journal.append(Sent(1))
    journal.close()
    assert verify(folder, journal.head).ok


FULL = """
import resource, sys
from pathlib import Path
import gearcase.events
from gearcase.errors import RunError
from gearcase.events import AgentTurn
from gearcase.journal import Journal
journal = Journal.create(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
flushed = 0
try:
    while True:
        journal.append(AgentTurn(flushed, "x" * 300, 0))
        journal.flush()
        flushed += 1
except RunError as error:
    print(flushed, error.code, error.envelope())
for act in (journal.flush, lambda: journal.append(AgentTurn(0, "", 0)), journal.close):
    try:
        act()
        print("no error")
    except RunError as error:
        print(error.code)
"""


def test_a_full_disk_is_a_clear_error_and_nothing_before_it_is_lost(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, check=True)
    first, *after = done.stdout.splitlines()
    flushed, code, told = first.split(" ", 2)
    assert code == "journal_failed"
    assert "make room on that disk" in told
    assert after == ["journal_failed", "journal_failed", "no error"]
    journal = Journal.reopen(folder)
    assert journal.seq == int(flushed) > 50
    assert journal.repaired
    journal.append(Sent(1))
    journal.close()
    assert verify(folder, journal.head).ok


def test_a_sync_that_fails_is_told_to_all_who_wait_and_never_tried_again(folder: Path) -> None:
    async def scenario() -> None:
        journal = Journal.create(folder)
        journal.append(Sent(1))
        await journal.durable()
        journal.append(Sent(2))
        journal.flush()
        broken = next(
            fd for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(folder / "0"))
        )
        reading, writing = os.pipe()
        os.dup2(writing, int(broken))  # a pipe takes writes and cannot be synced
        outcomes = await asyncio.gather(*(journal.durable() for _ in range(5)), return_exceptions=True)
        assert [one.code for one in outcomes if isinstance(one, RunError)] == ["journal_failed"] * 5
        for act in (journal.flush, lambda: journal.append(Sent(3))):
            assert code_of(act) == "journal_failed"
        with pytest.raises(RunError):
            await journal.durable()
        journal.close()
        os.close(reading)
        os.close(writing)

    asyncio.run(scenario())
    assert len(list(read(folder))) == 2


# --- durability ------------------------------------------------------------------------------------------------------------


def test_many_who_wait_are_served_and_everything_is_on_record(folder: Path) -> None:
    async def scenario() -> str:
        journal = Journal.create(folder, segment_bytes=20_000)

        async def caller(number: int) -> None:
            for step in range(20):
                seq = journal.append(Sent(number * 100 + step), f"agent-{number}")
                await journal.durable()
                assert seq <= journal.seq

        await asyncio.gather(*(caller(number) for number in range(40)))
        journal.close()
        return journal.head

    head = asyncio.run(scenario())
    proof = verify(folder, head)
    assert (proof.ok, proof.records) == (True, 800)


def test_one_who_gives_up_waiting_does_not_disturb_the_others(folder: Path) -> None:
    async def scenario() -> None:
        journal = Journal.create(folder)
        journal.append(Sent(1))
        tasks = [asyncio.create_task(journal.durable()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert outcomes[1:] == [None, None]
        journal.close()

    asyncio.run(scenario())


def test_a_journal_outlives_the_event_loop_that_it_was_used_in(folder: Path) -> None:
    journal = Journal.create(folder)

    async def scenario() -> None:
        journal.append(Sent(1))
        await journal.durable()
        journal.append(Sent(2))

    asyncio.run(scenario())
    asyncio.run(scenario())
    journal.append(Sent(3))
    journal.close()
    assert len(list(read(folder))) == 5


def test_readers_see_a_record_after_the_loops_turn_without_a_flush(folder: Path) -> None:
    async def scenario() -> int:
        journal = Journal.create(folder)
        journal.append(Sent(1))
        await asyncio.sleep(0)
        seen = len(list(read(folder)))
        journal.close()
        return seen

    assert asyncio.run(scenario()) == 1


def test_clocks_are_unix_time_and_boot_time(folder: Path) -> None:
    import time

    before = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    written(folder, 1)
    [record] = read(folder)
    assert before[0] - 1e-5 <= record.time <= time.time() + 1e-5
    assert before[1] - 1e-5 <= record.boot <= time.clock_gettime(time.CLOCK_BOOTTIME) + 1e-5


# --- following -------------------------------------------------------------------------------------------------------------


async def take(records: AsyncIterator[Record], count: int) -> list[Record]:
    taken: list[Record] = []
    async with aclosing(records) as source:  # type: ignore[type-var]
        async for record in source:
            taken.append(record)
            if len(taken) == count:
                break
    return taken


def test_a_follower_sees_what_is_written_across_segments(folder: Path) -> None:
    async def scenario() -> list[int]:
        task = asyncio.create_task(take(follow(folder), 120))  # before there is a journal
        await asyncio.sleep(0.01)
        journal = Journal.create(folder, segment_bytes=1_500)
        for number in range(120):
            journal.append(NameAsked(f"name-{number}.example", "A", True, 1))
            await asyncio.sleep(0.001)
        seen = await asyncio.wait_for(task, 30)
        journal.close()
        return [record.seq for record in seen]

    assert asyncio.run(scenario()) == list(range(1, 121))


def test_a_follower_sees_what_another_process_writes(folder: Path) -> None:
    async def scenario() -> list[Record]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(folder), "3000", stdout=subprocess.DEVNULL
        )
        seen = await asyncio.wait_for(take(follow(folder, after=2_000), 1_000), 60)
        await process.wait()
        return seen

    seen = asyncio.run(scenario())
    assert [record.seq for record in seen] == list(range(2_001, 3_001))
    assert {record.agent for record in seen} == {"writer"}
    assert len(list(folder.glob("*.jsonl"))) > 5


def test_a_follower_waits_at_a_torn_line_and_goes_on_after_its_repair(folder: Path) -> None:
    written(folder, 3)
    with (folder / "000001.jsonl").open("ab") as file:
        file.write(b'{"seq":4,"time":1')

    async def scenario() -> list[Record]:
        task = asyncio.create_task(take(follow(folder), 4))
        await asyncio.sleep(0.12)
        assert not task.done()
        journal = Journal.reopen(folder)
        journal.append(Tick(1.0, 2.0, 3, 4, 5))
        journal.close()
        return await asyncio.wait_for(task, 30)

    seen = asyncio.run(scenario())
    assert seen[3].event == Tick(1.0, 2.0, 3, 4, 5)


def test_a_line_that_is_no_record_is_named_by_its_number(folder: Path) -> None:
    written(folder, 5)
    changed = lines(folder)
    changed[2] = b"garbage\n"
    rewrite(folder, changed)
    with pytest.raises(RunError) as caught:
        list(read(folder))
    assert (caught.value.code, caught.value.context["seq"]) == ("journal_damaged", 3)

    async def scenario() -> None:
        with pytest.raises(RunError):
            await take(follow(folder), 5)

    asyncio.run(scenario())
