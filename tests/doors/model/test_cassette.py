"""Recording and playing back model traffic."""

import asyncio
import json
from dataclasses import replace

import pytest

from gearcase.doors.model.upstreams.cassette import Cassette, Recording
from gearcase.doors.model.upstreams.masking import mask
from gearcase.errors import RunError, UsageError
from gearcase.seams import UpstreamDown, UpstreamRequest, UpstreamResponse

SECRET = "sk-live-never-on-file"


class Numbering:
    """An upstream that answers with the number of the call, and fails as it is told."""

    def __init__(self, faults=None):
        self.faults = faults or {}
        self.requests = []

    async def send(self, request):
        self.requests.append(request)
        number = len(self.requests)
        if self.faults.get(number) == "down":
            raise UpstreamDown("no route")
        headers = {"content-type": "application/json", "retry-after": "3", "set-cookie": SECRET, "x-request-id": "r1"}
        return UpstreamResponse(429 if self.faults.get(number) == "busy" else 200, headers, self._chunks(number))

    async def _chunks(self, number):
        yield f'{{"answer": "{number} \u00e9'.encode()[:-1]  # cut inside a character
        if self.faults.get(number) == "break":
            raise ConnectionResetError("peer")
        yield b'\xa9", "usage": {"input_tokens": 7}}'

    async def close(self):
        return None


def call(
    messages,
    *,
    lead=True,
    ordinal=0,
    agent="lead",
    protocol="anthropic",
    model="anthropic/m",
    cap=100,
    stream=False,
    system="Be brief.",
    tool="",
):
    key = {"anthropic": "messages", "chat": "messages", "responses": "input"}[protocol]
    path = {"anthropic": "/v1/messages", "chat": "/v1/chat/completions", "responses": "/v1/responses"}[protocol]
    turns = [{"role": "user" if at % 2 == 0 else "assistant", "content": text} for at, text in enumerate(messages)]
    tools = {"tools": [{"name": "bash", "description": tool, "input_schema": {}}]} if tool else {}
    parsed = {"model": model, "max_tokens": cap, "system": system, **tools, key: turns}
    headers = {"authorization": f"Bearer {SECRET}"}
    return UpstreamRequest(protocol, path, model, headers, json.dumps(parsed).encode(), parsed, stream, agent, lead, ordinal)


async def send(upstream, request):
    response = await upstream.send(request)
    return response.status, [chunk async for chunk in response.chunks]


def exchange(upstream, *requests):
    async def all_of_them():
        return [await send(upstream, request) for request in requests]

    return asyncio.run(all_of_them())


def record(file, *requests, faults=None):
    upstream = Recording(Numbering(faults), file)
    answers = exchange(upstream, *requests)
    asyncio.run(upstream.close())
    return answers


def conversation(turns, clock="12:30:01"):
    texts = [f"turn {at} at {clock}, $0.12 left" for at in range(2 * turns)]
    return [call(texts[: 2 * at + 1], ordinal=at) for at in range(turns)]


def test_a_lead_gets_its_recorded_answers_byte_for_byte(tmp_path):
    answers = record(tmp_path / "a.cassette", *conversation(3))
    assert exchange(Cassette(tmp_path / "a.cassette", strict=True), *conversation(3)) == answers
    assert b"".join(answers[0][1]).decode() == '{"answer": "1 \u00e9", "usage": {"input_tokens": 7}}'


def test_how_long_to_wait_is_recorded_and_not_played(tmp_path):
    [(status, _)] = record(tmp_path / "a.cassette", call(["a"]), faults={1: "busy"})
    assert '"retry-after":"3"' in (tmp_path / "a.cassette").read_text()
    response = asyncio.run(Cassette(tmp_path / "a.cassette").send(call(["a"])))
    assert (response.status, dict(response.headers)) == (status, {"content-type": "application/json"})


def test_a_cassette_names_its_models_where_it_was_told_them(tmp_path):
    asyncio.run(Recording(Numbering(), tmp_path / "a.cassette", {"lead": "openai/gpt-5-mini"}).close())
    assert Cassette(tmp_path / "a.cassette").models == {"lead": "openai/gpt-5-mini"}
    asyncio.run(Recording(Numbering(), tmp_path / "b.cassette").close())
    assert Cassette(tmp_path / "b.cassette").models == {}


