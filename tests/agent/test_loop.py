"""Whole agents against a scripted model and a real shell."""

import asyncio
import json
import time

import pytest

from gearcase.agent.loop import LAST_TURNS, NUDGES
from gearcase.doors.server import Reply
from gearcase.errors import RunError
from gearcase.events import AgentEnded, AgentStarted, AgentTurn, AttemptFailed, ContextCompacted, Failure


def test_a_command_is_run_its_output_told_and_gear_done_ends_the_agent(any_stage, play):
    any_stage.said("I look.", calls=[play.bash("printf 'a\\nb\\n' > two.txt; wc -l < two.txt")]).hands_in("two lines")
    end = any_stage.play()
    assert (end.reason, end.note) == ("done", "two lines")
    [result] = any_stage.last_results(1)
    assert result.startswith("2\n[exit 0, ")
    assert result.endswith("[left: $1.00, turn 2]")
    assert any_stage.recorder.of(AgentStarted) == [AgentStarted("a-model", "Count the lines.")]
    assert any_stage.recorder.of(AgentTurn)[0] == AgentTurn(1, "I look.", 1)
    assert [event.reason for event in any_stage.recorder.of(AgentEnded)] == ["done"]


def test_each_turn_tells_what_is_left_and_never_changes_what_was_told(any_stage, play):
    for number in range(3):
        any_stage.said(calls=[play.bash(f"echo {number}", id=f"c{number}")])
    any_stage.hands_in().play()
    texts = [body.decode() for body in any_stage.bodies]
    for turn, text in enumerate(texts, 1):
        assert [f"turn {number}]" in text for number in range(1, 6)] == [number <= turn for number in range(1, 6)]


def test_what_follows_gear_done_in_the_same_answer_is_not_run(any_stage, play):
    any_stage.said(calls=[play.bash("echo a", "c1"), play.bash("gear done --note x", "c2"), play.bash("touch late", "c3")])
    assert any_stage.play().reason == "done"
    assert len(any_stage.commands) == 2
    assert "--- output 5 ---\nnot run: the agent has ended" in any_stage.kept("history/00002.txt")


def test_ten_calls_at_once_run_in_order_and_each_is_answered(any_stage, play):
    calls = [play.bash(f"echo {number} >> order; cat order | wc -l", id=f"c{number}") for number in range(10)]
    any_stage.said(calls=calls).hands_in()
    assert any_stage.play().reason == "done"
    results = any_stage.last_results(1)
    assert [result.split("\n")[0] for result in results] == [str(number) for number in range(1, 11)]


def test_ten_long_outputs_at_once_share_the_room(stage, play):
    stage.said(calls=[play.bash("seq 1 20000", id=f"c{number}") for number in range(10)]).hands_in()
    stage.play()
    assert sum(len(result) for result in stage.last_results(1)) < 60_000


def test_an_answer_without_a_command_is_nudged_and_may_recover(any_stage):
    any_stage.said("Done!").said("Really done.").hands_in()
    assert any_stage.play().reason == "done"
    assert b"called no tool" in any_stage.bodies[1]


def test_four_answers_in_a_row_without_a_command_are_a_failure(any_stage, play):
    any_stage.said("hm").said(calls=[play.bash("true")])
    for number in range(NUDGES + 1):
        any_stage.said(f"I think {number}")
    end = any_stage.play()
    assert end.reason == "failed"
    assert "I think 3" in end.detail
    assert len(any_stage.bodies) == 2 + NUDGES + 1


def test_empty_answers_are_nudged_too(any_stage):
    for _ in range(NUDGES):
        any_stage.said("")
    assert any_stage.hands_in().play().reason == "done"


def test_an_answer_cut_off_at_the_output_limit_is_told_so(any_stage):
    any_stage.said("I will now write a very long", stop="length").hands_in()
    assert any_stage.play().reason == "done"
    assert b"cut off at the output limit" in any_stage.bodies[1]


