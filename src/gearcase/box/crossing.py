"""What of the operator's machine crosses into a box: the rule, as lines that `gearcase box show` prints.

The rule: what lies in a folder that is given goes in with it, as a copy, instructions and settings of agents included. Of the home
nothing goes in but the programs that `[sandbox] tools` names, read-only, and the name and address that git signs with.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gearcase.box.declaration import Box
from gearcase.box.tools import Tool, find_tools

_OF_AGENTS = (
    "CLAUDE.md",
    "AGENTS.md",
    "GEMINI.md",
    ".claude",
    ".codex",
    ".gemini",
    ".opencode",
    "opencode.json",
    ".mcp.json",
    ".aider.conf.yml",
)
_IDENTITY = ("user.name", "user.email")


@dataclass(frozen=True, slots=True)
class Crossing:
    """One thing, and where or whether it is inside."""

    what: str
    inside: str


def git_identity(box: Box) -> dict[str, str]:
    """The name and the address that git signs with on this machine, as far as they are set, for a box that is given a repository."""
    found: dict[str, str] = {}
    if not any((path / ".git").exists() for path in box.files.give):
        return found
    for key in _IDENTITY:
        try:
            told = subprocess.run(
                ["git", "config", "--global", "--get", key], capture_output=True, text=True, check=False, timeout=5
            )
        except (OSError, subprocess.TimeoutExpired):
            return found  # no git, no identity
        if told.returncode == 0 and told.stdout.strip():
            found[key] = told.stdout.strip()
    return found


def crossings(box: Box, environment: Mapping[str, str] = os.environ) -> Iterator[Crossing]:
    """Everything that crosses, then what does not. Raises PathMistake for a tool that is gone."""
    for path in box.files.give:
        inside = f"/workspace/{path.name}, a copy{_instructions(path)}"
        yield Crossing(str(path), inside)
    for path in box.files.see:
        yield Crossing(str(path), f"/given/{path.name}, read-only{_instructions(path)}")
    for tool in find_tools(box.sandbox.tools, environment):
        yield _tool(tool)
    for name, secret in box.secrets.items():
        yield Crossing(f"secret {name}", f"a placeholder in ${secret.env}; put in outside for {', '.join(secret.hosts)}")
    told = ", ".join(f"{key} = {value}" for key, value in git_identity(box).items())
    yield Crossing("git identity", told or "none: no repository is given, or user.name and user.email are not set")
    yield Crossing(
        "home folder",
        "nothing else: no CLAUDE.md, AGENTS.md, settings, skills, MCP servers, logins, keys or git configuration of it",
    )


def _tool(tool: Tool) -> Crossing:
    places = ", ".join(f"{mount.source} at {mount.target}" for mount in tool.mounts) or f"{tool.program}, as here"
    started = f"; started by /box/bin/{tool.name}" if tool.starter else ""
    return Crossing(f"tool {tool.name}", f"{places}, read-only{started}")


def _instructions(path: Path) -> str:
    found = [name for name in _OF_AGENTS if (path / name).exists()]
    return f", with its {', '.join(found)}" if found else ""
