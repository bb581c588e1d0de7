"""Doors: services inside the box's network that are served from outside it."""
