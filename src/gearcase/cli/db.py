"""`gearcase db`: what a run did to its databases."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import err, out, print_json
from gearcase.cli.psql import psql
from gearcase.cli.text import neutral
from gearcase.doors.postgres.difference import DATABASES, Kept, as_text, compare, recall
from gearcase.runs import find

app = typer.Typer(help="What a run did to its databases.", no_args_is_help=True)
app.command("psql")(psql)
_STYLES = {"added": "green", "dropped": "red", "changed": "cyan"}
_LINE = 300


@app.command("diff")
def diff(
    run: o.RunReference = "",
    name: Annotated[str, typer.Option("--name", help="One database of it, as the box calls it.")] = "",
    as_json: o.Json = False,
) -> None:
    """Show what a run changed in a database. Its schema, and the rows of each table, as given and as left."""
    folder = find(run)
    kept = recall(folder.path / DATABASES, name)
    if as_json:
        print_json({"run": folder.id, "databases": [_as_json(one) for one in kept]})
        return
    for one in kept:
        changes = list(compare(one.before, one.after))
        source = f" of {one.source}" if one.source else ""
        title = Text.assemble((neutral(one.name), "bold"), f" ({one.mode}{neutral(source)}): {len(changes) or 'nothing'} changed")
        err().print(title, soft_wrap=True)
        for change in changes:
            out().print(Text(neutral(as_text(change)), _STYLES[change.what]), soft_wrap=True)
            for line in change.lines:
                out().print(f"    {neutral(line, limit=_LINE)}", soft_wrap=True)


def _as_json(kept: Kept) -> dict[str, Any]:
    changes = [change.as_json() for change in compare(kept.before, kept.after)]
    return {"name": kept.name, "mode": kept.mode, "source": kept.source, "changes": changes}
