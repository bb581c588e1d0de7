"""The keys of `[notify]`: who is told when a run waits for a person.

A target's address may be its secret (Slack), and its key is one: both are references, `${NAME}`, to the environment or to a file outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, Field, model_validator

from gearcase.box.calls import REFERENCE, SECRETIVE, Headers, Variable
from gearcase.box.fields import Duration, Name, Table, is_address, written, wrong

PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
_OUTSIDE = "write ${NAME} and set NAME outside"


def _address(value: Any) -> Any:
    """An address, or one that is put together outside."""
    if not isinstance(value, str):
        return value
    if not REFERENCE.match(value):
        is_address(REFERENCE.sub("x", value))
    for name, text in parse_qsl(urlsplit(value).query):
        if SECRETIVE.search(name) and not REFERENCE.search(text):
            raise wrong(f"holds a secret in the box itself, {name}: {_OUTSIDE}", secret=True)
    return value


def _reference(value: Any) -> Any:
    if isinstance(value, str) and not REFERENCE.fullmatch(value):
        raise wrong(f"holds a secret in the box itself: {_OUTSIDE}", secret=True)
    return value


class Target(Table):
    """One that is told: a phone, a channel, who is on duty, a program of your own."""

    kind: Literal["ntfy", "slack", "pagerduty", "webhook"] = Field(
        description="the shape of what is sent: an ntfy topic, a Slack incoming webhook, PagerDuty Events v2, plain JSON"
    )
    url: Annotated[str, BeforeValidator(_address), Field(max_length=1000)] | None = Field(
        default=None, description="where to; ${NAME} stands for a secret that stays outside; PagerDuty's own where it is left out"
    )
    headers: Headers = Field(
        default_factory=dict[str, str], description='sent along, such as { Authorization = "Bearer ${NTFY_TOKEN}" }'
    )
    routing_key: Annotated[str, BeforeValidator(_reference)] | None = Field(
        default=None, description="of pagerduty: ${NAME}, the integration key of the service"
    )
    key_files: Mapping[Variable, Path] = Field(
        default_factory=dict[str, Path], description="files that hold a NAME's secret, in place of the environment"
    )

    @property
    def address(self) -> str:
        """Where it is sent, with its references."""
        return self.url or PAGERDUTY

    @model_validator(mode="after")
    def _whole(self) -> Target:
        if (self.routing_key is None) == (self.kind == "pagerduty"):
            raise wrong('a target of kind "pagerduty" needs `routing_key`, and no other has one')
        if self.url is None and self.kind != "pagerduty":
            raise wrong(f'a target of kind "{self.kind}" needs `url`')
        if self.kind == "slack" and not REFERENCE.search(self.address):
            raise wrong(f"the address of a Slack webhook is its secret: {_OUTSIDE}", secret=True)
        if self.kind == "ntfy" and not REFERENCE.search(self.address) and not urlsplit(self.address).path.strip("/"):
            raise wrong("the address of ntfy ends with a topic: https://ntfy.sh/my-topic")
        return self


class Notify(Table):
    """Who is told, once a run stands still or its agent asks for something, and how often until somebody answers."""

    bell: bool = Field(default=True, description="the terminal that watches the run rings")
    repeat: Duration = written(600.0, "10m", "told again after so long, until somebody answers")
    to: Mapping[Name, Target] = Field(default_factory=dict[str, Target], description="who is told, by a name of yours")
