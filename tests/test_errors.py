import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import gearcase
from gearcase.errors import GearcaseError, Refused, RunError, UnsafeError, UsageError

SOURCE = Path(gearcase.__file__).parent
KINDS = {kind.__name__ for kind in (GearcaseError, Refused, RunError, UnsafeError, UsageError)}
NODES = [
    (path.relative_to(SOURCE), node) for path in sorted(SOURCE.rglob("*.py")) for node in ast.walk(ast.parse(path.read_text()))
]


def raised() -> Iterator[tuple[str, ast.Call]]:
    """Every place in the source where an error of ours is made."""
    for path, node in NODES:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            yield f"{path}:{node.lineno}", node


def empty(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not node.value


def test_every_error_names_what_to_do() -> None:
    places = list(raised())
    assert len(places) > 20
    without = []
    for place, call in places:
        remedies = [keyword.value for keyword in call.keywords if keyword.arg == "remedy"]
        passed_on = any(keyword.arg is None for keyword in call.keywords)
        if (not remedies and not passed_on) or any(empty(one) for one in remedies):
            without.append(place)
    assert without == []


def test_every_code_is_one_word_in_lower_case() -> None:
    codes = {(place, call.args[0].value) for place, call in raised() if call.args and isinstance(call.args[0], ast.Constant)}
    assert [
        one for one in codes if not (isinstance(one[1], str) and one[1].replace("_", "").isalnum() and one[1].islower())
    ] == []


@pytest.mark.parametrize(
    ("kind", "code"), [(UsageError, 2), (UnsafeError, 3), (RunError, 13), (Refused, 11), (GearcaseError, 13)]
)
def test_a_kind_has_its_exit_code_and_one_envelope(kind: type[GearcaseError], code: int) -> None:
    error = kind("some_code", "what happened", remedy="what to do", cause="why", path="/x", count=3)
    assert kind.exit_code == code
    assert str(error) == "what happened"
    envelope = error.envelope()
    assert json.loads(json.dumps(envelope)) == {
        "code": "some_code",
        "message": "what happened",
        "cause": "why",
        "remedy": "what to do",
        "context": {"path": "/x", "count": 3},
    }


def test_an_error_without_a_remedy_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        UsageError("some_code", "what happened")  # type: ignore[call-arg]