def test_a_call_that_was_cut_off_is_not_run_but_those_before_it_are(any_stage, play):
    any_stage.said(calls=[play.bash("touch one", "c1"), play.bash("rm -rf dat", "c2")], stop="length").hands_in()
    any_stage.play()
    first, second = any_stage.last_results(1)
    assert first.startswith("[exit 0")
    assert second.startswith("not run: the answer was cut off")
    assert [command for command, _ in any_stage.commands[:2]] == ["touch one", any_stage.commands[1][0]]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ({"name": "bash", "arguments": {}}, '"command" must be a text'),
        ({"name": "bash", "arguments": {"command": 5}}, '"command" must be a text'),
        ({"name": "bash", "arguments": {"command": "  "}}, '"command" must be a text'),
        ({"name": "bash", "arguments": {"command": "a\0b"}}, "NUL"),
        ({"name": "bash", "arguments": {"command": "true", "timeout": "soon"}}, '"timeout" must be a number'),
        ({"name": "bash", "arguments": {"command": "true", "timeout": -1}}, '"timeout" must be a number'),
        ({"name": "bash", "arguments": {"command": "true", "timeout": True}}, '"timeout" must be a number'),
        ({"name": "bash", "arguments": {"command": "x" * 200_000}}, "over 100000 bytes"),
        ({"name": "python", "arguments": {"code": "1"}}, "there is no tool 'python'"),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_wrong(any_stage, call, complaint):
    any_stage.said(calls=[{"id": "c1", **call}]).hands_in()
    assert any_stage.play().reason == "done"
    [result] = any_stage.last_results(1)
    assert result.startswith("not run: ")
    assert complaint in result
    assert len(any_stage.bodies[1]) < 80_000


@pytest.mark.parametrize("protocol", ["chat", "responses"])
@pytest.mark.parametrize("arguments", ['{"command": "ls', "[1]", "NaN", "[" * 5000, '{"command": "true", "timeout": Infinity}'])
def test_arguments_that_are_no_json_object_are_answered_and_sent_back_as_one(tmp_path, play, protocol, arguments):
    stage = play.Stage(tmp_path / "s", protocol=protocol)
    stage.said(calls=[{"id": "c1", "name": "bash", "arguments": arguments}]).hands_in()
    assert stage.play().reason == "done"
    assert stage.last_results(1)[0].startswith("not run: the arguments are not")


def test_ids_that_a_server_left_out_or_used_twice_are_made_unique(tmp_path, play):
    stage = play.Stage(tmp_path / "s", protocol="chat")
    stage.said(calls=[play.bash("echo a", ""), play.bash("echo b", "x"), play.bash("echo c", "x")]).hands_in()
    assert stage.play().reason == "done"
    assert [result[0] for result in stage.last_results(1)] == ["a", "b", "c"]


def test_a_megabyte_of_text_is_kept_capped(any_stage):
    any_stage.said("word " * 200_000).hands_in()
    assert any_stage.play().reason == "done"
    assert len(any_stage.bodies[1]) < 60_000
    assert b"characters left out" in any_stage.bodies[1]
    assert len(any_stage.recorder.of(AgentTurn)[0].text) < 10_000


def test_a_long_output_shows_head_and_tail_and_names_the_file_with_the_whole(any_stage, play):
    any_stage.said(calls=[play.bash("seq 1 15000")]).hands_in()
    any_stage.play()
    [result] = any_stage.last_results(1)
    assert result.startswith("1\n2\n")
    assert "\n15000\n[exit 0, " in result
    assert "whole output in /box/outputs/0001.txt]" in result
    assert any_stage.kept("outputs/0001.txt") == "".join(f"{number}\n" for number in range(1, 15001))


