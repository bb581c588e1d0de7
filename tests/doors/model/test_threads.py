"""What the real agents write into their headers tells their threads apart; anything else is no thread."""

import pytest

from gearcase.doors.model.threads import Thread, thread_of
from gearcase.doors.server import HttpRequest

SESSION, AGENT, BELOW = "25ed64b7-7278-43fe-999a-bccafaae0ec1", "a5bafdebdd9683d9e", "aa8263d8ade31ba13"


def told(**headers):
    pairs = tuple((name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items())
    return thread_of(HttpRequest("POST", "/v1/messages", b"", pairs, b""))


def test_claude_code_names_its_session_a_sub_agent_and_one_below_that():
    assert told(x_claude_code_session_id=SESSION) == Thread(SESSION)
    assert told(x_claude_code_session_id=SESSION, x_claude_code_agent_id=AGENT) == Thread(AGENT, SESSION)
    below = {"x_claude_code_agent_id": BELOW, "x_claude_code_parent_agent_id": AGENT}
    assert told(x_claude_code_session_id=SESSION, **below) == Thread(BELOW, AGENT)


def test_codex_names_its_thread_and_the_one_that_it_comes_from():
    own, above = "01a20a88-73d3-7813-b021-d152ef0b0a3a", "01a20a88-734a-7f00-aec0-6bdb39326caf"
    assert told(session_id=above, thread_id=above) == Thread(above)
    assert told(session_id=above, thread_id=own, x_codex_parent_thread_id=above) == Thread(own, above)


def test_opencode_names_its_session_and_the_one_that_it_comes_from():
    assert told(x_session_id="ses_df57") == Thread("ses_df57")
    assert told(x_session_id="ses_df58", x_parent_session_id="ses_df57") == Thread("ses_df58", "ses_df57")


@pytest.mark.parametrize("name", ["", " ", "a b", "a\x1b[31m", "\xe9", "x" * 81, "-a", "a\n", "(more)"])
def test_what_is_no_plain_name_is_no_thread_and_no_parent(name):
    assert told(x_session_id=name) == Thread()
    assert told(x_session_id="a", x_parent_session_id=name) == Thread("a")


def test_who_says_nothing_has_no_thread():
    assert told(user_agent="OpenAI/Python 2.1.0") == Thread()
