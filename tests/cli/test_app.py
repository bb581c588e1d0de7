"""The installed command, as a person or a program calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gearcase import __version__
from gearcase.cli.app import COMMANDS
from gearcase.cli.failure import unexpected

GEARCASE = str(Path(sys.executable).with_name("gearcase"))


GROUPS = [name for name, entry in COMMANDS.items() if entry.name == "app"]


def gearcase(folder: Path, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    around = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "100", **environment}
    return subprocess.run([GEARCASE, *arguments], cwd=folder, env=around, input=stdin, capture_output=True, text=True, timeout=60)


def test_the_version_is_told_without_importing_the_command_line(tmp_path: Path) -> None:
    assert gearcase(tmp_path, "--version").stdout == f"gearcase {__version__}\n"
    script = "import sys; sys.argv = ['gearcase', '--version']; from gearcase.cli import main; main(); print(sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "'typer'" not in told
    assert "'pydantic'" not in told
    assert "'rich'" not in told


def test_help_names_every_command(tmp_path: Path) -> None:
    told = gearcase(tmp_path, "--help").stdout
    assert all(f" {name} " in told for name in COMMANDS)


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_no_description_in_a_list_of_commands_is_cut_at_80_columns(tmp_path: Path, group: str) -> None:
    listed = gearcase(tmp_path, *group.split(), "--help", COLUMNS="80").stdout.partition("Commands:")[2]
    assert listed and "..." not in listed


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_describes_itself(tmp_path: Path, command: str) -> None:
    ended = gearcase(tmp_path, command, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "Usage: gearcase" in ended.stdout


def test_an_unknown_command_is_a_usage_error(tmp_path: Path) -> None:
    ended = gearcase(tmp_path, "rnu")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "did you mean `gearcase run`?" in ended.stderr


def test_only_the_typed_command_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['gearcase', 'box', 'schema']\n"
        "from gearcase.cli import main\n"
        "main()\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    assert "gearcase.cli.box" in loaded
    assert "gearcase.cli.run" not in loaded
    assert "aiohttp" not in loaded


# --- errors ----------------------------------------------------------------------------------------------------------------


def test_a_wrong_box_is_told_on_stderr_with_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text("[limits]\nmemry = '1GiB'\n")
    ended = gearcase(tmp_path, "box", "check")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "unknown key `memry` in [limits], line 2: did you mean `memory`?" in ended.stderr
    assert "→" in ended.stderr


def test_with_json_the_error_is_the_only_thing_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text("[limits]\nmemry = '1GiB'\n")
    ended = gearcase(tmp_path, "box", "check", "--json")
    told = json.loads(ended.stdout)
    assert ended.returncode == told["exit_code"] == 2
    assert set(told["error"]) == {"code", "message", "cause", "remedy", "context"}
    assert told["error"]["context"]["mistakes"][0]["near"] == "memory"
    assert ended.stderr == ""


def test_an_error_shows_a_hostile_key_without_its_escapes(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text('"\\u001b[2J[bold]x" = 1\n')
    ended = gearcase(tmp_path, "box", "check", FORCE_COLOR="1")
    assert "\x1b[2J" not in ended.stderr
    assert "[bold]x" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("report",), "no_run"),
        (("logs", "amber"), "no_run"),
        (("freeze",), "no_run"),
        (("resume", "x"), "no_run"),
        (("kill", "x"), "no_run"),
        (("replay",), "no_run"),
        (("journal", "verify"), "no_run"),
        (("run",), "no_goal"),
        (("run", "count"), "no_model"),
        (("run", "count", "--model", "a/b", "--require-checks"), "no_checks"),
        (("run", "count", "--usd", "much"), "box"),
        (("run", "count", "--give", "absent"), "box"),
        (("run", "count", "-f", "absent.toml"), "no_box"),
        (("exec", "--usd", "1"), "no_program"),
        (("models", "list", "nobody"), "unknown_provider"),
        (("models", "prices", "anthropic/nothing"), "unknown_model"),
        (("run", "count", "--model", "openai/gpt-0", "--take", "out/**"), "unknown_model"),
        (("spend", "--bogus"), "wrong_call"),
        (("spend", "--by", "moon"), "wrong_call"),
        (("run", "count", "--cpus", "two"), "wrong_call"),
        (("journal", "verfiy"), "wrong_call"),
        (("rnu",), "unknown_command"),
    ],
)
def test_a_wrong_call_ends_with_2_and_a_remedy(tmp_path: Path, arguments: tuple[str, ...], code: str) -> None:
    ended = gearcase(tmp_path, *arguments, "--json")
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["error"]["code"]) == (2, code)
    assert told["error"]["remedy"]
    assert ended.stderr == "" or "nothing may leave" in ended.stderr


def test_a_wrong_option_is_told_with_the_nearest_and_where_help_is(tmp_path: Path) -> None:
    ended = gearcase(tmp_path, "spend", "--sinse", "7d")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--since" in ended.stderr and "gearcase spend --help" in ended.stderr


def test_a_defect_of_ours_becomes_an_error_that_says_where_its_traceback_is() -> None:
    try:
        raise ValueError("\x1b[2Jboom")
    except ValueError as defect:
        told = unexpected(defect)
    saved = Path(told.context["traceback"])
    try:
        assert "Traceback" in saved.read_text()
        assert str(saved) in told.remedy
        assert "Traceback" not in told.cause
        assert "\x1b" not in told.cause
        assert told.exit_code == 13
    finally:
        saved.unlink()


def test_a_reader_that_leaves_early_is_no_defect(tmp_path: Path) -> None:
    around = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = f"{GEARCASE} box schema | head -c 10; echo; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], env=around, capture_output=True, text=True, timeout=60)
    assert "Error" not in ended.stderr
    assert "defect" not in ended.stderr


# --- commands that need no run ---------------------------------------------------------------------------------------------


def test_box_show_prints_a_box_that_is_one(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text("[limits]\nusd = 0.75\n")
    shown = gearcase(tmp_path, "box", "show").stdout
    assert "usd = 0.75" in shown
    assert "# box.toml:2" in shown
    (tmp_path / "effective.toml").write_text(shown)
    assert gearcase(tmp_path, "box", "check", "effective.toml").returncode == 0


def test_box_schema_is_json(tmp_path: Path) -> None:
    assert json.loads(gearcase(tmp_path, "box", "schema").stdout)["title"] == "box.toml"


def test_dry_run_shows_the_effective_box_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ended = gearcase(
        tmp_path, "run", "count", "--model", "a/b", "--give", "data", "--take", "out/**", "--usd", "0.5", "--dry-run"
    )
    assert ended.returncode == 0, ended.stderr
    assert "usd = 0.50" in ended.stdout
    assert "# --usd" in ended.stdout
    assert "Worst case" in ended.stdout
    assert not list((tmp_path / "state").glob("gearcase/runs/*"))


def test_without_a_goal_the_box_of_the_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text("goal = 'count'\n[model]\nlead = 'a/b'\n[limits]\nsteps = 7\n")
    told = json.loads(gearcase(tmp_path, "run", "--dry-run", "--json").stdout)
    assert told["worst_case"]["steps"] == "7"
    assert told["sources"]["limits.steps"] == "box.toml:5"


def test_prices_are_told_in_nano_dollars_to_programs(tmp_path: Path) -> None:
    told = json.loads(gearcase(tmp_path, "models", "prices", "anthropic/claude-opus-5-5", "--json").stdout)
    assert told[0]["model"] == "anthropic/claude-opus-5-5"
    assert told[0]["output"] > told[0]["input"] > told[0]["cache_read"] > 0


def test_there_is_no_run_yet(tmp_path: Path) -> None:
    assert "no run yet" in gearcase(tmp_path, "ps").stdout
    assert json.loads(gearcase(tmp_path, "ps", "--json").stdout) == []


def test_no_colour_without_a_terminal_and_with_no_color(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text("x = 1\n")
    assert "\x1b" not in gearcase(tmp_path, "box", "check").stderr
    assert "\x1b[3" not in gearcase(tmp_path, "box", "check", FORCE_COLOR="1", NO_COLOR="1").stderr