def test_a_command_over_its_timeout_is_killed_and_named(any_stage, play):
    any_stage.said(calls=[play.bash("echo before; exec sleep 60", timeout=1)]).hands_in()
    any_stage.play()
    assert any_stage.last_results(1)[0].startswith("before\n[killed at its timeout")
    assert any_stage.commands[0][1] == 1.0


def test_a_command_that_is_killed_or_fails_says_how(stage, play):
    stage.said(calls=[play.bash("exit 3", "c1"), play.bash("kill -9 $$", "c2")]).hands_in()
    stage.play()
    first, second = stage.last_results(1)
    assert first.startswith("[exit 3, ")
    assert second.startswith("[exit 137")


# --- the upstream -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_a_fault_that_may_pass_is_waited_out(any_stage, play, status):
    any_stage.script += [play.error(status, "busy"), play.error(status, "busy")]
    assert any_stage.hands_in().play().reason == "done"
    assert [0.7 < any_stage.sleeps[0] < 1.3, 1.4 < any_stage.sleeps[1] < 2.6] == [True, True]
    assert len(set(any_stage.bodies)) == 1


def test_the_wait_that_the_other_side_asks_for_is_kept(stage, play):
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    stage.script += [
        play.error(429, Retry_After="7"),
        play.error(429, retry_after_ms="1500"),
        play.error(503, retry_after=later),
        play.error(429, retry_after="86400"),
        play.error(429, retry_after="nonsense"),
    ]
    assert stage.hands_in().play().reason == "done"
    assert stage.sleeps[:2] == [7.0, 1.5]
    assert 90 < stage.sleeps[2] <= 100
    assert stage.sleeps[3] == 300
    assert 10 < stage.sleeps[4] < 21


def test_a_provider_that_stays_down_is_a_failure_with_its_cause(any_stage, play):
    any_stage.script += [play.error(529, "Overloaded", "overloaded_error") for _ in range(8)]
    end = any_stage.play()
    assert end.reason == "failed"
    assert "8 attempts failed" in end.detail
    assert "status 529: overloaded_error Overloaded" in end.detail
    assert "try again later" in end.detail
    assert len(any_stage.sleeps) == 7
    assert sum(any_stage.sleeps) < 200


def unreached(play):
    return play.error(
        502, "the upstream of x failed: http://x.invalid/v1 cannot be reached: no such name", X_Gearcase_Unreached="1"
    )


def test_what_cannot_be_reached_is_told_with_each_attempt_and_soon_given_up_where_it_never_answered(any_stage, play):
    any_stage.script += [unreached(play) for _ in range(5)]
    before = time.time()
    end = any_stage.play()
    assert end.reason == "failed" and end.error.code == "model_unanswered"
    assert "http://x.invalid/v1 cannot be reached: no such name" in end.error.message and "Remedy" not in end.error.message
    assert "nothing is charged" in end.error.remedy and "start it again" in end.error.remedy
    told = any_stage.recorder.of(AttemptFailed)
    assert [(one.attempt, one.attempts, one.unreached) for one in told] == [(at, 5, True) for at in range(1, 5)]
    assert told[0].why == "http://x.invalid/v1 cannot be reached: no such name"
    assert [one.wait for one in told] == [round(slept, 3) for slept in any_stage.sleeps] and sum(any_stage.sleeps) < 20
    assert before + 14 < told[0].until < time.time() + 16


def test_one_that_has_answered_before_is_given_the_time_of_a_network_that_comes_back(any_stage, play):
    any_stage.said(calls=[play.bash("true")])
    any_stage.script += [unreached(play) for _ in range(7)]
    assert any_stage.hands_in().play().reason == "done"
    assert [one.attempts for one in any_stage.recorder.of(AttemptFailed)] == [8] * 7


