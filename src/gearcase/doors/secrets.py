"""Secrets of the operator that doors put in outside: where a value comes from, and what it may be.

A box holds references alone (`${NAME}`). A value is read once, before anything starts, is kept in this process's memory, and is not
part of any text that a program or a person is shown: its `repr` is hidden, and no error carries it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gearcase.box.calls import REFERENCE
from gearcase.errors import UsageError

SHORTEST = 8
"""Characters. What is shorter cannot be masked in answers without spoiling them."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A name and what it stands for."""

    name: str
    value: str = field(repr=False)


def find_secret(name: str, file: Path | None, environment: Mapping[str, str], wanted_by: str) -> Secret:
    """A secret from its file, else from the environment. Raises UsageError `missing_secret`, `bad_secret`."""
    if file is not None:
        try:
            value = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            remedy = f"write the secret into {file}"
            cause = error.strerror or "" if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError("missing_secret", f"{wanted_by}: {file} cannot be read", cause=cause, remedy=remedy) from None
    else:
        value = environment.get(name, "").strip()
    return checked(name, value, wanted_by)


def checked(name: str, value: str, wanted_by: str) -> Secret:
    """A value that was found, as a secret. Raises UsageError `missing_secret`, `bad_secret`."""
    if not value:
        raise UsageError(
            "missing_secret",
            f"{wanted_by} needs the secret {name}, which is not set",
            remedy=f"export {name}=... where you type gearcase, or name a file that holds it; it stays outside of the box",
        )
    if len(value) < SHORTEST or not value.isprintable() or not value.isascii():
        raise UsageError(
            "bad_secret",
            f"{wanted_by}: what {name} holds is no secret that can be sent in a header and masked in answers",
            remedy=f"it must be at least {SHORTEST} characters of plain text in one line",
        )
    return Secret(name, value)


def in_keyring(entry: str, whose: str) -> str:
    """What the system's keyring holds as SERVICE/USER; empty where it holds nothing. Raises UsageError `missing_key`."""
    try:
        keyring = importlib.import_module("keyring")
    except ImportError:
        raise UsageError("missing_key", "the keyring package is missing", remedy="pip install 'gearcase[keyring]'") from None
    service, _, user = entry.partition("/")
    try:
        return str(keyring.get_password(service, user) or "").strip()
    except Exception as error:  # whatever this machine's keyring raises: none there, locked, refused
        message, cause = f"the keyring does not give the key of {whose}", f"{type(error).__name__}: {error}"
        raise UsageError("missing_key", message, cause=cause, remedy="unlock it, or name a variable or a key_file") from error


def references(texts: Iterable[str]) -> list[str]:
    """The names that texts refer to, each once."""
    return list(dict.fromkeys(name for text in texts for name in REFERENCE.findall(text)))


def filled(text: str, secrets: Iterable[Secret]) -> str:
    """A text with its references replaced."""
    values = {secret.name: secret.value for secret in secrets}
    return REFERENCE.sub(lambda found: values[found[1]], text)
