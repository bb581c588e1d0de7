"""The way on which a program's terminal gets from the run's process to the command that a person typed.

What is sent is the controlling end itself, once; the run keeps no copy. So a person who goes away hangs up on the program, and a
terminal that takes nothing more never stops the run.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from gearcase.seams import TerminalSize


@dataclass(frozen=True, slots=True)
class TerminalLink:
    """Both ends of the way, made before the run's process is forked."""

    size: TerminalSize
    ours: socket.socket  # of the command
    theirs: socket.socket  # of the run

    @classmethod
    def make(cls, size: TerminalSize) -> TerminalLink:
        """A new way for a terminal that begins with this size."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(size, ours, theirs)

    def hand_over(self, descriptor: int) -> None:
        """The run's side: give the terminal away. Where nobody is left to take it, the program is hung up on."""
        try:
            socket.send_fds(self.theirs, [b"terminal"], [descriptor])
        except ConnectionError:
            return
        finally:
            os.close(descriptor)

    def take(self) -> int:
        """The command's side, once `ours` can be read: the terminal, -1 when the run ended without one."""
        self.ours.setblocking(False)
        try:
            _data, descriptors, _flags, _address = socket.recv_fds(self.ours, 64, 1)
        except ConnectionError:
            return -1
        return descriptors[0] if descriptors else -1