def test_where_somebody_says_so_it_is_asked_again_with_all_that_was_done(any_stage, play):
    any_stage.said(calls=[play.bash("true")])
    any_stage.script += [play.error(529, "Overloaded") for _ in range(8)]
    asked = []

    async def waits(why):
        asked.append(why)
        return True

    any_stage.waits_for_upstream = waits
    assert any_stage.hands_in().play().reason == "done"
    assert len(asked) == 1 and "8 attempts failed" in asked[0]
    assert len(any_stage.bodies) == 1 + 8 + 1 and any_stage.bodies[-1] == any_stage.bodies[1]


def test_a_connection_that_breaks_is_tried_again(stage):
    stage.script += [ConnectionResetError("gone"), TimeoutError("slow"), EOFError("short")]
    assert stage.hands_in().play().reason == "done"
    assert len(stage.sleeps) == 3


@pytest.mark.parametrize("garbage", [b"", b"<html>", b"[]", b"{}", b'{"content": 5}', b"\xff\xfe", b"[" * 100_000])
def test_an_answer_that_is_none_is_tried_again(any_stage, garbage):
    any_stage.script.append(garbage)
    assert any_stage.hands_in().play().reason == "done"
    assert len(any_stage.sleeps) == 1


def test_an_answer_that_comes_in_pieces_is_put_together(any_stage, play):
    async def pieces():
        for byte in play.answer(any_stage.protocol, calls=[play.bash("gear done")]):
            yield bytes([byte])

    any_stage.script.append(Reply(200, {}, pieces()))
    assert any_stage.play().reason == "done"


@pytest.mark.parametrize(("status", "remedy"), [(401, "check the key"), (403, "may not use this model"), (404, "model's name")])
def test_a_fault_that_waiting_does_not_help_fails_at_once_with_a_remedy(any_stage, play, status, remedy):
    any_stage.script.append(play.error(status, "nope"))
    end = any_stage.play()
    assert end.reason == "failed"
    assert f"status {status}: api_error nope" in end.detail
    assert remedy in end.detail
    assert any_stage.sleeps == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(429, {}, b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'),
        Reply(503, {"X-Should-Retry": "false"}, b'{"error": {"message": "no"}}'),
        Reply(400, {}, b'{"error": "bad request"}'),
        Reply(422, {}, b""),
    ],
)
def test_other_refusals_fail_at_once(stage, reply):
    stage.script.append(reply)
    end = stage.play()
    assert end.reason == "failed"
    assert "Remedy" in end.detail or "no" in end.detail
    assert len(stage.bodies) == 1


def test_an_error_of_ours_ends_the_agent_with_its_remedy(stage):
    stage.script.append(RunError("cassette_mismatch", "call 0 differs", remedy="record it again"))
    end = stage.play()
    assert end.reason == "failed"
    assert end.detail == "cassette_mismatch: call 0 differs. Remedy: record it again"


def test_a_defect_is_not_hidden(stage):
    stage.script.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        stage.play()


# --- the window ---------------------------------------------------------------------------------------------------------------

TOO_LONG = [
    (400, {"error": {"type": "invalid_request_error", "message": "prompt is too long: 215000 tokens > 200000 maximum"}}),
    (400, {"error": {"message": "This model's maximum context length is 8192 tokens", "code": "context_length_exceeded"}}),
    (400, {"error": {"type": "exceed_context_size_error", "message": "the request exceeds the available context size"}}),
    (413, {"error": {"message": "Input is too long for requested model."}}),
]


@pytest.mark.parametrize(("status", "body"), TOO_LONG)
def test_a_request_over_the_window_is_compacted_and_sent_once_more(any_stage, play, status, body):
    for number in range(10):
        any_stage.said(calls=[play.bash("seq 1 2000", id=f"c{number}")])
    any_stage.script.append(Reply(status, {}, json.dumps(body).encode()))
    assert any_stage.hands_in().play().reason == "done"
    assert len(any_stage.bodies[11]) < 0.7 * len(any_stage.bodies[10])
    [event] = any_stage.recorder.of(ContextCompacted)
    assert event.tokens_after < event.tokens_before
    assert event.file == "/box/history"


