"""Putting the operator's tools into a box: what is mounted, and the starters that stand on PATH inside."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gearcase.box.tools import Tool, VirtualEnvironment
from gearcase.sandbox.trees import write_file


def furnish(box: int, tools: Iterable[Tool]) -> None:
    """Write what starts each tool into the folder /box (a descriptor). Raises RunError."""
    for tool in tools:
        if tool.starter:
            write_file(box, b"bin/" + os.fsencode(tool.name), tool.starter, mode=0o755)
        if tool.environment is not None:
            _environment(box, tool.environment)


def _environment(box: int, made: VirtualEnvironment) -> None:
    """A virtual environment again: its packages are the mounted ones, its Python is the one that is inside."""
    settings = f"home = {Path(made.python).parent}\ninclude-system-site-packages = false\n"
    write_file(box, os.fsencode(f"{made.home}/pyvenv.cfg"), settings.encode())
    os.mkdir(f"{made.home}/bin", dir_fd=box)
    os.chmod(f"{made.home}/bin", 0o755, dir_fd=box)
    os.symlink(made.python, f"{made.home}/bin/python", dir_fd=box)
    os.symlink("python", f"{made.home}/bin/python3", dir_fd=box)
    for name in ("lib", "lib64"):
        os.symlink(f"{made.packages}/lib", f"{made.home}/{name}", dir_fd=box)
