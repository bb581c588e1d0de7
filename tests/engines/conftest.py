"""Fixtures: see `bench.py`."""

import gc
import warnings

import pytest

from tests.engines.bench import cluster, on_cluster, upstream

__all__ = ["cluster", "on_cluster", "upstream"]


@pytest.fixture(autouse=True)
def _open_files_of_ray():
    """Ray leaves its log files to the garbage collector: it comes by here, before another test is blamed for them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
