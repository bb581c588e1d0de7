"""Who is told: the targets of a box, else the user's own, with the secrets that they refer to.

A user's own are in `notify.toml` beside `limits.toml`, with the keys of `[notify]`; they count for every box that names no target.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from gearcase.allowance import limits_file
from gearcase.box.fields import is_address
from gearcase.box.notify import Notify, Target
from gearcase.doors.secrets import Secret, filled, find_secret, references
from gearcase.errors import UsageError
from gearcase.notify.shapes import Destination


def user_file() -> Path:
    """Where a user's own targets are written."""
    return limits_file().with_name("notify.toml")


def chosen(box: Notify) -> Notify:
    """The box's, or the user's own where it names no target. Raises UsageError `bad_notify`."""
    file = user_file()
    if box.to or not file.exists():
        return box
    try:
        table = tomllib.loads(file.read_text())
        return Notify.model_validate(_beside(table, file.parent))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise _bad(file, str(error)) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise _bad(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None  # no value: it may be a secret


def destinations(notify: Notify, environment: Mapping[str, str]) -> tuple[Destination, ...]:
    """The targets, ready to be sent to. Raises UsageError `missing_secret`, `bad_secret`."""
    return tuple(_found(name, target, environment) for name, target in notify.to.items())


def _found(name: str, target: Target, environment: Mapping[str, str]) -> Destination:
    whose = f"[notify.to.{name}]"
    texts = (target.address, *target.headers.values(), target.routing_key or "")
    secrets = [find_secret(one, target.key_files.get(one), environment, whose) for one in references(texts)]
    return Destination(
        name,
        target.kind,
        _address(whose, target, secrets),
        {header: filled(text, secrets) for header, text in target.headers.items()},
        filled(target.routing_key or "", secrets),
    )


def _address(whose: str, target: Target, secrets: list[Secret]) -> str:
    url = filled(target.address, secrets)
    try:
        return cast(str, is_address(url))
    except ValueError:  # as the box would have been refused, had it said so itself
        names = ", ".join(references([target.address]))
        remedy = f"set {names} to the whole address that you were given, from https:// on"
        raise UsageError("bad_secret", f"{whose}: what {names} holds makes no address", remedy=remedy) from None


def _beside(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With key files relative to the folder of the file that names them."""
    targets = table.get("to")
    for target in cast(dict[str, Any], targets).values() if isinstance(targets, dict) else ():
        files = cast(dict[str, Any], target).get("key_files") if isinstance(target, dict) else None
        if isinstance(files, dict):
            for name, path in cast(dict[str, Any], files).items():
                files[name] = folder / Path(str(path)).expanduser()
    return table


def _bad(file: Path, cause: str) -> UsageError:
    remedy = 'its keys are those of [notify] in a box, without the word: repeat = "10m", then [to.phone]; see docs/notify.md'
    return UsageError("bad_notify", f"{file} cannot be read", cause=cause, remedy=remedy)
