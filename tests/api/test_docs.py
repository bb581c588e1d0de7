"""The page of the Python API does what it says: each of its code blocks is executed as it stands.

Only the model is another one: a script in place of the named model, or a provider at another address.
"""

import re
from pathlib import Path

import pytest

from tests.api.conftest import CAPITALS

PAGE = Path(__file__).parents[2] / "docs/python-api.md"
BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", PAGE.read_text(), re.DOTALL)
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
FILES = {text.partition("\n")[0].removeprefix("# "): text for kind, text in BLOCKS if kind == "toml"}


def test_the_page_shows_runs_sandboxes_and_doors():
    assert len(PROGRAMS) == 5 and sorted(FILES) == ["box.toml", "door.toml"]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_page_runs_as_it_stands(desk, program):
    model = desk.script(*CAPITALS)
    with desk.provides({"text": "hello"}) as base:
        for name, text in FILES.items():
            served = text if name == "box.toml" else f'{text}\n[model.providers.anthropic]\nbase = "{base}"\n'
            (desk.folder / name).write_text(served.replace("anthropic/claude-haiku-4-5", model))
        exec(compile(program.replace("anthropic/claude-haiku-4-5", model), str(PAGE), "exec"), {"__name__": "__main__"})