def test_a_request_that_stays_too_long_is_a_failure(any_stage):
    status, body = TOO_LONG[0]
    any_stage.script += [Reply(status, {}, json.dumps(body).encode())] * 2
    end = any_stage.play()
    assert end.reason == "failed"
    assert "larger window" in end.detail


def test_the_context_is_compacted_before_it_is_full(any_stage, play):
    any_stage.window = 20_000
    for number in range(40):
        any_stage.said(f"step {number}", calls=[play.bash("seq 1 1500", id=f"c{number}")])
    assert any_stage.hands_in().play("Remember the goal.").reason == "done"
    assert len(any_stage.recorder.of(ContextCompacted)) >= 2
    last = any_stage.bodies[-1].decode()
    assert "Remember the goal." in last
    assert "step 39" in last
    assert 'step 3"' not in last
    assert "--- output 3 ---\n1\n2\n3\n" in any_stage.kept("history/00002.txt")
    assert "earlier messages are out of view; whole in /box/history" in last


def test_the_whole_history_is_kept_as_json_lines_and_text(any_stage, play):
    any_stage.said("I look.", calls=[play.bash("echo hello")]).hands_in("x").play()
    folder = any_stage.folder / "box" / "history"
    rows = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["told", "answer", "output", "answer", "output"]
    assert any_stage.kept("history/00002.txt").startswith("--- answer 2 ---\nI look.\n$ echo hello\n\n--- output 3 ---\nhello\n")


def test_a_box_that_takes_no_more_files_is_put_on_record_once_and_work_goes_on(any_stage, play):
    def full(name, content):
        raise RunError("no_space", "/box is full", remedy="none inside")

    any_stage.keep = full
    any_stage.said(calls=[play.bash("seq 1 15000")]).hands_in()
    assert any_stage.play().reason == "done"
    assert "whole output in no file: /box takes no more]" in any_stage.last_results(1)[0]
    assert [event.error["code"] for event in any_stage.recorder.of(Failure)] == ["no_space"]


def test_a_turn_takes_two_files_however_many_commands_it_runs(stage, play):
    stage.said(calls=[play.bash("true", id=f"c{number}") for number in range(10)]).hands_in().play()
    assert len(list((stage.folder / "box" / "history").iterdir())) == 6


# --- limits -------------------------------------------------------------------------------------------------------------------


def test_when_only_the_reserve_is_left_the_agent_is_told_once_and_gets_a_few_last_turns(any_stage, play):
    any_stage.phases = ["work"] * 4 + ["wind_down"]
    for number in range(20):
        any_stage.said(calls=[play.bash("true", id=f"c{number}")])
    end = any_stage.play()
    assert end.reason == "budget"
    assert "last turns passed" in end.detail
    told = [body.decode().count("Hand in now") for body in any_stage.bodies]
    assert max(told) == 1
    assert told.count(1) == LAST_TURNS
    assert "4096" in any_stage.bodies[-1].decode()


def test_the_agent_hands_in_during_the_last_turns(any_stage, play):
    any_stage.phases = ["wind_down"]
    any_stage.said(calls=[play.bash("echo part > part.txt")]).hands_in("half of it")
    end = any_stage.play()
    assert (end.reason, end.note) == ("done", "half of it")


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("usd", "budget"),
        ("tokens", "budget"),
        ("wall", "wall"),
        ("steps", "steps"),
        ("stopped", "stopped"),
        ("operator", "stopped"),
    ],
)
def test_a_limit_that_is_reached_ends_the_agent_by_its_name(stage, limit, reason):
    stage.phases, stage.limit = ["stop"], limit
    end = stage.play()
    assert end.reason == reason
    assert stage.bodies == []


def test_a_limit_that_strikes_between_two_commands_stops_the_second(any_stage, play):
    any_stage.phases = ["work", "work", "stop"]
    any_stage.limit = "wall"
    any_stage.said(calls=[play.bash("touch one", "c1"), play.bash("touch two", "c2")])
    assert any_stage.play().reason == "wall"
    assert [command for command, _ in any_stage.commands] == ["touch one"]