def test_times_and_money_may_differ_even_strictly(tmp_path):
    answers = record(tmp_path / "a.cassette", *conversation(3))
    cassette = Cassette(tmp_path / "a.cassette", strict=True)
    later = [
        call([m["content"].replace("$0.12", "$0.09") for m in c.parsed["messages"]], ordinal=c.ordinal)
        for c in conversation(3, "23:59:59")
    ]
    assert exchange(cassette, *later) == answers
    assert cassette.mismatched == 0


def test_the_instructions_of_another_version_are_no_difference(tmp_path):
    answers = record(tmp_path / "a.cassette", call(["a", "b"], tool="Run a command."))
    other = call(["a", "b"], system="Be brief, and know one more command.", tool="Run a command, for 300 s at most.")
    cassette = Cassette(tmp_path / "a.cassette", strict=True)
    assert exchange(cassette, other) == answers and cassette.mismatched == 0
    with pytest.raises(RunError):
        exchange(Cassette(tmp_path / "a.cassette", strict=True), call(["a", "c"], system="Be brief, and know one more command."))


def test_a_system_message_among_the_others_hides_no_difference(tmp_path):
    def asking(first):
        made = call([first, "b"])
        messages = [made.parsed["messages"][0], {"role": "system", "content": "go on"}, made.parsed["messages"][1]]
        parsed = {**made.parsed, "messages": messages}
        return replace(made, parsed=parsed, body=json.dumps(parsed).encode())

    record(tmp_path / "a.cassette", asking("a"))
    with pytest.raises(RunError):
        exchange(Cassette(tmp_path / "a.cassette", strict=True), asking("other"))


def test_strict_ends_the_run_and_names_the_first_differing_message(tmp_path):
    record(tmp_path / "a.cassette", call(["one\ntwo\nthree", "b", "c"]))
    with pytest.raises(RunError) as raised:
        exchange(Cassette(tmp_path / "a.cassette", strict=True), call(["one\n2\nthree", "b", "other"]))
    assert raised.value.code == "cassette_mismatch"
    assert "call 0 of agent 'lead': piece 2 of 4 (user) differs" in raised.value.message
    assert "-two" in raised.value.cause
    assert "+2" in raised.value.cause
    assert "other" not in raised.value.cause
    assert raised.value.remedy


def test_loose_plays_on_and_counts(tmp_path):
    answers = record(tmp_path / "a.cassette", call(["a"]), call(["a", "b", "c"], ordinal=1))
    cassette = Cassette(tmp_path / "a.cassette")
    assert exchange(cassette, call(["a"]), call(["a", "b", "changed"], ordinal=1)) == answers
    assert cassette.mismatched == 1
    [mismatch] = cassette.mismatches
    assert (mismatch.agent, mismatch.ordinal) == ("lead", 1)
    assert "+" in mismatch.difference


def test_a_message_more_or_less_is_a_mismatch(tmp_path):
    record(tmp_path / "a.cassette", call(["a", "b", "c"]), call(["a"], ordinal=1))
    cassette = Cassette(tmp_path / "a.cassette")
    exchange(cassette, call(["a"]), call(["a", "b", "c"], ordinal=1))
    assert ["(no further message)" in mismatch.difference for mismatch in cassette.mismatches] == [True, True]


@pytest.mark.parametrize("strict", [True, False])
def test_a_call_that_is_not_on_the_cassette_never_goes_elsewhere(tmp_path, strict):
    record(tmp_path / "a.cassette", call(["a"]))
    cassette = Cassette(tmp_path / "a.cassette", strict)
    exchange(cassette, call(["a"]))
    with pytest.raises(RunError, match=r"has 0 calls|none with ordinal 1"):
        exchange(cassette, call(["a", "b", "c"], ordinal=1))
    with pytest.raises(RunError, match="no recorded call has this content"):
        exchange(cassette, call(["x"], lead=False))


