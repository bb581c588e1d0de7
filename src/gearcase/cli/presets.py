"""Agents that people have installed, and how each is told that it is in a box: by its own documented settings alone.

What a preset sets: where the model is, with a token that is worth nothing; no telemetry, no update of itself; its own sandbox and its
questions off, because the box is the sandbox; the first start's questions answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gearcase.run.room import TOKEN


@dataclass(frozen=True, slots=True)
class Preset:
    """One agent. `home` gives the files of its home inside, for the folder that it works in."""

    name: str
    title: str
    provider: str
    install: str
    least: tuple[int, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    home: Callable[[str], dict[str, str]]
    login: str


def _claude_home(folder: str) -> dict[str, str]:
    project = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    answered = {
        "hasCompletedOnboarding": True,
        "bypassPermissionsModeAccepted": True,
        "customApiKeyResponses": {"approved": [TOKEN], "rejected": []},
        "projects": {folder: project},
    }
    return {
        ".claude.json": json.dumps(answered),
        ".claude/settings.json": json.dumps({"skipDangerousModePermissionPrompt": True}),
    }


def _codex_home(folder: str) -> dict[str, str]:
    text = f"""
model_provider = "gearcase"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
web_search = "disabled"

[model_providers.gearcase]
name = "Gearcase"
base_url = "http://model.box/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"

[analytics]
enabled = false

[projects.{json.dumps(folder)}]
trust_level = "trusted"
"""
    return {".codex/config.toml": text.lstrip()}


CLAUDE = Preset(
    name="claude",
    title="Claude Code",
    provider="anthropic",
    install="npm install -g @anthropic-ai/claude-code",
    least=(2, 0, 0),
    arguments=("--dangerously-skip-permissions",),
    environment={
        "IS_SANDBOX": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
    },
    home=_claude_home,
    login="a Claude subscription",
)

CODEX = Preset(
    name="codex",
    title="Codex",
    provider="openai",
    install="npm install -g @openai/codex",
    least=(0, 60, 0),
    arguments=(),
    environment={},
    home=_codex_home,
    login="a ChatGPT subscription",
)
