"""A program with a terminal of the box's own, driven as a person drives it: keys, sizes, colours, Ctrl-C, and the shell afterwards."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from gearcase.cli.screen import Screen

COMMAND = Path(sys.executable).with_name("gearcase")

pytestmark = pytest.mark.timeout(120)


class Person:
    """Somebody at a terminal, on which a command runs."""

    def __init__(self, user, *arguments, rows=30, columns=100, **environment):
        self.ours, theirs = pty.openpty()
        self.size(rows, columns)
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.seen = ""
        told = {**user.environment, "TERM": "xterm-256color", **environment}
        self.process = subprocess.Popen(
            [COMMAND, *arguments], cwd=user.folder, env=told, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    def size(self, rows, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def types(self, text):
        os.write(self.ours, text.encode())

    def sees(self, pattern, timeout=20):
        """Until this has come on the screen since it was last looked at."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.ours, 65536).decode("utf-8", "replace")
        self.seen = self.seen[found.end() :]
        return found

    def leaves(self, timeout=30):
        """Until the command has ended; everything that it still shows."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.ours], [], [], 0.05)[0]:
                self.seen += os.read(self.ours, 65536).decode("utf-8", "replace")
        return self.process.returncode

    def terminal_is_as_before(self):
        now = termios.tcgetattr(self.theirs)
        pending = termios.__dict__.get("PENDIN", 0o40000)
        return [*now[:3], now[3] & ~pending] == [*self.before[:3], self.before[3] & ~pending]


@pytest.fixture
def sits(user):
    people = []

    def sit(*arguments, **more):
        people.append(Person(user, *arguments, **more))
        return people[-1]

    yield sit
    for one in people:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


def shell(sits, *options, **more):
    person = sits("exec", *options, "--", "bash", "--norc", "--noprofile", **more)
    person.types("PS1='ready> '\r")
    person.sees("ready> $")
    return person


def test_a_program_has_a_terminal_of_the_box_with_size_and_name_and_its_own_exit_code(sits):
    person = shell(sits)
    person.types("stty size; echo $TERM; tty; ps -o tty= -p $$; test -t 0 -a -t 2 && echo both\r")
    person.sees("30 100\r\nxterm-256color\r\n/dev/pts/0\r\npts/0 *\r\nboth")
    person.size(40, 120)
    person.types("until stty size | grep -v ' 100'; do sleep 0.1; done\r")
    person.sees("40 120\r\n")
    person.types("exit 7\r")
    assert person.leaves() == 7 and person.terminal_is_as_before()


def test_ctrl_c_goes_to_the_program_and_job_control_works(sits):
    person = shell(sits)
    person.types("sleep 100; echo after=$?\r")
    time.sleep(1)
    person.types("\x03")
    person.sees(r"\^C")
    person.sees("ready> ")
    person.types("trap 'echo caught' INT; sleep 100 & fg\r")
    time.sleep(1)
    person.types("\x03")
    person.sees("caught")
    person.types("exit\r")
    assert person.leaves() in (0, 130)


def test_colours_come_through_and_nothing_that_reaches_past_the_screen(sits):
    person = shell(sits)
    person.types("printf 'A\\033[31mred\\033[0m\\033]52;c;aGk=\\007\\033]0;mine\\007\\033[21tB\\n'\r")
    person.sees("A\x1b\\[31mred\x1b\\[0mB")
    person.types("exit\r")
    person.leaves()
    assert "]52" not in person.seen


def test_the_title_line_says_what_is_spent_and_how_to_freeze(sits):
    person = sits("exec", "--usd", "5", "--", "sleep", "3")
    person.sees(r"\x1b\]2;\$0.00 of \$5.00 · today \$0.00 of \$20.00 · freeze: gearcase freeze [a-z-]+\x07")
    person.sees(r"\x1b\[23;2t")
    assert person.leaves() == 0


@pytest.mark.parametrize("more", [{"columns": 39}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_there_is_no_status_where_there_is_no_room_or_no_wish_for_it(sits, more):
    person = sits("exec", "--", "sh", "-c", "sleep 1; stty size", **more)
    person.sees(f"30 {more.get('columns', 100)}")
    assert person.leaves() == 0 and "\x1b]2;" not in person.seen


def test_a_command_that_is_killed_leaves_the_terminal_as_it_was_and_hangs_up(user, sits):
    person = shell(sits)
    person.types("printf '\\033[?1049h\\033[?25lin'side\r")
    person.sees("inside")
    assert not person.terminal_is_as_before()
    person.process.kill()
    person.sees(r"\x1b\[\?47l.*\x1b\[\?25h")
    time.sleep(0.3)
    assert person.terminal_is_as_before()
    assert user.waits_for("run_ended")["record"]["residue"] == []


def test_a_request_to_end_kills_the_box_and_restores_the_terminal(user, sits):
    person = shell(sits)
    person.types("printf '\\033[?1049h\\033[?2004hin'side\r")
    person.sees("inside")
    person.process.send_signal(signal.SIGTERM)
    person.leaves()
    assert person.terminal_is_as_before() and "\x1b[?1049l" in person.seen
    assert user.waits_for("run_ended")["record"]["status"] == "stopped"


def test_a_frozen_program_stands_still_and_goes_on(user, sits):
    person = shell(sits)
    user.types("freeze", code=0)
    person.types("echo on$((1+1))\r")
    with pytest.raises(AssertionError):
        person.sees("on2", timeout=1)
    user.types("resume", code=0)
    person.sees("on2")
    person.types("exit\r")
    assert person.leaves() == 0


def test_keys_pushed_to_the_terminal_are_refused(sits):
    person = shell(sits)
    person.types("python3 -c 'import fcntl,termios; fcntl.ioctl(0, termios.TIOCSTI, b\"x\")' 2>&1 | tail -1\r")
    person.sees("PermissionError")
    person.types("exit\r")
    person.leaves()


def test_a_terminal_that_is_asked_for_and_is_not_there_is_an_error_with_a_remedy(user):
    ended = user.types("exec", "--tty", "--", "true", code=2)
    assert "not both a terminal" in ended.err and "leave --tty out" in ended.err


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (b"\x1b[1;31mred\x1b[0m", b"\x1b[1;31mred\x1b[0m"),
        (b"a\x1b]0;title\x07b", b"ab"),
        (b"a\x1b]52;c;aGk=\x1b\\b", b"ab"),
        (b"a\x1bP$q q\x1b\\b", b"ab"),
        (b"a\x1b[21tb", b"ab"),
        (b"a\x1b[5ib", b"ab"),
        (b"\x1b]8;;https://example.org\x1b\\link", b"\x1b]8;;https://example.org\x07link"),
        (b"\xc2\x9b21t", b"21t"),
        ("→ é".encode(), "→ é".encode()),
        (b"a\x1b]0;x\x1b[31mb", b"a\x1b[31mb"),
        (b"a\x1b[2\n1tb", b"a[2\n1tb"),
    ],
)
def test_what_a_screen_lets_pass_is_the_same_however_it_is_cut(given, passed):
    assert Screen().feed(given) == passed
    bytewise = Screen()
    assert b"".join(bytewise.feed(given[at : at + 1]) for at in range(len(given))) == passed


def test_modes_that_were_left_on_are_switched_off():
    screen = Screen()
    screen.feed(b"\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?1006h\x1b[?1006l\x1b[>1u")
    assert screen.leave() == b"\x1b[?2004l\x1b[?1049l\x1b[<1u\x1b[?25h\x1b[0m"
