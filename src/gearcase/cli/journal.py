"""`gearcase journal`: the record of a run, checked, shown and exported."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gearcase.cli import lines
from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.journal import Verification, read
from gearcase.journal import verify as verify_journal
from gearcase.journal.crosschecks import CALLS, COMMANDS, LEDGER, Crosschecks, crosscheck
from gearcase.runs import find
from gearcase.units import format_money

_COUNTED = ("ended", "calls", "requests", "commands", "spent")

app = typer.Typer(help="Verify, show and export the record of a run.", no_args_is_help=True, rich_markup_mode=None)


@app.command("verify")
def verify(
    run: o.RunReference = "",
    head: Annotated[
        str, typer.Option("--from", "--head", help="The head that you hold (16 digits or more): nothing before it may differ.")
    ] = "",
    at: Annotated[int, typer.Option("--at", help="Its sequence: a last record that differs is named, not the next.", min=0)] = 0,
    as_json: o.Json = False,
) -> None:
    """Prove that nothing in a journal was altered. Nor removed or reordered; and that it agrees with itself. Exit 1 if not."""
    folder = journal_of(run)
    proof = verify_journal(folder, head, at)
    checks = crosscheck(read(folder)) if proof.ok else None
    if as_json:
        told = {name: getattr(checks, name) for name in _COUNTED} if checks else {}
        findings = [dataclasses.asdict(one) for one in checks.findings] if checks else []
        print_json({**dataclasses.asdict(proof), **told, "findings": findings})
    else:
        _show_proof(proof)
        if checks:
            _show_checks(checks)
    raise typer.Exit(0 if proof.ok and checks and not checks.findings else 1)


def _show_proof(proof: Verification) -> None:
    if proof.ok:
        out().print(Text.assemble(("✓ ", "green"), f"{proof.records:,} records, unbroken; head {neutral(proof.head)}"))
        out().print(Text(_unseen(proof), "dim"))
    else:
        out().print(Text.assemble(("✗ ", "bold red"), f"record {proof.first_bad}: {neutral(proof.reason)}"))
        out().print(Text(f"{proof.records:,} records before it are unbroken; head {neutral(proof.head)}"))


def _unseen(proof: Verification) -> str:
    """What a proof cannot tell."""
    if not proof.held:
        return "what was cut off its end, or rewritten whole, cannot be seen without a head that you hold (--from HEAD)"
    return (
        f"the head that you hold is record {proof.held}'s; what was cut off the end after it, or rewritten there, cannot be seen"
    )


def _show_checks(checks: Crosschecks) -> None:
    going = "" if checks.ended else "; it has no ending yet, what is open is not missed"
    for check, counted in (
        (LEDGER, f"every hold ends once, and the sum is {format_money(checks.spent['usd'])}"),
        (CALLS, f"{checks.calls:,} model calls, each with its hold; {checks.requests:,} billed requests had left"),
        (COMMANDS, f"{checks.commands:,} commands, each with its end"),
    ):
        found = [one for one in checks.findings if one.check == check]
        for one in found:
            out().print(Text.assemble(("✗ ", "bold red"), f"{check}: record {one.seq}: {neutral(one.fact)}"))
        if not found:
            out().print(Text.assemble(("✓ ", "green"), f"{check}: {counted}{going}"))


@app.command("show")
def show(
    run: o.RunReference = "",
    kind: Annotated[list[str] | None, typer.Option("--type", "-t", help="Only events of this type (repeat).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as it stands on disk.")] = False,
) -> None:
    """Print every event of a journal, with its fields."""
    for record in read(journal_of(run)):
        if kind and record.type not in kind:
            continue
        if as_json:
            print(json.dumps(record.raw, ensure_ascii=True))
        else:
            out().print(lines.detail(record), soft_wrap=True)


@app.command("export")
def export(
    run: o.RunReference = "",
    otel: Annotated[
        str, typer.Option("--otel", help="A receiver of OTLP, such as http://localhost:4318, or a new file.", metavar="URL|FILE")
    ] = "",
    as_json: o.Json = False,
) -> None:
    """Export a run as OpenTelemetry spans. Agents, model calls and commands, without any text of the run."""
    from gearcase.journal import otlp
    from gearcase.journal.spans import spans

    if not otel:
        raise UsageError("export", "it is not said where to", remedy="add --otel http://localhost:4318, or --otel FILE")
    told = list(spans(read(journal_of(run))))  # whole: nothing is exported of a journal that is damaged
    count = asyncio.run(otlp.send(told, otel)) if "://" in otel else otlp.write(told, Path(otel))
    if as_json:
        print_json({"spans": count, "to": otel})
    else:
        out().print(f"{count:,} spans: {neutral(otel)}", soft_wrap=True)


def journal_of(run: str) -> Path:
    """A journal's folder given as a path, or a run's."""
    path = Path(run)
    if run and path.is_dir() and any(path.glob("*.jsonl")):
        return path
    return find(run).journal
