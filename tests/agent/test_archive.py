"""What a conversation leaves in the box, within the room that /box has."""

from gearcase.agent.archive import MOST_OUTPUTS, NOT_KEPT, Archive
from gearcase.agent.transcript import Call, Ran, Said, Told
from gearcase.errors import RunError
from gearcase.events import Failure


def test_the_oldest_outputs_make_room_for_newer_ones_and_say_so(play):
    files = {}

    def keep(name, content):
        files[name] = content
        return f"/box/{name}"

    archive = Archive(keep, play.ListRecorder(), "lead")
    paths = [archive.output(bytes([65 + number]) * (MOST_OUTPUTS // 4)) for number in range(6)]
    assert paths[0] == "/box/outputs/0001.txt"
    assert [files[f"outputs/{number:04d}.txt"][:9] for number in (1, 2, 3)] == [b"[this out", b"[this out", b"CCCCCCCCC"]
    assert sum(len(content) for content in files.values()) < MOST_OUTPUTS + 200


def test_an_output_larger_than_the_room_is_kept_alone(play):
    archive = Archive(lambda name, content: f"/box/{name}", play.ListRecorder(), "lead")
    assert archive.output(b"x" * (MOST_OUTPUTS + 1)) == "/box/outputs/0001.txt"


def test_messages_that_belong_together_share_a_file():
    files = {}
    archive = Archive(lambda name, content: files.setdefault(name, content) and name, None, "lead")
    said = Said("I look.", (Call("c", "bash", {"command": "ls"}), Call("d", "bash", None, "not JSON")))
    archive.history([(7, said), (8, Ran("c", "a\ud800")), (9, Told("note"))])
    assert files["history/00007.txt"].decode() == (
        "--- answer 7 ---\nI look.\n$ ls\n$ not JSON\n\n--- output 8 ---\na?\n\n--- told 9 ---\nnote\n"
    )
    assert files["history/00007.jsonl"].count(b"\n") == 3


def test_what_cannot_be_kept_is_put_on_record_once(play):
    def full(name, content):
        raise RunError("no_space", "/box is full", remedy="none inside")

    recorder = play.ListRecorder()
    archive = Archive(full, recorder, "lead")
    assert [archive.output(b"x"), archive.history([(1, Told("goal"))])] == [NOT_KEPT, NOT_KEPT]
    assert len(recorder.of(Failure)) == 1
