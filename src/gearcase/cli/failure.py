"""How a command fails: the error's envelope for a person, never a traceback."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path

from rich.text import Text

from gearcase.cli.console import err, print_json
from gearcase.cli.text import neutral
from gearcase.errors import GearcaseError, RunError


def show(error: GearcaseError, as_json: bool) -> int:
    """Show an error on stderr (with `--json`: its envelope on stdout); returns the exit code."""
    if as_json:
        print_json({"error": error.envelope(), "exit_code": error.exit_code})
        return error.exit_code
    console = err()
    console.print(Text.assemble(("error ", "bold red"), (neutral(error.code), "red"), "  ", (neutral(error.message), "bold")))
    for line in neutral(error.cause, lines=True).splitlines():
        console.print(Text(f"  {line}"))
    if error.remedy:
        console.print(Text.assemble(("  → ", "green"), neutral(error.remedy)))
    return error.exit_code


def unexpected(error: BaseException) -> GearcaseError:
    """A defect of ours as an error that says where its traceback was saved."""
    handle, name = tempfile.mkstemp(prefix="gearcase-", suffix=".traceback")
    with os.fdopen(handle, "w", errors="backslashreplace") as file:
        file.write("".join(traceback.format_exception(error)))
    return RunError(
        "internal",
        "Gearcase itself failed",
        cause=f"{type(error).__name__}: {neutral(error, limit=300)}",
        remedy=f"report it with {Path(name)}",
        traceback=name,
    )
