"""The declaration of a box: `box.toml` as frozen models, with the source of every value.

`load_box` and `box_from_options` are the ways in; both list every mistake at once. A `Box` is built from what people write and
holds base units (nano-dollars, bytes, seconds); its paths are absolute. `effective_toml` writes it back.
"""

from gearcase.box.declaration import Box, Check, Files, JournalTable, Limits, Model, Price, Provider, Sandbox
from gearcase.box.doubts import doubts
from gearcase.box.loading import DEFAULT, LoadedBox, Override, box_from_options, load_box
from gearcase.box.writing import effective_toml, schema

__all__ = [
    "DEFAULT",
    "Box",
    "Check",
    "Files",
    "JournalTable",
    "Limits",
    "LoadedBox",
    "Model",
    "Override",
    "Price",
    "Provider",
    "Sandbox",
    "box_from_options",
    "doubts",
    "effective_toml",
    "load_box",
    "schema",
]
