"""What a person types. `main` is the `gearcase` command; `--version` is answered before anything is imported."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from gearcase import __version__

        print(f"gearcase {__version__}")
        return 0
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for some reads the metadata of every package installed
    if sys.argv[1:2] != ["run"]:
        return _command()
    from gearcase.run import early

    early.begin()
    try:
        return _command()
    finally:
        early.give_up()


def _command() -> int:
    gc.disable()  # what is imported stays: looking for garbage among it takes a fifth of the start
    from gearcase.cli.app import run_command_line

    gc.freeze()
    gc.enable()
    return run_command_line(sys.argv[1:])