def test_programs_are_matched_by_content_and_equal_calls_in_order(tmp_path):
    requests = [call([text], lead=False, ordinal=at) for at, text in enumerate(["a", "b", "a", "a"])]
    answers = record(tmp_path / "a.cassette", *requests)
    replayed = exchange(
        Cassette(tmp_path / "a.cassette"),
        *(call([text], lead=False, agent="other", cap=5, model="cassette:x", ordinal=9) for text in ["a", "a", "b", "a"]),
    )
    assert replayed == [answers[0], answers[2], answers[1], answers[3]]


def test_programs_that_ask_the_same_but_for_an_amount_are_told_apart(tmp_path):
    answers = record(tmp_path / "a.cassette", call(["pay $1.50"], lead=False), call(["pay $2.50"], lead=False))
    cassette = Cassette(tmp_path / "a.cassette")
    assert exchange(cassette, call(["pay $2.50"], lead=False), call(["pay $1.50"], lead=False)) == answers[::-1]


def test_a_stream_and_a_whole_answer_are_not_the_same_call(tmp_path):
    record(tmp_path / "a.cassette", call(["a"], lead=False))
    with pytest.raises(RunError):
        exchange(Cassette(tmp_path / "a.cassette"), call(["a"], lead=False, stream=True))


def test_the_nearest_recorded_call_shows_what_a_program_asked_differently(tmp_path):
    record(tmp_path / "a.cassette", call(["other"], lead=False), call(["a", "b", "see line 1"], lead=False))
    with pytest.raises(RunError) as raised:
        exchange(Cassette(tmp_path / "a.cassette"), call(["a", "b", "see line 2"], lead=False))
    assert "-" in raised.value.cause
    assert "see line 1" in raised.value.cause
    assert "see line 2" in raised.value.cause


def test_faults_are_recorded_and_played_back(tmp_path):
    file = tmp_path / "a.cassette"
    upstream = Recording(Numbering({1: "down", 2: "busy", 3: "break"}), file)
    requests = conversation(3)
    with pytest.raises(UpstreamDown):
        exchange(upstream, requests[0])
    busy = exchange(upstream, requests[1])
    with pytest.raises(ConnectionResetError):
        exchange(upstream, requests[2])
    asyncio.run(upstream.close())
    cassette = Cassette(file)
    with pytest.raises(UpstreamDown, match="no route"):
        exchange(cassette, requests[0])
    assert exchange(cassette, requests[1]) == busy
    assert busy[0][0] == 429
    with pytest.raises(ConnectionResetError, match="as recorded"):
        exchange(cassette, requests[2])


def test_the_cassette_holds_no_credential_and_is_its_owners_alone(tmp_path):
    file = tmp_path / "a.cassette"
    record(file, *conversation(2))
    assert SECRET not in file.read_text()
    assert "r1" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_cassette_does_not_repeat_the_history_at_each_call(tmp_path):
    file = tmp_path / "a.cassette"
    requests = [call(["x" * 1000 + str(number) for number in range(2 * at + 1)], ordinal=at) for at in range(50)]
    record(file, *requests)
    assert sum(len(request.body) for request in requests) > 2_000_000
    assert file.stat().st_size < 200_000
    assert max(line["same"] for line in map(json.loads, file.read_text().splitlines()[1:])) == 98


def test_the_marks_of_the_cache_are_not_part_of_a_message(tmp_path):
    def marked(mark):
        request = call(["a"])
        block = {"type": "text", "text": "a"} | ({"cache_control": {"type": "ephemeral"}} if mark else {})
        request.parsed["messages"][0]["content"] = [block]
        return request

    record(tmp_path / "a.cassette", marked(True))
    exchange(Cassette(tmp_path / "a.cassette", strict=True), marked(False))


def test_it_says_what_was_recorded_and_what_was_not_played(tmp_path):
    record(tmp_path / "a.cassette", *conversation(2), call(["w"], lead=False))
    cassette = Cassette(tmp_path / "a.cassette")
    assert cassette.lead == ("anthropic", "anthropic/m")
    exchange(cassette, conversation(1)[0])
    assert cassette.unplayed() == 2


