"""The tree of sub-agents in a report, as wide as a terminal is at the least."""

from io import StringIO

from rich.console import Console

from gearcase.cli.subagents import AgentView, report

LIMITS = {"usd": 500_000_000}


def one(name, goal, status="done", **more):
    spent = {"usd": 120_000_000}
    return AgentView(
        **{"parent": "lead", "depth": 1, "model": "m", **more, "name": name, "goal": goal, "status": status},
        limits=LIMITS,
        steps=400,
        spent=spent,
    )


def shown(agents, width=78):
    """The lines at 80 columns, of which a section takes two."""
    console = Console(file=StringIO(), width=width)
    for part in report(agents):
        console.print(part)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_at_80_columns_each_line_tells_who_it_was_how_it_ended_what_it_cost_and_what_for():
    agents = {
        "a1": one("ini", "turn raw/ini into clean/ini.csv with the columns of columns.txt", verdict="failed"),
        "a2": one("ini", "more", verdict="passed", again="a1"),
        "a3": one("a3", "upper", status="budget", limit="usd", verdict="failed"),
        "a4": one("a-name-that-is-as-long-as-it-may-ever-be", "below", status="parent_ended", parent="a3", depth=2),
    }
    lines = shown(agents)
    first, second, third, more, last = lines[1:]
    assert first.startswith("a1 ini") and " check failed " in first and " $0.12 of $0.50  turn raw/ini into" in first
    assert " check passed " in second and second.endswith("(again: a1) more")
    assert " budget: usd, " in third and more.strip() == "check failed"
    assert last.startswith("  a4 a-name-") and " parent_ended " in last and last.endswith("below")
    assert shown(agents, 140)[1].endswith("turn raw/ini into clean/ini.csv with the columns of columns.txt")
