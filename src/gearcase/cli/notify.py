"""`gearcase notify`: whether those who are to be told when a run waits can be reached."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from gearcase.box import load_box
from gearcase.box.notify import Notify
from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.text import neutral
from gearcase.errors import RunError, UsageError
from gearcase.notify.page import TEST
from gearcase.notify.pager import Answer, attempt
from gearcase.notify.shapes import Outgoing, resolve, trigger
from gearcase.notify.targets import chosen, destinations, user_file

app = typer.Typer(help="Who is told when a run waits for a person.", no_args_is_help=True, rich_markup_mode=None)


@app.command("test")
def test(file: o.BoxFile = None, as_json: o.Json = False) -> None:
    """Send a test page to every target and tell what each answered.

    Targets are those of the box (without -f: ./box.toml), else your own.
    """
    if file is None and Path("box.toml").is_file():
        file = Path("box.toml")
    to = destinations(chosen(load_box(file).box.notify if file is not None else Notify()), os.environ)
    if not to:
        remedy = f"name one in the box, [notify.to.phone], or in {user_file()}, [to.phone]; see docs/notify.md"
        raise UsageError("no_target", "nobody is to be told", remedy=remedy)
    answers = _sent(trigger(one, TEST) for one in to)
    _sent(post for one, answer in zip(to, answers, strict=True) if not answer.why and (post := resolve(one, TEST)) is not None)
    told = list(zip(to, answers, strict=True))
    failed = [one.name for one, answer in told if answer.why]
    if as_json:
        print_json([{"to": one.name, "kind": one.kind, **_fields(answer)} for one, answer in told])
        raise typer.Exit(RunError.exit_code if failed else 0)
    for one, answer in told:
        done = Text(f"not told: {answer.why}", "red") if answer.why else Text(f"told ({answer.status})", "green")
        out().print(Text.assemble((neutral(one.name), "bold"), f" ({one.kind})  ", done, f"  {neutral(answer.said)}"))
    if failed:
        remedy = "see that its address and key are right and that this machine reaches it (HTTPS_PROXY is used where it is set)"
        raise RunError("not_told", f"not everybody could be told: {', '.join(failed)}", remedy=remedy)


def _sent(posts: Iterable[Outgoing]) -> list[Answer]:
    """What was answered to each; one that is slow keeps none waiting but us."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(attempt, [post.as_json() for post in posts]))


def _fields(answer: Answer) -> dict[str, Any]:
    return {"status": answer.status, "why": answer.why, "said": answer.said}
