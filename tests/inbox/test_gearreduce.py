"""How the inputs of a level are grouped: each stands in one group, in order, within its bounds."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

INBOX = Path(__file__).parents[2] / "src/gearcase/inbox"


@pytest.fixture(scope="module")
def reduce():
    sys.path.insert(0, str(INBOX))
    try:
        spec = importlib.util.spec_from_file_location("gearreduce", INBOX / "gearreduce.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["gearreduce"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(INBOX))
        sys.modules.pop("gearreduce", None)
        sys.modules.pop("gearmap", None)


TEXTS = st.lists(st.tuples(st.text("ab\n", min_size=1, max_size=30), st.booleans() | st.just(False)), max_size=60)


@given(texts=TEXTS, fan_in=st.integers(2, 9), most=st.integers(40, 200))
def test_every_input_stands_in_one_group_in_its_order(reduce, texts, fan_in, most):
    inputs = [reduce.Input(str(n), text, "why" if bad else "") for n, (text, bad) in enumerate(texts)]
    groups = list(reduce.Level(fan_in, most, "|").groups(iter(inputs), len(inputs)))
    assert [group["item"] for group in groups] == list(range(len(groups)))
    good = "|".join(group["text"] for group in groups if "text" in group)
    assert good == "|".join(one.text for one in inputs if not one.unreadable and len(reduce.json.dumps(one.text)) <= most)
    for group in groups:
        begin, _, end = group["shard"].partition(" to ")
        assert 1 <= int(end or begin) - int(begin) + 1 <= fan_in
        assert ("unreadable" in group) != ("text" in group)
        assert "text" not in group or len(reduce.json.dumps(group["text"])) <= most
    assert sum(int(g["shard"].rpartition(" ")[2]) - int(g["shard"].partition(" ")[0]) + 1 for g in groups) == len(inputs)


def test_groups_are_even(reduce):
    inputs = [reduce.Input(str(n), "x") for n in range(9)]
    sizes = [group["text"].count("x") for group in reduce.Level(8, 1000, "").groups(iter(inputs), 9)]
    assert sizes == [5, 4]
