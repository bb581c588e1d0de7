"""The launcher's process: a clean interpreter with an empty environment and one socket.

It loads for as long as a box takes to open, so a run's process begins it before it loads anything itself (`begin`), and the driver
takes what was begun. Invariant: one that nobody took ends with this process, whose socket it reads. Standard library only.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_SOURCE = str(Path(__file__).resolve().parents[2])
_BOOTSTRAP = """import sys, json
sys.path.append(json.loads(sys.argv[1])["source"])
from gearcase.sandbox.launcher import main
main(json.loads(sys.argv[1])["socket"])"""


class Begun(NamedTuple):
    """The process, and the host's end of its socket. It waits to be told how to serve."""

    process: subprocess.Popen[bytes]
    socket: socket.socket


_waiting: list[Begun] = []


def begin() -> None:
    """Begin a launcher that the first driver of this process will take."""
    _waiting.append(_start())


def take() -> Begun:
    """The launcher that was begun; a new one where none was."""
    return _waiting.pop() if _waiting else _start()


def _start() -> Begun:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, json.dumps({"socket": theirs.fileno(), "source": _SOURCE})],
        pass_fds=[theirs.fileno()],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    return Begun(process, ours)
