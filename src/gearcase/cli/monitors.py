"""`gearcase monitors`: what the detectors are, what they say of runs that are over, and how often they are right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.text import neutral
from gearcase.errors import UsageError

app = typer.Typer(help="Detectors that watch runs: list, replay, score.", no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Runs, journals, or trajectories of other tools.")]


@app.command("list")
def list_monitors(file: o.BoxFile = None, as_json: o.Json = False) -> None:
    """Tell every detector, when it speaks, and what it may do.

    With -f: what it can do in that box, and what it would need.
    """
    from gearcase.box import Box, load_box
    from gearcase.monitors import DETECTORS
    from gearcase.monitors.able import lacking, levels, told

    box = load_box(file).box if file is not None else Box()
    level, without = levels(box), lacking(box) if file is not None else {}
    rows = [
        {"name": one.name, "level": level[one.name], "rule": one.rule, "lacks": without.get(one.name, "")} for one in DETECTORS
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("monitor", "level", "when") + (("lacks",) if file is not None else ()):
        table.add_column(title)
    for row in rows:
        table.add_row(*[neutral(row[key]) for key in ("name", "level", "rule") + (("lacks",) if file is not None else ())])
    out().print(table)
    if file is not None:
        out().print(Text(told(box), "dim"))


@app.command("replay")
def replay(files: Files, as_json: o.Json = False) -> None:
    """Tell what the detectors say of runs that are over.

    Nothing is done to anybody.
    """
    from gearcase.monitors import Watch
    from gearcase.monitors.foreign import told_by

    found: list[dict[str, Any]] = []
    for name in files:
        watch, count, before = Watch(act=True), 0, len(found)
        for boot, agent, event in told_by(_path(name)):
            count += 1
            for raised in watch.hear(event, agent, boot):
                alarm = raised.alarm
                row = {"file": name, "event": count, "detector": alarm.detector, "action": raised.action, "fact": alarm.fact}
                found.append({**row, "agent": alarm.agent, "evidence": alarm.evidence, "again": raised.again})
        if not as_json:
            _show(name, count, found[before:])
    if as_json:
        print_json(found)


@app.command("score")
def score_runs(
    files: Files,
    labels: Annotated[Path, typer.Option("--labels", help="FILE,LABEL lines or a JSON object: good or bad, by file name.")],
    as_json: o.Json = False,
) -> None:
    """Tell how often each detector speaks of bad runs and of good ones.

    Each rate with its 95 % interval (Wilson).
    """
    from gearcase.monitors.foreign import told_by
    from gearcase.monitors.scoring import labels_of, score, spoken

    known = labels_of(labels)
    missing = [name for name in files if name not in known and Path(name).name not in known]
    if missing:
        remedy = f"add lines to {labels}: {Path(missing[0]).name},good"
        raise UsageError("unlabelled", f"{len(missing)} runs have no label, such as {missing[0]}", remedy=remedy)
    runs = [(known.get(name, known.get(Path(name).name, False)), spoken(told_by(_path(name)))) for name in files]
    scores = score(runs)
    if as_json:
        rows = [
            {"detector": one.detector, **{key: _rate(getattr(one, key)) for key in ("bad", "good", "held")}} for one in scores
        ]
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("monitor", "of bad runs", "of good runs", "good ones held"):
        table.add_column(title)
    for one in scores:
        table.add_row(one.detector, *[_said(rate) for rate in (one.bad, one.good, one.held)])
    out().print(table)


def _rate(rate: Any) -> dict[str, Any]:
    low, high = rate.interval
    return {"hits": rate.hits, "of": rate.of, "low": round(low, 4), "high": round(high, 4)}


def _said(rate: Any) -> str:
    low, high = rate.interval
    return f"{rate.hits} of {rate.of}  ({low:.0%} to {high:.0%})" if rate.of else "no runs"


def _path(name: str) -> Path:
    """A file, or the journal of a run of this name."""
    path = Path(name)
    if path.exists():
        return path
    from gearcase.runs import find

    return find(name).journal


def _show(name: str, count: int, found: list[dict[str, Any]]) -> None:
    out().print(Text.assemble((neutral(name), "bold"), f"  {count:,} events, {len(found)} alarms"))
    for row in found:
        style = {"shadow": "dim", "note": "yellow"}.get(row["action"], "bold red")
        line = Text.assemble(
            (f"  {row['event']:>6}  ", "dim"), (f"{row['detector']}  {row['action']}", style), f"  {neutral(row['fact'])}"
        )
        out().print(line, soft_wrap=True)
