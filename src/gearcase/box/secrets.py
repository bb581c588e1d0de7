"""The keys of `[secrets.NAME]`: a credential that stays outside, for programs that insist on `https://HOST` and a variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from gearcase.box.calls import Variable
from gearcase.box.doors import written_as
from gearcase.box.fields import Table, Word, wrong
from gearcase.box.hosts import HostRule, parse_rule
from gearcase.errors import UsageError

HTTPS = 443
MOST_HOSTS = 16
"""Of one secret."""
CREDENTIAL_HEADERS = ("Authorization", "X-Api-Key", "Api-Key", "Private-Token", "X-Auth-Token", "X-Goog-Api-Key")


def secret_host(text: str) -> HostRule:
    """One host over TLS: `NAME`, `NAME:PORT`. Raises UsageError `bad_host`: a secret is not for hosts that nobody named."""
    rule = parse_rule(text)
    if rule.name.startswith("*"):
        remedy = "name each host that may be given it"
        raise UsageError(
            "bad_host", f"{text[:80]!r} stands for hosts that are not named, and a secret goes to named ones", remedy=remedy
        )
    if rule.raw or rule.ports == (80,):
        raise UsageError("bad_host", f"{text[:80]!r} is not HTTPS", remedy="write api.github.com, or api.example.org:8443")
    return rule if len(rule.ports) == 1 else HostRule(rule.name, (HTTPS,))


def _host_text(rule: HostRule) -> str:
    return rule.name if rule.ports == (HTTPS,) else str(rule)


def _token(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("host", "cookie", "content-length", "transfer-encoding", "connection"):
        raise wrong(f"{value!r} is no header for a secret")
    return value


SecretHost = Annotated[str, written_as(secret_host, _host_text), Field(max_length=300)]
HeaderName = Annotated[str, BeforeValidator(_token), Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]


class HostSecret(Table):
    """A credential that stays outside. Inside, a variable holds a placeholder; it is put in where a request leaves for one of the hosts."""

    env: Variable = Field(description="variable that holds the placeholder inside")
    hosts: tuple[SecretHost, ...] = Field(
        min_length=1,
        max_length=MOST_HOSTS,
        description="hosts that are given it, by HTTPS: NAME or NAME:PORT; they may be reached by that",
    )
    key_env: Variable | None = Field(default=None, description="variable outside that holds it; default: the name of `env`")
    key_file: Path | None = Field(default=None, description="file outside that holds it")
    keyring: Word | None = Field(default=None, description="entry of the system's keyring that holds it: SERVICE/USER")
    headers: tuple[HeaderName, ...] = Field(
        default=CREDENTIAL_HEADERS, min_length=1, description="request headers in which the placeholder is replaced, Basic too"
    )
    ca: Path | None = Field(default=None, description="file of the certificate authorities to trust instead of the system's")

    @model_validator(mode="after")
    def _whole(self) -> HostSecret:
        sources = [name for name in ("key_env", "key_file", "keyring") if getattr(self, name) is not None]
        if len(sources) > 1:
            raise wrong(f"`{'` and `'.join(sources)}` are sources of one secret: name one")
        if len({secret_host(one) for one in self.hosts}) < len(self.hosts):
            raise wrong("`hosts` names one host twice")
        return self


def conflicts(declared: Mapping[str, HostSecret]) -> Iterator[tuple[tuple[str, str], str]]:
    """What secrets want that others have: each needs a variable of its own, and a host one set of authorities. (name, key), sentence."""
    variables: set[str] = set()
    authorities: dict[str, Path | None] = {}
    for name, secret in declared.items():
        if secret.env in variables:
            yield (name, "env"), f"= {secret.env!r} is the variable of an earlier secret"
        variables.add(secret.env)
        for host in secret.hosts:
            if authorities.setdefault(host, secret.ca) != secret.ca:
                yield (name, "ca"), f"differs from that of an earlier secret for {host}"