def test_another_protocol_than_the_recorded_one_is_named(tmp_path):
    record(tmp_path / "a.cassette", call(["a"]))
    with pytest.raises(RunError, match="was recorded on /v1/messages and is asked on /v1/responses"):
        exchange(Cassette(tmp_path / "a.cassette"), call(["a"], protocol="responses"))


def test_the_upstreams_of_a_run_share_one_cassette(tmp_path):
    file = tmp_path / "a.cassette"
    lead, worker = Recording(Numbering(), file), Recording(Numbering({1: "busy"}), file)
    lead_call, worker_call = call(["a"]), call(["b"], lead=False, model="openai/w", protocol="chat")
    answers = [*exchange(lead, lead_call), *exchange(worker, worker_call)]
    asyncio.run(lead.close())
    answers += exchange(worker, worker_call)
    for recording in (worker, worker, lead):
        asyncio.run(recording.close())
    assert exchange(Cassette(file, strict=True), lead_call, worker_call, worker_call) == answers
    assert [status for status, _ in answers] == [200, 429, 200]
    with pytest.raises(UsageError):
        Recording(Numbering(), file)


def test_a_mismatch_reads_as_a_sentence(tmp_path):
    record(tmp_path / "a.cassette", call(["a"]))
    cassette = Cassette(tmp_path / "a.cassette")
    exchange(cassette, call(["b"]))
    assert str(cassette.mismatches[0]) == "call 0 of agent 'lead': piece 2 of 2 (user) differs"


def test_recording_never_writes_over_a_file(tmp_path):
    (tmp_path / "a.cassette").write_text("mine")
    with pytest.raises(UsageError) as raised:
        Recording(Numbering(), tmp_path / "a.cassette")
    assert raised.value.code == "cassette_unwritable"
    assert (tmp_path / "a.cassette").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json\n",
        b"[]\n",
        b'{"cassette": "2.0"}\n',
        b'{"cassette": "1.0"}\n{"key": "x"}\n',
        b'{"cassette": "1.0"}\nx\n',
        b"\xff\n",
    ],
)
def test_a_file_that_is_no_cassette_is_named_with_its_line(tmp_path, content):
    (tmp_path / "a.cassette").write_bytes(content)
    with pytest.raises(UsageError, match=r"line [12] of"):
        Cassette(tmp_path / "a.cassette")


def test_a_cassette_that_is_missing_is_a_clear_error(tmp_path):
    with pytest.raises(UsageError) as raised:
        Cassette(tmp_path / "none.cassette")
    assert raised.value.code == "no_cassette"


def test_a_last_line_that_was_being_written_is_left_out(tmp_path):
    file = tmp_path / "a.cassette"
    answers = record(file, *conversation(2))
    file.write_bytes(file.read_bytes()[:-20])
    cassette = Cassette(file)
    assert exchange(cassette, conversation(1)[0]) == answers[:1]
    assert cassette.unplayed() == 0


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at 2026-11-23T09:11:39.123Z or 09:11", "at <time> or <time>"),
        ("[exit 0, 1.2 s] [exit 0, 480 ms] 44m 59s", "[exit 0, <time>] [exit 0, <time>] <time>"),
        ("$0.0123 of $2.00", "<money> of <money>"),
        ("$2.27 of $4.00 ($1.39 set aside for agents and repairs), 3 left", "<money> of <money>, 3 left"),
        ("toolu_01AbC and call_9 and 123e4567-e89b-12d3-a456-426614174000", "<id> and <id> and <id>"),
        ("see /tmp/tmpx1/a.txt, /etc", "see <path>, /etc"),
        ("at 0x7f5a12345678 or deadbeef01", "at <hex> or <hex>"),
        ("3 rows, 42 of 1000000 and/or facade", "3 rows, 42 of 1000000 and/or facade"),
        ("A" * 80, "<opaque>"),
    ],
)
def test_what_is_incidental_is_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize("unit", ["/a", "a-", "1:", "0", "deadbeef ", "$1,", "call_", "A/", "12:34:", "/", "2026-01-01T"])
def test_masking_hostile_text_takes_one_pass(unit):
    assert len(mask(unit * (1_000_000 // len(unit)))) <= 6_000_000
