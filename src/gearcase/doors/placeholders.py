"""What stands inside in place of a secret, and how it becomes the secret in the headers of a request that leaves for the secret's hosts.

A placeholder is random, new in every run, and worth nothing anywhere: whoever sends it elsewhere sends a text. It has the length and the
known beginning (`ghp_`) of what it stands for, since some programs look. It is replaced in the headers that the box names, as it is and
in the base64 of HTTP's Basic; never in an address, another header or a body, which a server may keep and show to others.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass

from gearcase.doors.secrets import Secret

_BEGINNINGS = (
    "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- gldt- sk-ant-api03- sk-proj- sk- pk- rk_live_ sk_live_ sk_test_ xoxb- xoxp- xapp- npm_ "
    "pypi- hf_ dop_v1_ dckr_pat_ SG. AIza ya29. lin_api_ ntn_ shpat_ figd_ sntrys_ nvapi- r8_ gsk_ rnd_"
).split()
"""Public prefixes of well-known credentials; what follows one is secret."""
_SHORTEST, _LONGEST = 24, 200
"""Random characters."""
_BASIC = re.compile(r"([Bb][Aa][Ss][Ii][Cc] +)([A-Za-z0-9+/_-]+={0,2})")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`text` stands inside for `secret`. `headers`: in which it is replaced, in lower case."""

    secret: Secret
    text: str
    headers: frozenset[str]


def placeholder_text(value: str) -> str:
    """A fresh text that looks like `value` and tells of it no more than its length and a public beginning."""
    beginning = max((one for one in _BEGINNINGS if value.startswith(one)), key=len, default="")
    count = min(max(len(value) - len(beginning), _SHORTEST), _LONGEST)
    hexadecimal = re.fullmatch(r"[0-9a-f]+", value) is not None
    letters = "0123456789abcdef" if hexadecimal else string.ascii_letters + string.digits
    return beginning + "".join(secrets.choice(letters) for _ in range(count))


def put_in(name: str, value: str, placeholders: Iterable[Placeholder]) -> tuple[str, list[str]]:
    """One header as it leaves, and the names of the secrets that are in it now. `name` in lower case."""
    used: list[str] = []
    for one in placeholders:
        if name not in one.headers:
            continue
        replaced = _replaced(name, value, one)
        if replaced != value:
            used.append(one.secret.name)
            value = replaced
    return value, used


def _replaced(name: str, value: str, one: Placeholder) -> str:
    basic = _BASIC.fullmatch(value) if name == "authorization" else None
    if basic is None:
        return value.replace(one.text, one.secret.value)
    try:
        pair = base64.b64decode(basic[2], altchars=b"-_" if re.search("[-_]", basic[2]) else None, validate=True)
    except binascii.Error:
        return value
    if one.text.encode() not in pair:
        return value
    return basic[1] + base64.b64encode(pair.replace(one.text.encode(), one.secret.value.encode())).decode()
