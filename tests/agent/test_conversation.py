"""An agent's conversation is on disk as it goes, and another process goes on with it as a provider takes it."""

import json
import os

import pytest

from gearcase.agent.conversation import Conversation, answers, copy_lines, read_lines
from gearcase.agent.loop import Past
from gearcase.errors import RunError
from gearcase.events import Failure


class Killed(BaseException):
    """Stands for the end of the process: nothing is done after it."""


def past(stage, told=""):
    return Past(Conversation(stage.folder.parent / "conversation.jsonl", stage.recorder, "lead"), told)


def cut_off(stage, at, told=""):
    """The stage's agent, whose process ends when it begins its command number `at`."""
    real = stage.shell

    async def shell(command, timeout):
        if len(stage.commands) == at:
            raise Killed
        return await real(command, timeout)

    stage.shell = shell
    with pytest.raises(Killed):
        stage.play(past=past(stage, told))


def goes_on(play, stage, told="You go on."):
    other = play.Stage(stage.folder.parent / "other", protocol=stage.protocol)
    other.hands_in("done").play(past=past(stage, told))
    return other


def test_a_command_that_was_under_way_has_a_result_that_says_so_and_the_message_comes_after_it(play, any_stage):
    calls = [play.bash("echo two", id="c2"), play.bash("echo three", id="c3")]
    any_stage.said("I look.", calls=[play.bash("echo one")]).said("And on.", calls=calls)
    cut_off(any_stage, at=1)
    other = goes_on(play, any_stage)
    assert len(other.bodies) == 1
    text = other.bodies[0].decode()
    assert "Count the lines." in text and "I look." in text and "one\\n" in text
    assert "Whether it began, and how far it came, is not known" in text
    assert text.count("not run: the process that would have run this died before") == 1
    assert text.index("not run: the process") < text.index("You go on.")


def test_signed_thinking_goes_back_as_it_came(play, stage):
    thinking = {"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"}
    stage.said("I look.", calls=[play.bash("echo one")], extra=[thinking])
    cut_off(stage, at=0)
    assert thinking in goes_on(play, stage).body(0)["messages"][1]["content"]


def test_who_went_on_can_be_gone_on_for_again(play, stage):
    stage.said("first", calls=[play.bash("echo one")]).said("second", calls=[play.bash("echo two")])
    cut_off(stage, at=1)
    again = play.Stage(stage.folder.parent / "again")
    again.said("third", calls=[play.bash("echo three")])
    cut_off(again, at=0, told="It died once.")
    text = goes_on(play, stage, "It died twice.").bodies[0].decode()
    places = [text.index(part) for part in ("first", "second", "It died once.", "third", "It died twice.")]
    assert places == sorted(places)
    assert answers(read_lines(stage.folder.parent / "conversation.jsonl")) == 4


def test_what_is_told_before_an_agent_begins_does_not_shift_what_it_had_in_view(play, stage):
    stage.said("I look.", calls=[play.bash("echo one")])
    cut_off(stage, at=0)
    other = play.Stage(stage.folder.parent / "other")
    other.hands_in().play(past=past(stage, "You go on."), first="a note of a monitor")
    text = other.bodies[0].decode()
    assert text.index("Count the lines.") < text.index("a note of a monitor") < text.index("You go on.")


def test_a_torn_last_line_is_as_if_it_had_never_been_written(tmp_path, play):
    path = tmp_path / "conversation.jsonl"
    kept = Conversation(path, play.ListRecorder(), "lead")
    kept.keep({"kind": "told", "text": "Count.", "pinned": True})
    kept.keep({"kind": "asked", "status": "[left: $1]"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert [line["kind"] for line in read_lines(path)] == ["told"]
    copy_lines(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    assert os.stat(tmp_path / "copy").st_mode & 0o777 == os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", ['{"kind": "told", "text": "no pinned"}', '{"kind": "answer"}', "[]", "{", '{"kind": "else"}'])
def test_a_damaged_file_is_told_of_before_anything_is_begun(tmp_path, line):
    path = tmp_path / "conversation.jsonl"
    path.write_text(json.dumps({"format": "gearcase-conversation/1"}) + f"\n{line}\n")
    with pytest.raises(RunError) as caught:
        read_lines(path)
    assert caught.value.code == "conversation_unreadable"
    path.write_text('{"format": "gearcase-conversation/9"}\n')
    with pytest.raises(RunError):
        read_lines(path)


def test_where_nothing_more_can_be_written_what_is_there_stays_a_beginning_and_the_agent_goes_on(play, stage, monkeypatch):
    kept = past(stage)
    write, told = os.write, []

    def full(descriptor, data):
        if bytes(data[:40]).startswith(b'{"kind":"output"') and not told:
            told.append(write(descriptor, data[:10]))  # a part still fits
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    stage.said("I look.", calls=[play.bash("echo one")]).hands_in("whole")
    monkeypatch.setattr("gearcase.agent.conversation.os.write", full)
    assert stage.play(past=kept).reason == "done"
    assert [line["kind"] for line in read_lines(stage.folder.parent / "conversation.jsonl")] == ["told", "asked", "answer"]
    assert [event.error["code"] for event in stage.recorder.of(Failure)] == ["conversation_unwritten"]


def test_an_agent_without_a_past_keeps_nothing(play, stage):
    stage.hands_in().play()
    assert not (stage.folder.parent / "conversation.jsonl").exists()
