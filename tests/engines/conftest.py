"""Fixtures: see `bench.py`."""

from tests.engines.bench import cluster, on_cluster, upstream

__all__ = ["cluster", "on_cluster", "upstream"]
