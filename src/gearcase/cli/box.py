"""`gearcase box`: look at a declaration without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from gearcase.box import effective_toml, load_box, schema
from gearcase.box.crossing import crossings
from gearcase.cli import options as o
from gearcase.cli.console import out, print_json
from gearcase.cli.text import neutral

app = typer.Typer(help="Check, show and describe box files.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[Path, typer.Argument(metavar="[FILE]", help="Box file.", show_default="./box.toml")]


@app.command("check")
def check(file: File = Path("box.toml"), as_json: o.Json = False) -> None:
    """Say whether a box file is right. Every mistake comes with its line and what would be right."""
    box = load_box(file)
    if as_json:
        print_json({"ok": True, "file": str(box.path)})
    else:
        out().print(Text.assemble(("✓ ", "green"), neutral(file), " is a box"))
        from gearcase.monitors.able import told

        out().print(Text(told(box.box), "dim"))
    o.warn_of_doubts(box)


@app.command("show")
def show(file: File = Path("box.toml"), as_json: o.Json = False) -> None:
    """Print the effective box, with where each value comes from."""
    box = load_box(file)
    if as_json:
        crossing = [{"what": one.what, "inside": one.inside} for one in crossings(box.box)]
        print_json({"box": effective_toml(box.box), "sources": dict(box.sources), "crossing": crossing})
    else:
        out().print(Text(effective_toml(box.box, box.source)), end="", soft_wrap=True)
        out().print(Text("\n# What of this machine is inside, and nothing else:"), soft_wrap=True)
        for one in crossings(box.box):
            out().print(Text(neutral(f"#   {one.what}: {one.inside}")), soft_wrap=True)


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of box.toml, from which editors complete."""
    print_json(schema())
