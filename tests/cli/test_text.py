"""Nothing that an agent wrote acts on the terminal of the person who reads it."""

from __future__ import annotations

import io
import re
import unicodedata

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from rich.console import Console
from rich.text import Text

from gearcase.cli.text import first_line, neutral

ANY = st.text(st.characters(), max_size=80)


def acts(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(ANY)
@example("\x1b]0;title\x07\x1b[2J\x9b1m")
@example("\u202egnp.exe\u2066\u200b\ufeff")
def test_no_character_acts_afterwards(text: str) -> None:
    assert not any(acts(character) for character in neutral(text))
    assert not any(acts(character) for character in neutral(text, lines=True).replace("\n", ""))


@given(ANY)
def test_nothing_that_was_there_is_hidden(text: str) -> None:
    assert len(neutral(text)) == len(text)


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=80))
def test_honest_text_stays_as_it_is(text: str) -> None:
    assert neutral(text) == text


@given(ANY)
@example("[bold]x[/bold] :smile: [link=http://x]y[/link]")
def test_what_is_printed_is_the_text_and_colour_codes_only(text: str) -> None:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, color_system="truecolor", markup=False, emoji=False, highlight=False, width=500
    )
    console.print(Text(neutral(text), "bold red"))
    console.print(neutral(text))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "\x1b" not in plain
    assert plain.count("\n") == 2
    assert plain.split("\n")[1].rstrip() == neutral(text).rstrip()


@pytest.mark.parametrize(
    ("text", "shown"), [("a\tb", "a b"), ("a\nb", "a⏎b"), ("\x1b[31m", "␛[31m"), ("\x7f", "␡"), ("a\u20dd", "a�")]
)
def test_what_could_act_is_shown_as_a_sign(text: str, shown: str) -> None:
    assert neutral(text) == shown


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert neutral("x" * 50, limit=10) == "x" * 9 + "…"


def test_the_first_line_is_the_first_that_says_something() -> None:
    assert first_line("\n  \n  build it \nthen test") == "build it"
    assert first_line("") == ""
