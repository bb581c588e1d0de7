"""The agents that people use, as they install them, each doing a task on files in a box, against a provider that keeps a log.

They are the real ones, pinned; a client that cannot be installed is a failure. What the run says that it spent, what its journal
settled and what the provider billed are the same; the provider heard the client's own name; the key was never inside.
"""

import fcntl
import json
import re
import shutil
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.journeys.conftest import COMMAND

CACHE = Path(__file__).parents[2] / ".cache"
EXAMPLES = Path(__file__).parents[2] / "examples/agents"
ANTHROPIC, OPENAI = "claude-haiku-4-5", "gpt-5-mini"
TASK = "Write words.txt in capitals to OUT.txt"
STEPS = (
    {"text": "I write.", "commands": ["tr a-z A-Z < words.txt > OUT.txt; (env; cat ~/.c*/* ~/.c*json) 2>/dev/null > SEEN.txt"]},
    {"text": "All done."},
)

pytestmark = pytest.mark.timeout(600)  # the first test of a machine installs the client


@dataclass(frozen=True)
class Client:
    program: str
    package: str
    provider: str
    says: str  # what its User-Agent begins with
    python: bool = False

    def install(self):
        """The folder of its program, installed once on this machine."""
        folder = CACHE / f"client-{self.package.strip('@').replace('/', '-')}"
        CACHE.mkdir(exist_ok=True)
        with open(folder.with_name(folder.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                if self.python:
                    subprocess.run(["/usr/bin/python3", "-m", "venv", folder], check=True)
                    subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", self.package], check=True)
                else:
                    npm = shutil.which("npm")
                    assert npm, "the clients are packages of npm: install node"
                    subprocess.run([npm, "install", "--prefix", folder, "--no-audit", "--no-fund", self.package], check=True)
                (folder / "complete").touch()
        return folder / "bin" if self.python else folder / "node_modules/.bin"


CLAUDE = Client("claude", "@anthropic-ai/claude-code@2.1.330", "anthropic", "claude-cli/2.1.330")
CODEX = Client("codex", "@openai/codex@0.169.0", "openai", "codex_exec/0.169.0")
OPENCODE = Client("opencode", "opencode-ai@1.18.33", "anthropic", "opencode/1.18.33")
AIDER = Client("aider", "aider-chat==0.86.2", "openai", "OpenAI/Python", python=True)


class Project:
    """A folder with a task in it, and a client on PATH."""

    def __init__(self, user, client):
        self.user = user
        self.client = client
        user.environment["PATH"] = f"{client.install()}:{user.environment['PATH']}"
        user.environment["PATH"] += f":{Path(shutil.which('node') or '/usr/bin/node').parent}"
        user.folder = user.home / "project"
        user.folder.mkdir()
        (user.folder / "words.txt").write_text("hello\n")
        (user.folder / "AGENTS.md").write_text("Be brief.\n")

    def box(self, provider, usd=3, more=""):
        file = self.user.home / "box.toml"
        own = f'[model]\nallow = ["{self.client.provider}/*"]\n' if more else ""
        base = f'[model.providers.{self.client.provider}]\nbase = "{provider.base}"\n[limits]\nusd = {usd}\n'
        file.write_text(own + base + textwrap.dedent(more))
        return file

    def does(self, provider, *arguments, code=0):
        """Run it; returns the record, after what must hold whichever client it is."""
        ended = self.user.types(*arguments, code=code, timeout=200, **self.user.keys)
        record = ended.record
        assert record["residue"] == [], record
        settled = sum(one["amounts"].get("usd", 0) for one in self.user.journal() if one["type"] == "settled")
        assert record["spent"]["usd"] == settled == provider.billed(self.client.provider)
        assert record["spent"]["calls"] == len(provider.calls())
        assert all(one["client"].startswith(self.client.says) for one in provider.calls()), provider.calls()
        return record, ended.err

    def done(self, record):
        """The delivered file, and what the agent could see."""
        out = Path(record["out"]) / "project"
        assert (out / "OUT.txt").read_text() == "HELLO\n"
        assert not (self.user.folder / "OUT.txt").exists(), "the folder itself is never touched"
        seen = (out / "SEEN.txt").read_bytes().decode("utf-8", "replace") if (out / "SEEN.txt").exists() else ""
        assert self.user.key not in seen
        return seen


OWN = """
    [sandbox]
    tools = ["{program}"]
    [files]
    give = ["{folder}"]
    take = ["project/**"]
"""


@pytest.mark.clients
def test_claude_code_does_a_task(user):
    project = Project(user, CLAUDE)
    with user.provides(*STEPS) as provider:
        command = ("claude", "--json", "--box", project.box(provider), "-p", TASK, "--model", ANTHROPIC)
        record, told = project.does(provider, *command)
        assert "All done." in told
        assert "ANTHROPIC_API_KEY=only-a-token" in project.done(record)


@pytest.mark.clients
def test_codex_does_a_task(user):
    project = Project(user, CODEX)
    with user.provides(*STEPS) as provider:
        command = ("codex", "--json", "--box", project.box(provider), "exec", "--skip-git-repo-check", "-m", OPENAI, TASK)
        record, told = project.does(provider, *command)
        assert "All done." in told
        assert "OPENAI_API_KEY=only-a-token" in project.done(record)


@pytest.mark.clients
def test_opencode_does_a_task(user):
    project = Project(user, OPENCODE)
    settings = {
        "provider": {"anthropic": {"options": {"baseURL": "http://model.box/v1", "apiKey": "only-a-token"}}},
        "permission": "allow",
        "autoupdate": False,
        "share": "disabled",
    }
    with user.provides(*STEPS) as provider:
        box = project.box(provider, more=OWN.format(program="opencode", folder=user.folder))
        inside = ["env", f"OPENCODE_CONFIG_CONTENT={json.dumps(settings)}", "OPENCODE_DISABLE_MODELS_FETCH=1"]
        run = f'cd project && opencode run -m anthropic/{ANTHROPIC} "{TASK}"'
        record, _ = project.does(provider, "exec", "--json", "-f", box, "--", *inside, "sh", "-c", run)
        project.done(record)


@pytest.mark.clients
def test_aider_does_a_task(user):
    project = Project(user, AIDER)
    with user.provides({"text": "OUT.txt\n```\nHELLO\n```\n"}) as provider:
        box = project.box(provider, more=OWN.format(program="aider", folder=user.folder))
        options = "--yes-always --no-git --no-show-model-warnings --no-show-release-notes --no-check-update --analytics-disable"
        run = f'cd project && aider {options} --edit-format whole --model openai/{OPENAI} --message "{TASK}" words.txt'
        inside = ["env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "sh", "-c", run]
        record, _ = project.does(provider, "exec", "--json", "-f", box, "--", *inside)
        project.done(record)


PRESETS = {"claude-code": CLAUDE, "codex": CODEX, "opencode": OPENCODE, "aider": AIDER}


def commands_of(preset):
    """What a preset's page says to type, for a run without a person."""
    block = re.search(r"BOX the path of `box.toml`:\n\n((?:    .*\n)+)", (EXAMPLES / preset / "README.md").read_text())[1]
    return "".join(line for line in textwrap.dedent(block).splitlines(keepends=True) if "# interactive" not in line)


@pytest.mark.clients
@pytest.mark.parametrize("preset", PRESETS)
def test_the_page_of_a_preset_can_be_typed_as_it_stands(user, preset):
    client = PRESETS[preset]
    Project(user, client)
    subprocess.run(["git", "init", "-q", user.folder], check=True)
    edit = "OUT.txt\n```\n<<<<<<< SEARCH\n=======\nHELLO\n>>>>>>> REPLACE\n```\n"
    steps = ({"text": edit},) if client is AIDER else STEPS
    with user.provides(*steps) as provider:
        box = user.home / "box.toml"
        box.write_text(
            f'{(EXAMPLES / preset / "box.toml").read_text()}\n[model.providers.{client.provider}]\nbase = "{provider.base}"\n'
        )
        around = {**user.environment, **user.keys, "PATH": f"{COMMAND.parent}:{user.environment['PATH']}", "BOX": str(box)}
        ended = subprocess.run(
            ["bash", "-c", commands_of(preset)],
            cwd=user.folder,
            env=around,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{user.log()}"
        assert provider.calls(), ended.stderr
        record = user.types("report", "--json", code=0).record
        assert record["spent"]["usd"] == provider.billed(client.provider) and record["residue"] == []
        out = Path(record["out"])
        assert out.is_relative_to(user.folder / "gearcase-out"), "where its page says that it is"
        assert (out / "project/words.txt").read_text() == "hello\n"
        if client is not CODEX:  # the model that it takes by itself acts by a tool that the provider's script does not know
            assert (out / "project/OUT.txt").read_text() == "HELLO\n"
        assert not (user.folder / "OUT.txt").exists(), "the folder itself is never touched"


@pytest.mark.clients
def test_claude_code_that_is_out_of_money_says_so_and_the_provider_is_not_asked(user):
    project = Project(user, CLAUDE)
    with user.provides(*STEPS) as provider:
        box = project.box(provider, usd="0.001")
        _, told = project.does(provider, "claude", "--json", "--box", box, "-p", TASK, "--model", ANTHROPIC, code=1)
        assert not provider.calls()
        assert "is left" in told


def complaint(user):
    """What `gearcase claude` is refused with, on one line."""
    return " ".join(user.types("claude", "-p", "hi", code=2).err.split())


def test_an_agent_that_is_not_installed_or_too_old_or_has_no_key_is_an_error_that_says_what_to_do(user):
    user.folder = user.home / "project"
    user.folder.mkdir()
    told = complaint(user)
    assert "Claude Code is not on PATH" in told and "npm install -g @anthropic-ai/claude-code" in told
    tools = user.home / "bin"
    tools.mkdir()
    old = tools / "claude"
    old.write_text("#!/bin/sh\necho 0.2.9\n")
    old.chmod(0o755)
    user.environment["PATH"] = f"{tools}:{user.environment['PATH']}"
    assert "0.2.9 is too old: a box needs 2.0.0" in complaint(user)
    old.write_text("#!/bin/sh\necho 2.1.0\n")
    told = complaint(user)
    assert "needs an API key" in told and "never crosses into a box" in told and "ANTHROPIC_API_KEY" in told


def test_a_home_is_not_given_whole(user):
    user.folder = user.home
    assert "holds your home" in complaint(user)
