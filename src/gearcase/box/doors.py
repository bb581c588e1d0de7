"""The keys of `[doors]`: what a box may reach beside its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

from gearcase.box.calls import ApiDoor, DoorName
from gearcase.box.fields import Table, wrong
from gearcase.box.hosts import parse_name, parse_place, parse_rule, place_text
from gearcase.errors import UsageError

T = TypeVar("T")


def _written_as(parse: Callable[[str], T], held: Callable[[T], str]) -> BeforeValidator:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(f"{value!r} is no text")
        try:
            return held(parse(value))
        except UsageError as error:
            raise wrong(f"{error.message}: {error.remedy}") from None

    return BeforeValidator(convert)


Rule = Annotated[str, _written_as(parse_rule, str), Field(max_length=300)]
Host = Annotated[str, _written_as(parse_name, str), Field(max_length=253)]
Place = Annotated[str, _written_as(parse_place, lambda place: place_text(*place)), Field(max_length=300)]


class HttpDoor(Table):
    """What may be reached outside, by name. Nothing else has an address inside."""

    allow: tuple[Rule, ...] = Field(
        default=(),
        description="NAME (ports 80 and 443), NAME:PORT, *.NAME for all below it, tcp://NAME:PORT for what is not the web",
    )
    allow_private: tuple[Host, ...] = Field(
        default=(), description="names among them that may lead to this machine or its networks"
    )
    hosts: Mapping[Host, Place] = Field(
        default_factory=dict[str, str], description="where a name leads outside, in place of DNS: ADDRESS or ADDRESS:PORT"
    )
    proxy: bool = Field(default=False, description="set HTTPS_PROXY inside, for programs that find no name without one")


class Doors(Table):
    """The doors beside model and gear."""

    http: HttpDoor = HttpDoor()
    api: Mapping[DoorName, ApiDoor] = Field(
        default_factory=dict[str, ApiDoor], description="APIs whose credentials stay outside, each at http://NAME.box"
    )
