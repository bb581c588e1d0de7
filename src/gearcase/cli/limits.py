"""`gearcase limits`: what everything that a user runs may spend, in a day and in a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
from rich.text import Text

from gearcase.allowance import UserLimits, day_total, limits_file, set_user_limits, today, user_limits
from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.shapes import Bar, grid, share
from gearcase.cli.text import neutral
from gearcase.errors import UsageError
from gearcase.units import format_money, parse_money

app = typer.Typer(help="Limits of all your runs together; alone, show them.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def limits(context: typer.Context) -> None:
    """Show them, where no command is named."""
    if context.invoked_subcommand is None:
        _show(user_limits(), False)


@app.command("show")
def show(as_json: o.Json = False) -> None:
    """Show the limits, and what is spent of today's."""
    _show(user_limits(), as_json)


@app.command("set")
def set_limits(
    usd_per_day: Annotated[
        str | None, typer.Option("--usd-per-day", help="Most dollars of all runs in a day (UTC).", metavar="DOLLARS")
    ] = None,
    usd_per_run: Annotated[
        str | None, typer.Option("--usd-per-run", help="Most dollars that a box may ask for.", metavar="DOLLARS")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Change limits. They hold at once, for runs that live too."""
    typed = {"usd_per_day": usd_per_day, "usd_per_run": usd_per_run}
    wanted = {name: parse_money(value) for name, value in typed.items() if value is not None}
    if not wanted:
        raise UsageError("no_limit", "no limit is named", remedy="gearcase limits set --usd-per-day 20 --usd-per-run 5")
    limits = UserLimits(**wanted) if len(wanted) == len(typed) else replace(user_limits(), **wanted)
    set_user_limits(limits)
    _show(limits, as_json)


def _show(limits: UserLimits, as_json: bool) -> None:
    total = day_total(today())
    if as_json:
        day = {"day": total.day, "spent": total.spent, "leased": total.leased}
        print_json(
            {"usd_per_day": limits.usd_per_day, "usd_per_run": limits.usd_per_run, "today": day, "file": str(limits_file())}
        )
        return
    table = grid(None, None, 1)
    most, spent = limits.usd_per_day, total.spent
    leased = f", {format_money(total.leased)} set aside by runs that live" if total.leased else ""
    told = f"{format_money(spent)} of {format_money(most)}{leased}"
    table.add_row("today", Bar(share(spent, most), share(total.leased, most)), told)
    table.add_row("a run", "", f"{format_money(limits.usd_per_run)}, which a box may ask for at most")
    out().print(table)
    out().print(Text(f"change them: gearcase limits set --usd-per-day 20\nkept in {neutral(limits_file())}", "dim"))
