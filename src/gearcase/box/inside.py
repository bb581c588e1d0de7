"""What a box sees of this machine's Python: the one of /usr with what is installed for it, and nothing of a user's home.

Modules are looked for and never imported; a Python of pyenv, pipx or a virtual environment is another one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are found inside."""
FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
"""A program for `python3 -I -c`: whether it has the module that is named."""
_PATIENCE = 10.0


@cache
def has_module(module: str) -> bool:
    """Whether the Python that a box sees has a module."""
    if module in sys.stdlib_module_names:
        return True
    python = shutil.which("python3", path=PATH)
    if python is None:
        return False
    try:
        return subprocess.run([python, "-I", "-c", FIND, module], timeout=_PATIENCE, capture_output=True).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def brings_module(folder: Path, module: str) -> bool:
    """Whether a folder holds a module: in itself, in src/, or as a virtual environment or what contains one."""
    places = [folder, folder / "src", *folder.glob("lib/python3*/site-packages"), *folder.glob("*/lib/python3*/site-packages")]
    return any((place / module).is_dir() or (place / f"{module}.py").is_file() for place in places)


def how_to_get(module: str) -> str:
    """What to do where `has_module` says no: with root, and without."""
    return (
        f"a box sees the Python of /usr and what you give, not your home: install {module} for /usr/bin/python3 "
        f"(Debian: apt install python3-{module}), or in a .venv of the repository: "
        f"/usr/bin/python3 -m venv .venv && .venv/bin/pip install {module}"
    )
