"""The command line: one module per command, and only the module of the command that was typed is imported."""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from typing import Any

import typer

from gearcase import __version__
from gearcase.cli import failure
from gearcase.errors import GearcaseError, UsageError


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a command lives: a function, or a group (a `typer.Typer`)."""

    module: str
    name: str
    options: dict[str, Any] | None = None


_REST = {"context_settings": {"allow_interspersed_args": False}}

_AGENT = {"context_settings": {"allow_interspersed_args": False, "ignore_unknown_options": True}}

COMMANDS: dict[str, _Entry] = {
    "demo": _Entry("demo", "demo"),
    "run": _Entry("run", "run"),
    "exec": _Entry("exec", "execute", _REST),
    "door": _Entry("door", "door"),
    "claude": _Entry("agents", "claude", _AGENT),
    "codex": _Entry("agents", "codex", _AGENT),
    "replay": _Entry("replay", "replay"),
    "ps": _Entry("ps", "ps"),
    "logs": _Entry("logs", "logs"),
    "report": _Entry("report", "report"),
    "prompts": _Entry("prompts", "prompts"),
    "spend": _Entry("spend", "spend"),
    "limits": _Entry("limits", "app"),
    "attach": _Entry("attach", "attach"),
    "grant": _Entry("brake", "grant"),
    "snapshots": _Entry("snapshots", "snapshots"),
    "diff": _Entry("diff", "diff"),
    "apply": _Entry("apply", "apply"),
    "fork": _Entry("fork", "fork"),
    "init": _Entry("init", "init"),
    "requests": _Entry("requests", "requests"),
    "allow": _Entry("requests", "allow"),
    "deny": _Entry("requests", "deny"),
    "freeze": _Entry("brake", "freeze"),
    "resume": _Entry("brake", "resume"),
    "rewind": _Entry("rewind", "rewind"),
    "kill": _Entry("brake", "kill"),
    "recover": _Entry("recover", "recover"),
    "box": _Entry("box", "app"),
    "journal": _Entry("journal", "app"),
    "query": _Entry("query", "query"),
    "monitors": _Entry("monitors", "app"),
    "notify": _Entry("notify", "app"),
    "db": _Entry("db", "app"),
    "models": _Entry("models", "app"),
    "prune": _Entry("prune", "prune"),
    "doctor": _Entry("doctor", "doctor"),
}


_ELSEWHERE = {
    "ls": "ps",
    "list": "ps",
    "stop": "kill",
    "pause": "freeze",
    "continue": "resume",
    "status": "ps",
    "cost": "spend",
    "sql": "query",
}
"""What other tools call our commands."""


def run_command_line(arguments: list[str]) -> int:
    """Run one command; returns its exit code. Every error becomes its envelope."""
    named = arguments[0] if arguments else ""
    try:
        if named and not named.startswith("-") and named not in COMMANDS:
            raise _unknown(named)
        told = build([named] if named in COMMANDS else list(COMMANDS))(arguments, prog_name="gearcase", standalone_mode=False)
        return told if isinstance(told, int) else 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except GearcaseError as error:
        return failure.show(error, _wants_json(arguments))
    except typer.Abort:  # a question that nobody could answer
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left: nothing more can be said
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        message: Any = getattr(error, "format_message", None)  # typer's classes move between versions; what they can do does not
        if message is None:
            return failure.show(failure.unexpected(error), _wants_json(arguments))
        if type(error).__name__ == "NoArgsIsHelpError":  # a group that was named alone: its help
            sys.stderr.write(f"{message()}\n")
            return UsageError.exit_code
        command = getattr(getattr(error, "ctx", None), "command_path", "") or f"gearcase {named}".strip()
        wrong = UsageError("wrong_call", message().rstrip(".").replace("\n", " "), remedy=f"see what it takes: {command} --help")
        return failure.show(wrong, _wants_json(arguments))


def build(names: list[str]) -> typer.Typer:
    """The application with the commands of these names."""
    app = typer.Typer(
        help="The box for autonomous agents: a shell, hard limits, metered doors, checked outputs, and a brake.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names:
        entry = COMMANDS[name]
        member = getattr(importlib.import_module(f"gearcase.cli.{entry.module}"), entry.name)
        if isinstance(member, typer.Typer):
            app.add_typer(member, name=name)
        else:
            app.command(name, **(entry.options or {}))(member)
    return app


def _root(version: bool = typer.Option(False, "--version", "-V", help="Print the version.", is_eager=True)) -> None:
    """Give an agent a box: `gearcase run "GOAL" --give data/ --take 'out/**' --usd 2`."""
    if version:
        print(f"gearcase {__version__}")
        raise typer.Exit


def _unknown(name: str) -> UsageError:
    near = [_ELSEWHERE[name]] if name in _ELSEWHERE else difflib.get_close_matches(name, COMMANDS, n=1)
    remedy = f"did you mean `gearcase {near[0]}`?" if near else "gearcase --help names them all"
    return UsageError("unknown_command", f"gearcase has no command {name!r}", remedy=remedy)


def _wants_json(arguments: list[str]) -> bool:
    """Whether `--json` is asked of us: what follows the first word of a program, an agent or `--` is not ours."""
    takes_program = arguments[:1] and arguments[0] in ("exec", "claude", "codex")
    for place, word in enumerate(arguments[1:]):
        if word == "--" or (takes_program and not word.startswith("-") and not arguments[place].startswith("-")):
            return False
        if word == "--json":
            return True
    return False
