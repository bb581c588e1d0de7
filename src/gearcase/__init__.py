"""Gearcase: the box for autonomous agents."""

__version__ = "0.1.0"
