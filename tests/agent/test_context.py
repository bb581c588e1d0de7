"""The context stays inside its window, and every request that it yields is one that a provider takes."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.agent.archive import Archive
from gearcase.agent.context import Context
from gearcase.agent.dialects import DIALECTS
from gearcase.agent.transcript import Model, Ran, Tokens
from gearcase.errors import Refused
from gearcase.events import ContextCompacted

PROTOCOLS = ("anthropic", "chat", "responses")
SIGNED = {
    "anthropic": [{"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"}],
    "chat": [{"reasoning_content": "hm"}],
    "responses": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "b3BhcXVl"}],
}


class Session:
    """A context that is driven as the loop drives it, without a loop."""

    def __init__(self, play, protocol, window=100_000, earlier=()):
        self.play, self.protocol, self.window = play, protocol, window
        self.files = {}
        self.lines = []  # as they stand in the file of a conversation
        self.recorder = play.ListRecorder()
        archive = Archive(self.keep, self.recorder, "lead")
        self.context = Context("You work in a box.", window, archive, self.recorder, "lead", self.log)
        self.number = 0
        if earlier:
            self.context.take_up(map(json.loads, earlier))
        else:
            self.context.tell("The goal.", pinned=True)

    def log(self, line):
        self.lines.append(json.dumps(line))

    def keep(self, name, content):
        self.files[f"/box/{name}"] = content
        return f"/box/{name}"

    def request(self):
        self.context.begin("[left: $1]")
        model = Model("m", self.protocol, self.window, 1000)
        return DIALECTS[self.protocol].request(model, "You work in a box.", self.context.messages(), 1000)

    def answer(self, outputs, text="I think.", thinking=True, reported=None):
        """One turn: request, answer with a call per output, results."""
        body = self.request()
        self.number += 1
        calls = [self.play.bash("true", id=f"c{self.number}_{at}") for at in range(len(outputs))]
        extra = SIGNED[self.protocol] if thinking else ()
        raw = self.play.answer(self.protocol, text, calls=calls, extra=extra)
        said = DIALECTS[self.protocol].parse(raw).said
        self.context.add(said)
        self.context.report(Tokens(len(body) // 4 if reported is None else reported, 50))
        for call, size in zip(said.calls, outputs, strict=True):
            self.context.add(Ran(call.id, "x" * size))
        if not outputs:
            self.context.tell("Call bash.")
        return body


TURNS = st.lists(
    st.one_of(
        st.tuples(
            st.just("answer"), st.lists(st.integers(0, 6000), max_size=4), st.sampled_from(["", " ", "I think."]), st.booleans()
        ),
        st.tuples(st.just("drop"), st.lists(st.integers(1, 60), max_size=4)),
        st.tuples(st.just("note"), st.text(min_size=1, max_size=50)),
        st.tuples(st.just("tell"), st.text(max_size=50)),
        st.tuples(st.just("compact"), st.floats(0.0, 1.0)),
        st.tuples(st.just("too_long")),
    ),
    max_size=40,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=150, deadline=None)
@given(turns=TURNS, share=st.floats(0.0, 1.0))
def test_whatever_is_dropped_a_request_stays_valid_and_keeps_goal_and_notes(play, protocol, turns, share):
    """And from its lines another process has the same in view; cut off after any of them, what it asks is valid, too."""
    session = Session(play, protocol, window=12_000)
    notes = []
    for turn in turns:
        match turn:
            case ("answer", outputs, text, thinking):
                play.check_pairing(protocol, session.answer(outputs, text, thinking))
            case ("drop", ids):
                try:
                    session.context.drop(ids)
                except Refused as refused:
                    assert refused.code == "context_stays"
            case ("note", text):
                if text.strip():
                    notes.append(session.context.note(text)["id"])
            case ("tell", text):
                session.context.tell(f"[{text}]")
            case ("compact", share):
                session.request()
                session.context.compact(share)
            case _:
                session.request()
                session.context.too_long()
    body = session.request()
    play.check_pairing(protocol, body)
    assert "The goal." in body.decode()
    shown = {row["id"] for row in session.context.show()["messages"]}
    assert shown.issuperset(notes)
    texts = [file for file in session.files if file.endswith(".txt")]
    assert len(texts) == len(session.files) // 2
    assert _native_blocks(protocol, body) <= {json.dumps(block, sort_keys=True) for block in SIGNED[protocol]}

    heir = Session(play, protocol, session.window, session.lines)
    assert heir.context.messages() == session.context.messages()
    assert heir.files == session.files and heir.lines == []
    cut = Session(play, protocol, session.window, session.lines[: max(1, round(share * len(session.lines)))])
    for call in cut.context.unanswered():
        cut.context.add(Ran(call.id, "no result", failed=True))
    cut.context.tell("You go on.")
    play.check_pairing(protocol, cut.request())


def _native_blocks(protocol, body):
    """Every signed block of a request, as it is sent."""
    parsed = json.loads(body)
    if protocol == "anthropic":
        found = [block for turn in parsed["messages"] for block in turn["content"] if block["type"] == "thinking"]
    elif protocol == "chat":
        found = [{"reasoning_content": turn["reasoning_content"]} for turn in parsed["messages"] if "reasoning_content" in turn]
    else:
        found = [item for item in parsed["input"] if item.get("type") == "reasoning"]
    return {json.dumps(block, sort_keys=True) for block in found}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_compaction_leaves_out_old_outputs_first_and_names_their_files(play, protocol):
    session = Session(play, protocol)
    for _ in range(10):
        session.answer([2000])
    session.request()
    before = session.context.tokens
    session.context.compact((before - 600) / session.window)
    body = session.request().decode()
    assert body.count("characters left out of view to save room; whole in /box/history/00002.txt") == 1
    assert body.count("out of view; whole in /box/history]") == 0
    assert b"--- output 3 ---\n" + b"x" * 2000 in session.files["/box/history/00002.txt"]
    [event] = session.recorder.of(ContextCompacted)
    assert event == ContextCompacted(2, before, event.tokens_after, "/box/history")


def test_compaction_keeps_the_last_turns_for_last(play):
    session = Session(play, "anthropic")
    for _ in range(12):
        session.answer([2000], text="old or new")
    session.request()
    session.context.compact(6 * 700 / session.window)
    kept = [row for row in session.context.show()["messages"] if row["kind"] == "output"]
    assert [row["left_out"] for row in kept[-6:]] == [False] * 6
    assert all(row["left_out"] for row in kept[:-6])


def test_compaction_to_nothing_still_keeps_goal_notes_and_the_last_turn(play):
    session = Session(play, "anthropic")
    for _ in range(8):
        session.answer([2000])
    session.context.note("the key is in column 3")
    session.request()
    session.context.compact(0.0)
    body = session.request()
    play.check_pairing("anthropic", body)
    texts = body.decode()
    assert "The goal." in texts
    assert "[note] the key is in column 3" in texts
    assert "14 earlier messages are out of view" in texts
    assert texts.count('"type":"tool_use"') == 1


def test_tokens_are_the_providers_where_it_reported_them(play):
    session = Session(play, "anthropic")
    session.answer([4000], reported=900)
    assert session.context.tokens == pytest.approx(900 + 50 + 1004, abs=3)
    session.answer([], reported=2500)
    assert session.context.tokens == pytest.approx(2500 + 50, abs=3)


def test_thinking_that_the_provider_no_longer_counts_is_believed(play):
    session = Session(play, "anthropic")
    session.answer([400], reported=200)
    session.answer([400], reported=280)
    session.answer([], reported=290)
    assert session.context.tokens == 290 + 50


def test_a_report_of_next_to_nothing_is_not_believed(play):
    session = Session(play, "chat")
    session.answer([40_000], reported=100)
    session.answer([], reported=3)
    assert session.context.tokens > 10_000


def test_show_lists_what_is_in_view(play):
    session = Session(play, "anthropic")
    session.answer([500])
    shown = asyncio.run(session.context.operation("lead", {"action": "show"}))
    assert shown["window"] == 100_000
    assert shown["tokens"] == session.context.tokens
    assert [(row["id"], row["kind"], row["stays"]) for row in shown["messages"]] == [
        (1, "told", True),
        (2, "answer", False),
        (3, "output", False),
    ]
    assert shown["messages"][1]["start"] == "I think. $ true"


def test_drop_takes_an_output_or_a_whole_turn_out_of_view(play):
    session = Session(play, "anthropic")
    session.answer([2000])
    session.answer([2000, 2000])
    session.answer([10])
    dropped = asyncio.run(session.context.operation("lead", {"action": "drop", "ids": ["3", 4]}))
    assert dropped["dropped"] == 4
    assert dropped["tokens"] < dropped["tokens_before"] - 1200
    body = session.request()
    play.check_pairing("anthropic", body)
    assert "left out of view to save room; whole in /box/history/00002.txt" in body.decode()
    assert "3 earlier messages are out of view" in body.decode()


@pytest.mark.parametrize("id", [1, 5, 99])
def test_goal_running_turn_and_unknown_ids_are_refused_and_nothing_changes(play, id):
    session = Session(play, "anthropic")
    session.answer([2000])
    session.answer([2000])
    before = session.context.show()
    with pytest.raises(Refused) as refused:
        session.context.drop([3, id])
    assert refused.value.context == {"id": id}
    assert session.context.show() == before


@pytest.mark.parametrize(
    "arguments",
    [{"action": "eat"}, {"action": "drop"}, {"action": "drop", "ids": ["x"]}, {"action": "drop", "ids": 3}, {"action": "note"}],
)
def test_wrong_arguments_of_gear_context_are_refused_with_a_remedy(play, arguments):
    with pytest.raises(Refused) as refused:
        asyncio.run(Session(play, "chat").context.operation("lead", arguments))
    assert refused.value.remedy


def test_a_note_is_in_view_from_the_next_request_on(play):
    session = Session(play, "responses")
    session.answer([10])
    session.context.note("remember this")
    assert "remember this" in session.request().decode()
