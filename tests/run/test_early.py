"""A process that gets ready before anybody knows what shall be run."""

import subprocess
import sys

ENDS = """
import os
from gearcase.run import early
early.begin()
{then}
print(early.take())
"""


def ends(then):
    """What a program prints that had a process get ready; whoever holds its output has ended when this returns."""
    return subprocess.run([sys.executable, "-c", ENDS.format(then=then)], capture_output=True, text=True, timeout=60)


def test_where_nothing_is_run_it_is_given_up_and_says_nothing():
    done = ends("early.give_up()")
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_a_command_that_is_killed_takes_it_along():
    done = ends("os.kill(os.getpid(), 9)")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", -9)


def test_it_is_taken_once():
    done = ends("one = early.take(); assert one.pid; os.kill(one.pid, 9)")
    assert done.stdout == "None\n"


def test_an_interrupt_is_the_commands_business():
    then = "import signal, time; one = early.take(); time.sleep(0.3); os.kill(one.pid, signal.SIGINT); os.close(one.give)\n"
    done = ends(then + "print(os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]))")
    assert (done.stdout, done.stderr) == ("0\nNone\n", "")


def test_what_it_dies_of_before_it_knows_what_to_run_is_said():
    then = "one = early.take(); os.write(one.give, b'no pickle'); os.close(one.give); print(os.waitpid(one.pid, 0)[1] != 0)"
    done = ends(then)
    assert done.stdout == "True\nNone\n" and "UnpicklingError" in done.stderr
