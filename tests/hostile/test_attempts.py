"""Every attempt is refused inside and gets through where its guard is off."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest


def _load(name):
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


arena, table = _load("arena"), _load("table")


@pytest.mark.parametrize("attempt", table.here(os.getuid() == 0), ids=lambda attempt: f"{attempt.number}: {attempt.name}")
def test_refused_inside_and_possible_without_the_guard(attempt):
    refused = arena.refused(attempt)
    assert not refused.got, refused.output
    assert refused.untouched, refused.output
    control = arena.control(attempt)
    assert control.got, f"the control ({attempt.control}) did not get through, so the attempt proves nothing: {control.output}"