def test_a_raised_limit_takes_the_last_turns_back(stage, play):
    stage.phases = ["work", "work", "wind_down", "wind_down", "work"]
    for number in range(LAST_TURNS + 4):
        stage.said(calls=[play.bash("true", id=f"c{number}")])
    assert stage.hands_in().play().reason == "done"


def test_an_operator_who_asks_for_the_hand_over_is_named(stage):
    stage.phases, stage.limit = ["wind_down"], "operator"
    assert stage.hands_in().play().reason == "done"
    assert b"Hand in now: the operator asks for it" in stage.bodies[0]


def test_402_winds_down_first(any_stage, play):
    any_stage.said(calls=[play.bash("echo work")])
    any_stage.script.append(play.error(402, "the account has $0.01 left", "billing_error"))
    assert any_stage.hands_in("short of money").play().reason == "done"
    assert b"Hand in now: the account cannot pay" in any_stage.bodies[2]
    assert any_stage.sleeps == []


def test_402_in_the_last_turns_is_tried_once_more_with_half_the_context(stage, play):
    for number in range(12):
        stage.said(calls=[play.bash("seq 1 2000", id=f"c{number}")])
    stage.script += [play.error(402), play.error(402)]
    assert stage.hands_in().play().reason == "done"
    assert len(stage.bodies[-1]) < 0.6 * len(stage.bodies[-2])


def test_402_again_is_the_end_of_the_budget(any_stage, play):
    any_stage.script += [play.error(402, "nothing left") for _ in range(3)]
    end = any_stage.play()
    assert end.reason == "budget"
    assert "nothing left" in end.detail


@pytest.mark.parametrize("limit", ["wall", "steps"])
def test_where_the_hand_over_cannot_be_paid_the_limit_that_began_it_is_named(stage, play, limit):
    stage.phases, stage.limit = ["wind_down"], limit
    stage.script += [play.error(402, "nothing left") for _ in range(3)]
    end = stage.play()
    assert end.reason == limit and "nothing left" in end.detail


def test_402_where_the_run_stops_at_its_limit_ends_at_once(stage, play):
    stage.phases = ["work", "work", "stop"]
    stage.script.append(play.error(402))
    assert stage.play().reason == "budget"


def test_the_last_turns_that_follow_a_402_are_counted_too(stage, play):
    stage.script.append(play.error(402))
    for number in range(20):
        stage.said(calls=[play.bash("true", id=f"c{number}")])
    end = stage.play()
    assert end.reason == "budget"
    assert len(stage.bodies) == 2 + LAST_TURNS


def test_stopping_from_outside_is_recorded(stage):
    async def stopped():
        raise asyncio.CancelledError

    stage.ask = lambda path, body: stopped()
    with pytest.raises(asyncio.CancelledError):
        stage.play()
    assert stage.recorder.of(AgentEnded) == [AgentEnded("stopped", "stopped from outside")]


def test_a_message_from_outside_arrives_with_the_next_turn_and_never_inside_a_pair(any_stage, play):
    def late(body):
        any_stage.agent.tell("Your tests pass but the check fails.")
        return play.answer(any_stage.protocol, calls=[play.bash("true")])

    any_stage.script.append(late)
    any_stage.hands_in().play()
    assert b"the check fails" not in any_stage.bodies[0]
    assert b"the check fails" in any_stage.bodies[1]


def test_a_provider_that_wants_to_be_paid_is_no_limit_of_ours(any_stage, play):
    any_stage.script.append(play.error(402, "insufficient balance", x_gearcase_refused=""))
    ended = any_stage.play()
    assert ended.reason == "failed" and "insufficient balance" in ended.detail and "pay in at the provider" in ended.detail
