"""The live view of a run: a panel drawn from the folded journal, never from the run itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.text import Text

from gearcase.cli import maps, subagents
from gearcase.cli.lines import arriving
from gearcase.cli.parts import CommandView
from gearcase.cli.shapes import (
    STATE_STYLE,
    VERDICT_MARK,
    Bar,
    amount,
    braked,
    counted,
    denied,
    grid,
    missed,
    share,
    state_text,
)
from gearcase.cli.text import first_line, neutral
from gearcase.cli.view import ROOT_LIMITS, View
from gearcase.units import format_duration

if TYPE_CHECKING:
    from gearcase.box import Limits

_LINES_SHOWN = 6


@dataclass(slots=True)
class LivePanel:
    """The panel at this moment. Whoever follows the journal sets `view` and `now` (unix seconds)."""

    limits: Limits
    view: View = field(default_factory=View)
    now: float = 0.0
    hint: str = ""
    turns: Path | None = None  # where a person answers in place of a model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view = self.view
        title = Text.assemble((neutral(view.name) or "…", "bold"), " · ", state_text(view.state))
        if view.model:
            title.append(f" · {first_line(view.model, 60)}")
        yield Panel(
            Group(*self._body(options.max_width - 4)),
            title=title,
            title_align="left",
            subtitle=Text(f"gearcase resume {neutral(view.name)}" if view.level in ("frozen", "latched") else self.hint, "dim"),
            subtitle_align="right",
            border_style=STATE_STYLE.get(view.state, "blue").replace("bold ", ""),
            padding=(0, 1),
        )

    def _body(self, width: int) -> Iterator[RenderableType]:
        view = self.view
        if view.goal:
            yield Text(first_line(view.goal, width), "italic", no_wrap=True, overflow="ellipsis")
        yield self._meters(min(30, max(10, width // 4)))
        if view.arriving is not None and not view.model and not view.commands:
            yield _cut(Text.assemble(("begin  ", "cyan"), arriving(view.arriving)))
        yield from self._command(width)
        for told in (*maps.live(view.maps), *subagents.live(view.agents)):
            yield _cut(told)
        if view.said:
            yield _cut(Text.assemble(("says  ", "magenta"), first_line(view.said, width)))
        if view.missed is not None and view.level == "running":
            yield Text.assemble(("no answer  ", "bold yellow"), missed(view.missed))
        if self.turns is not None and view.held and not view.running:
            yield from _turn(self.turns)
        if view.checks:
            yield self._checks()
        if view.agent_end and view.ended is None and view.level == "running":
            yield _cut(
                Text.assemble(("ends  ", "cyan"), "what leaves is copied, looked at for credentials, checked and delivered")
            )
        if view.denied:
            yield _cut(Text(denied(view.denied), "yellow"))
        if view.level != "running" and view.ended is None:
            yield Text(braked(view.level, view.braked_by, view.brake_reason), STATE_STYLE.get(view.level, "bold"))

    def _meters(self, cells: int) -> RenderableType:
        view = self.view
        table = grid(None, None, 1)
        for resource in ROOT_LIMITS:
            limit = view.limits.get(resource)
            if limit is None:
                continue
            spent, held = view.spent.get(resource, 0), view.held.get(resource, 0)
            waiting = f" · {amount(resource, held)} held" if held else ""
            text = f"{amount(resource, spent)} of {amount(resource, limit)}{waiting}"
            name = "money" if resource == "usd" else resource
            table.add_row(name, Bar(share(spent, limit), share(held, limit), cells), _cut(Text(text)))
        elapsed = view.elapsed(self.now)
        text = f"{format_duration(elapsed)} of {format_duration(self.limits.wall)}"
        table.add_row("time", Bar(share(elapsed, self.limits.wall), width=cells), _cut(Text(text)))
        failed = f" ({view.failed_commands} failed)" if view.failed_commands else ""
        text = f"{view.steps} of {self.limits.steps} · {counted(view.commands, 'command')}{failed}"
        table.add_row("steps", Bar(share(view.steps, self.limits.steps), width=cells), _cut(Text(text)))
        return table

    def _command(self, width: int) -> Iterator[RenderableType]:
        view = self.view
        running = list(view.running.values())
        for command in running[-2:]:
            state = f"running {format_duration(max(0.0, view.elapsed(self.now) - command.started))}"
            yield _command_line(command, state, "blue", width)
        if len(running) > 2:
            yield Text(f"and {len(running) - 2} more running", "dim")
        last = view.finished
        if last is None or running:  # what it printed would look like the running one's
            return
        how = f"exit {last.exit_code}" if last.ended == "exited" else last.ended
        struck = f", {', '.join(last.limits)} limit" if last.limits else ""
        state = neutral(f"{how}{struck} in {format_duration(last.seconds)}")
        yield _command_line(last, state, "red" if last.failed else "green", width)
        for line in last.lines[-_LINES_SHOWN:]:
            yield _cut(Text(f"  {neutral(line, limit=width)}", "dim"))

    def _checks(self) -> Text:
        parts = Text("checks  ", "magenta")
        for name, check in self.view.checks.items():
            mark, style = VERDICT_MARK.get(check.verdict, ("?", "yellow"))
            score = "" if check.score is None else f" {check.score:g}"
            parts.append(f"{mark} {neutral(name)}{score}   ", style)
        return _cut(parts)


def _turn(folder: Path) -> Iterator[RenderableType]:
    """Whose answer is waited for."""
    asked = {file.name[:4] for file in folder.glob("[0-9][0-9][0-9][0-9].request.md")}
    answered = {file.name[:4] for file in folder.glob("[0-9][0-9][0-9][0-9].answer.json")}
    for number in sorted(asked - answered)[-1:]:
        bad = (folder / f"{number}.error.txt").exists()
        text = f"{folder}/{number}.request.md → {number}.answer.json"
        yield Text.assemble(
            ("waits for you  ", "bold yellow"), neutral(text), (f"  see {number}.error.txt", "red") if bad else ""
        )


def _command_line(command: CommandView, state: str, style: str, width: int) -> RenderableType:
    room = max(12, width - len(state) - 6)
    text = first_line(command.text, room)
    return _cut(Text.assemble(("$ ", "bold"), text, " " * max(2, room - len(text)), (state, style)))


def _cut(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
