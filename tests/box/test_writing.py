"""The effective box loads to the same box; the schema that is shipped is the schema of the models."""

from __future__ import annotations

import json
import tempfile
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import given, settings

from gearcase.box import Box, LoadedBox, effective_toml, load_box, schema

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
PRICES = st.fixed_dictionaries({"input": st.decimals(0, 1000, places=6), "output": st.decimals(0, 1000, places=3)})
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "usd": st.decimals(0, 10**6, places=9),
        "usd_per_minute": st.decimals(0, 100, places=2),
        "tokens": st.integers(1, 10**12),
        "calls": st.integers(1, 10**6),
        "steps": st.integers(1, 10**6),
        "wall": st.floats(0.001, 10**6),
        "cpu_time": st.integers(1, 10**6),
        "memory": st.integers(2**20, 2**45),
        "cpus": st.floats(0.01, 256),
        "disk": st.sampled_from(["1MiB", "3GiB", "1.5GB"]),
        "processes": st.integers(8, 10**6),
        "on_exhausted": st.sampled_from(["ask", "wind_down", "stop"]),
        "wind_down_reserve": st.floats(0, 0.5) | st.sampled_from(["5%", "0.5%", "7%"]),
    },
)
CHECKS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "run": st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda s: s.strip() != "")},
        optional={"show": st.sampled_from(["verdict", "score"]), "min_score": st.floats(-9, 9), "deadline": st.just("90s")},
    ),
    max_size=3,
    unique_by=lambda check: check["name"],
)
BOXES = st.fixed_dictionaries(
    {"goal": TEXTS, "limits": LIMITS, "check": CHECKS},
    optional={
        "model": st.fixed_dictionaries(
            {},
            optional={
                "lead": st.just("anthropic/claude-opus-5-5"),
                "worker": st.just("http://127.0.0.1:11434/v1#qwen3"),
                "allow": st.lists(st.sampled_from(["openai/*", "a/b"])),
                "prices": st.dictionaries(TEXTS, PRICES, max_size=2),
                "providers": st.dictionaries(NAMES, st.just({"base": "https://x.test/v1", "protocol": "chat"}), max_size=2),
            },
        ),
        "files": st.fixed_dictionaries({"take": st.just(["out/**", 'a "b"/*', "x" * 90]), "take_max": st.just("1GiB")}),
        "sandbox": st.just({"need": ["memory"], "packages": ["git"]}),
        "journal": st.just({"durability": "grouped"}),
    },
)


@settings(max_examples=150, deadline=None)
@given(BOXES)
def test_the_effective_box_loads_to_the_same_box(declared: dict[str, Any]) -> None:
    for check in declared["check"]:
        check["files"] = []
    with tempfile.TemporaryDirectory() as folder:
        box = Box.model_validate(declared)
        path = Path(folder, "effective.toml")
        path.write_text(effective_toml(box), newline="")
        assert load_box(path, environment={}).box == box


def test_the_effective_box_of_a_file_loads_from_any_folder(tmp_path: Path) -> None:
    home, other = tmp_path / "a ${b} ü", tmp_path / "other"
    (home / "data").mkdir(parents=True)
    (home / "check.py").write_text("")
    other.mkdir()
    text = '[files]\ngive = ["data"]\n[model]\nlead = "manual:talk"\n[[check]]\nname = "c"\nrun = "python3 check.py"\n'
    (home / "box.toml").write_text(text)
    loaded = load_box(home / "box.toml", environment={})
    (other / "effective.toml").write_text(effective_toml(loaded.box))
    assert load_box(other / "effective.toml", environment={}).box == loaded.box


def test_each_line_can_carry_its_source(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text("[limits]\nusd = 3\n[[check]]\nname = 'a'\nrun = 'true'\n")
    loaded = load_box(tmp_path / "box.toml")
    rows = effective_toml(loaded.box, loaded.source).splitlines()
    assert any(row.startswith("usd = 3.00") and row.endswith("# box.toml:2") for row in rows)
    assert any(row.startswith("steps = 400") and row.endswith("# default") for row in rows)
    assert any(row.startswith('run = "true"') and row.endswith("# box.toml:5") for row in rows)


def test_money_is_written_without_an_exponent() -> None:
    box = Box.model_validate({"limits": {"usd": Decimal("0.000000001")}})
    assert "usd = 0.000000001\n" in effective_toml(box)


def test_the_shipped_schema_is_current() -> None:
    shipped = json.loads(files("gearcase").joinpath("box.schema.json").read_text())
    assert shipped == schema(), "run scripts/schema"


def test_defaults_in_the_schema_are_as_people_write_them() -> None:
    limits = schema()["$defs"]["Limits"]["properties"]
    assert (limits["usd"]["default"], limits["wall"]["default"], limits["memory"]["default"]) == (2.0, "45m", "4GiB")


@settings(max_examples=100, deadline=None)
@given(BOXES)
def test_what_the_models_accept_the_schema_accepts(declared: dict[str, Any]) -> None:
    Box.model_validate(declared)
    jsonschema.validate(json.loads(json.dumps(declared, default=float)), schema())


@pytest.mark.parametrize(
    "declared", [{"limits": {"memry": 1}}, {"limits": {"wall": "soon"}}, {"check": [{"name": "a"}]}, {"x": 1}]
)
def test_what_the_models_refuse_the_schema_refuses(declared: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(declared, schema())


def test_the_default_box_is_loaded_box_material(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(effective_toml(Box()))
    assert isinstance(load_box(tmp_path / "box.toml"), LoadedBox)
