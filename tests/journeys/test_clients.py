"""The agents that people use, as they install them, each doing a task on files in a box, against a provider that keeps a log.

They are the real ones, pinned; a client that cannot be installed is a failure. What the run says that it spent, what its journal
settled and what the provider billed are the same; the provider heard the client's own name; the key was never inside.
"""

import contextlib
import fcntl
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ANTHROPIC, OPENAI, GOOGLE = "claude-haiku-4-5", "gpt-5-mini", "gemini-2.5-flash"
HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache"
COMMAND = Path(sys.executable).with_name("gearcase")
PRESETS = HERE.parents[1] / "examples/agents"
INSTALL_SECONDS = 400
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
    pins: str = ""  # of a Python program: the file beside this one that names all that it loads

    def install(self):
        """The folder of its program, installed once on this machine."""
        version = hashlib.sha256((HERE / self.pins).read_bytes()).hexdigest()[:12] if self.pins else "npm"
        folder = CACHE / f"client-{self.package.strip('@').replace('/', '-')}-{version}"
        CACHE.mkdir(exist_ok=True)
        with open(folder.with_name(folder.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                if self.pins:
                    self.installs("/usr/bin/python3", "-m", "venv", folder)
                    pip = (folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps")
                    self.installs(*pip, "--requirement", HERE / self.pins)
                else:
                    npm = shutil.which("npm")
                    assert npm, f"{self.package} is a package of npm, and npm is not on PATH: scripts/setup --system installs it"
                    self.installs(npm, "install", "--prefix", folder, "--no-audit", "--no-fund", self.package)
                (folder / "complete").touch()
        return folder / "bin" if self.pins else folder / "node_modules/.bin"

    def installs(self, *command):
        """One step of its installation, which is not waited for without an end."""
        done = subprocess.run(
            command, timeout=INSTALL_SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, f"{self.package} cannot be installed from its registry:\n{done.stdout[-2000:]}"


CLAUDE = Client("claude", "@anthropic-ai/claude-code@2.1.330", "anthropic", "claude-cli/2.1.330")
CODEX = Client("codex", "@openai/codex@0.169.0", "openai", "codex_exec/0.169.0")
OPENCODE = Client("opencode", "opencode-ai@1.18.33", "anthropic", "opencode/1.18.33")
GEMINI = Client("gemini", "@google/gemini-cli@0.61.0", "google", "GeminiCLI-tui/0.61.0/")
AIDER = Client("aider", "aider-chat==0.86.2", "openai", "OpenAI/Python", pins="aider.txt")


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
        base = f'[model.providers.{self.client.provider}]\nbase = "{provider.base}"\n[limits]\nusd = {usd}\nwall = "2m"\n'
        file.write_text(own + base + textwrap.dedent(more))
        return file

    def does(self, provider, *arguments, code=0):
        """Run it; returns the record, after what must hold whichever client it is."""
        ended = self.user.types(*arguments, timeout=200, **self.user.keys)
        record = ended.record
        assert record["limit"] != "wall", f"{self.client.package} hung, and was ended by its box:\n{ended.err[-2000:]}"
        assert ended.code == code, f"{self.client.package}: exit {ended.code}\n{ended.out}\n{ended.err}\n{self.user.log()}"
        self.pays(record, provider)
        return record, ended.err

    def pays(self, record, provider):
        """The record, the journal and what the provider billed come to the same, and it heard the client's own name."""
        assert record["residue"] == [], record
        settled = sum(one["amounts"].get("usd", 0) for one in self.user.journal() if one["type"] == "settled")
        assert record["spent"]["usd"] == settled == provider.billed(self.client.provider)
        assert record["spent"]["calls"] == len(provider.calls())
        assert all(one["client"].startswith(self.client.says) for one in provider.calls()), provider.calls()

    def refused(self):
        """What the model door refused."""
        return [one for one in self.user.journal() if one["type"] == "door_refused"]

    def asked(self):
        """Names that it asked for, and whether they are allowed."""
        return {(one["name"], one["allowed"]) for one in self.user.journal() if one["type"] == "name_asked"}

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


class Tmux:
    """A terminal that somebody looks at and types into."""

    def __init__(self, user, columns=100, rows=30):
        program = shutil.which("tmux")
        assert program, "tmux is not on PATH: scripts/setup --system installs it"
        self.environment = {**user.environment, **user.keys, "TERM": "screen-256color", "TMUX_TMPDIR": str(user.home)}
        self.command = [program, "-f", "/dev/null"]
        self.told = user.home / "ended"
        self.folder = user.folder
        self.size = ("-x", str(columns), "-y", str(rows))

    def tmux(self, *words):
        done = subprocess.run(
            [*self.command, *words], env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def starts(self, *command):
        shell = f'{shlex.join(map(str, command))}; echo "exit=$?"; exec sleep 600'
        self.tmux("new-session", "-d", *self.size, shell)

    def screen(self):
        return self.tmux("capture-pane", "-p")

    def sees(self, text, timeout=30):
        """Until this is on the screen."""
        deadline = time.monotonic() + timeout
        while text not in (shown := self.screen()):
            assert time.monotonic() < deadline, f"no {text!r} on the screen:\n{shown}"
            time.sleep(0.1)

    def entitled(self, pattern, timeout=10):
        """Until the title says this."""
        deadline = time.monotonic() + timeout
        while not re.match(pattern, title := self.tmux("display-message", "-p", "#{pane_title}")):
            assert time.monotonic() < deadline, title
            time.sleep(0.1)

    def types(self, text):
        """Type it, and Enter when it stands there: to a program, what comes at once is pasted."""
        self.tmux("send-keys", "-l", text)
        self.sees(text)
        time.sleep(0.3)
        self.tmux("send-keys", "Enter")


def until_there_is(*command):
    """Wait for a process of exactly this command line, in whatever box."""
    line, deadline = b"".join(word.encode() + b"\0" for word in command), time.monotonic() + 30
    while not any(_command_line(process) == line for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline, command
        time.sleep(0.05)


def _command_line(process):
    with contextlib.suppress(OSError):  # it has ended
        return (process / "cmdline").read_bytes()
    return b""


@pytest.fixture
def tmux(user):
    terminal = Tmux(user)
    yield terminal
    subprocess.run([*terminal.command, "kill-server"], env=terminal.environment, capture_output=True, timeout=20)


@pytest.mark.clients
def test_somebody_works_with_claude_code_in_a_terminal(user, tmux):
    project = Project(user, CLAUDE)
    tmux.environment["PATH"], tmux.folder = user.environment["PATH"], user.folder
    waits = {"text": "I wait.", "commands": ["touch waiting; tail -f words.txt"]}
    with user.provides(*STEPS, waits, {"text": "Not asked for."}) as provider:
        tmux.starts(COMMAND, "claude", "--box", project.box(provider), "--model", ANTHROPIC)
        tmux.sees("/workspace/project")  # no question of a first start comes before it
        tmux.types(TASK)
        tmux.sees("All done.")
        tmux.types("Wait")
        tmux.sees("tail -f")
        until_there_is("tail", "-f", "words.txt")
        tmux.entitled(r"(\$0\.0[1-9]) of \$3\.00 · today \1 of \$20\.00 · freeze: gearcase freeze ")
        tmux.tmux("send-keys", "C-c")
        tmux.sees("Interrupted")
        tmux.tmux("resize-window", "-x", "70", "-y", "20")
        tmux.sees("─" * 70)
        assert "─" * 71 not in tmux.screen()
        tmux.types("/exit")
        tmux.sees("exit=0")
        assert len(provider.calls()) == 3, "what was interrupted was not asked about again"
        record = user.types("report", "--json", code=0).record
        project.pays(record, provider)
    project.done(record)
    assert {"project/OUT.txt", "project/waiting"} <= {one["path"] for one in record["delivered"]}


@pytest.mark.clients
def test_codex_does_a_task(user):
    project = Project(user, CODEX)
    with user.provides(*STEPS) as provider:
        command = ("codex", "--json", "--box", project.box(provider), "exec", "--skip-git-repo-check", "-m", OPENAI, TASK)
        record, told = project.does(provider, *command)
        assert "All done." in told
        assert "OPENAI_API_KEY=only-a-token" in project.done(record)


def opencode(project, provider):
    """What runs OpenCode on the task."""
    settings = {
        "provider": {"anthropic": {"options": {"baseURL": "http://model.box/v1", "apiKey": "only-a-token"}}},
        "permission": "allow",
        "autoupdate": False,
        "share": "disabled",
    }
    box = project.box(provider, more=OWN.format(program="opencode", folder=project.user.folder))
    inside = ["env", f"OPENCODE_CONFIG_CONTENT={json.dumps(settings)}", "OPENCODE_DISABLE_MODELS_FETCH=1"]
    run = f'cd project && opencode run -m anthropic/{ANTHROPIC} "{TASK}"'
    return ["exec", "--json", "-f", box, "--", *inside, "sh", "-c", run]


@pytest.mark.clients
def test_opencode_does_a_task(user):
    project = Project(user, OPENCODE)
    with user.provides(*STEPS) as provider:
        record, _ = project.does(provider, *opencode(project, provider))
        project.done(record)


def gemini(project, provider, usd=3, statistics=False):
    """What runs gemini-cli on the task with the settings of its preset."""
    see = f'see = ["{PRESETS}/gemini-cli/settings.json"]\n'
    box = project.box(provider, usd=usd, more=OWN.format(program="gemini", folder=project.user.folder) + see)
    change = f"s/\\(Statistics.*\\)false/\\1{str(statistics).lower()}/"
    home = f"mkdir -p ~/.gemini && sed '{change}' /given/settings.json > ~/.gemini/settings.json"
    run = f'{home} && cd project && gemini --yolo --skip-trust -m {GOOGLE} -p "{TASK}"'
    return ["exec", "--json", "-f", box, "--", "sh", "-c", run]


@pytest.mark.clients
def test_gemini_cli_does_a_task(user):
    project = Project(user, GEMINI)
    with user.provides(*STEPS) as provider:
        record, told = project.does(provider, *gemini(project, provider))
        assert "All done." in told
        assert "GEMINI_API_KEY=only-a-token" in project.done(record)
        assert all(GOOGLE in one["client"] and one["path"].startswith("/v1beta/models/") for one in provider.calls())
        assert project.asked() == set(), "with the preset it wants nothing of the network besides its model"


@pytest.mark.clients
def test_gemini_cli_that_reports_home_is_told_that_there_is_no_such_name_and_goes_on(user):
    project = Project(user, GEMINI)
    with user.provides(*STEPS) as provider:
        record, _ = project.does(provider, *gemini(project, provider, statistics=True))
        project.done(record)
        assert project.asked() == {("play.googleapis.com", False)}


def tree(user):
    """Threads of the run's calls, and the parent of each, in the order in which they first asked."""
    called = [one for one in user.journal() if one["type"] == "model_called"]
    return {one["thread"]: one.get("parent", "") for one in called}


@pytest.mark.clients
def test_what_a_sub_agent_of_claude_code_asks_for_is_told_apart(user):
    project = Project(user, CLAUDE)
    agent = {"description": "helps", "prompt": "Say hi", "subagent_type": "general-purpose"}
    with user.provides({"text": "I ask.", "uses": {"Agent": agent}}, {"text": "Hi."}) as provider:
        project.does(provider, "claude", "--json", "--box", project.box(provider), "-p", TASK, "--model", ANTHROPIC)
        calls = provider.calls()
    main, sub = tree(user)
    assert tree(user) == {main: "", sub: main}
    threads = user.types("report", "--json", code=0).record["threads"]
    assert threads[sub]["calls"] == 1 and threads[main]["calls"] == len(calls) - 1
    assert f"└─ {sub[-8:]}" in user.types("report", code=0).out


@pytest.mark.clients
def test_what_a_sub_agent_of_codex_asks_for_is_told_apart(user):
    project = Project(user, CODEX)
    agent = {"text": "I ask.", "uses": {"multi_agent_v1/spawn_agent": {"message": "Say hi"}}}
    waits = {"text": "I wait.", "commands": ["sleep 3"]}  # whoever of the two comes first
    with user.provides(agent, waits, {"text": "Hi."}) as provider:
        command = ("codex", "--json", "--box", project.box(provider), "exec", "--skip-git-repo-check", "-m", OPENAI, TASK)
        project.does(provider, *command)
    main, sub = tree(user)
    assert tree(user) == {main: "", sub: main}


@pytest.mark.clients
def test_what_a_sub_agent_of_opencode_asks_for_is_told_apart(user):
    project = Project(user, OPENCODE)
    agent = {"description": "helps", "prompt": "Say hi", "subagent_type": "general"}
    with user.provides({"text": "I ask.", "uses": {"task": agent}}, {"text": "Hi."}) as provider:
        project.does(provider, *opencode(project, provider))
    main, sub = tree(user)
    assert tree(user) == {main: "", sub: main}


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
    assert tree(user) == {"": ""}, "aider tells no threads apart"


PAGES = {"claude-code": CLAUDE, "codex": CODEX, "opencode": OPENCODE, "aider": AIDER}


def commands_of(preset):
    """What a preset's page says to type, for a run without a person."""
    block = re.search(r"BOX the path of `box.toml`:\n\n((?:    .*\n)+)", (PRESETS / preset / "README.md").read_text())[1]
    return "".join(line for line in textwrap.dedent(block).splitlines(keepends=True) if "# interactive" not in line)


@pytest.mark.clients
@pytest.mark.parametrize("preset", PAGES)
def test_the_page_of_a_preset_can_be_typed_as_it_stands(user, preset):
    client = PAGES[preset]
    Project(user, client)
    subprocess.run(["git", "init", "-q", user.folder], check=True)
    edit = "OUT.txt\n```\n<<<<<<< SEARCH\n=======\nHELLO\n>>>>>>> REPLACE\n```\n"
    steps = ({"text": edit},) if client is AIDER else STEPS
    with user.provides(*steps) as provider:
        box = user.home / "box.toml"
        box.write_text(
            f'{(PRESETS / preset / "box.toml").read_text()}\n[model.providers.{client.provider}]\nbase = "{provider.base}"\n'
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


@pytest.mark.clients
def test_gemini_cli_that_is_out_of_money_says_so_and_the_provider_is_not_asked(user):
    project = Project(user, GEMINI)
    with user.provides(*STEPS) as provider:
        _, told = project.does(provider, *gemini(project, provider, usd="0.001"), code=1)
        assert not provider.calls()
        assert "is left" in told
        assert [one["code"] for one in project.refused()] == ["budget"], "it does not ask again and again"


@pytest.mark.clients
def test_gemini_cli_whose_answer_goes_on_above_its_ceiling_is_stopped_and_ends(user):
    project = Project(user, GEMINI)
    with user.provides({"fault": "ignore_cap"}) as provider:
        ended = user.types(*gemini(project, provider, usd="0.05"), code=1, timeout=200, **user.keys)
        assert len(provider.calls()) == 1 and 0 < ended.record["spent"]["usd"] <= 50_000_000
        [refused] = project.refused()  # it has noticed that it repeats itself, and asks before or after the model is stopped
        assert refused["code"] in ("stopped_model", "budget") and refused["message"] in ended.err


@pytest.mark.clients
def test_gemini_cli_whose_answer_breaks_off_asks_again_and_both_are_paid(user):
    project = Project(user, GEMINI)
    with user.provides({"text": "I wr", "pieces": 4, "fault": "drop"}, *STEPS) as provider:
        ended = user.types(*gemini(project, provider), code=0, timeout=200, **user.keys)
        project.done(ended.record)
        assert len(provider.calls()) == ended.record["spent"]["calls"] == 3
        assert provider.billed("google") <= ended.record["spent"]["usd"]


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
