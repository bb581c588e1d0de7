"""The two places where a command writes: results on stdout, everything else on stderr. One rule for colour and markup.

Consoles interpret no markup, no emoji names and highlight nothing: a string is shown as it is. NO_COLOR and TERM=dumb are
honoured. `--json` writes through `print_json`, and nothing else goes to stdout then.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

from rich.console import Console


@cache
def out() -> Console:
    """Results."""
    return Console(markup=False, emoji=False, highlight=False)


@cache
def err() -> Console:
    """Progress, warnings, errors."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True, default=str) + "\n")
    sys.stdout.flush()


def interactive() -> bool:
    """Whether a person can be asked: all three streams that a question needs are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()
