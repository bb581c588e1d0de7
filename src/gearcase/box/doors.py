"""The keys of `[doors]`: what a box may reach beside its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from gearcase.box.calls import ApiDoor
from gearcase.box.dsn import Dsn, parse_dsn
from gearcase.box.fields import DoorName, Name, Size, Table, Url, Word, written, wrong
from gearcase.box.hosts import parse_name, parse_place, parse_rule, place_text
from gearcase.box.redis_url import parse_redis_source
from gearcase.errors import UsageError

T = TypeVar("T")


def written_as(parse: Callable[[str], T], held: Callable[[T], str]) -> BeforeValidator:
    """A validator from one of the parsers of the box, whose error becomes one of the model's own."""

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(f"{value!r} is no text")
        try:
            return held(parse(value))
        except UsageError as error:
            raise wrong(f"{error.message}: {error.remedy}", secret="secret" in error.context) from None

    return BeforeValidator(convert)


Rule = Annotated[str, written_as(parse_rule, str), Field(max_length=300)]
Host = Annotated[str, written_as(parse_name, str), Field(max_length=253)]
Place = Annotated[str, written_as(parse_place, lambda place: place_text(*place)), Field(max_length=300)]


def _parse_postgres(text: str) -> Dsn | PurePosixPath:
    """An address, or the folder of a cluster that stands still."""
    return PurePosixPath(text) if text.startswith("/") and "\0" not in text else parse_dsn(text)


DsnText = Annotated[str, written_as(_parse_postgres, str), Field(max_length=1000)]
RedisSource = Annotated[str, written_as(parse_redis_source, str), Field(max_length=1000)]
Relation = Annotated[str, Field(pattern=r"^[^.\x00]{1,63}\.[^\x00]{1,63}$")]
Column = Annotated[str, Field(pattern=r"^([^.\x00]{1,63}\.){1,2}[^.\x00]{1,63}$")]


CloudRule = Annotated[str, Field(pattern=r"^[a-z0-9*-]+:[A-Za-z0-9*]+$", max_length=100)]


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
    proxy: bool = Field(default=False, description="a proxy inside, and HTTPS_PROXY set to it, for programs that want one")


class PostgresDoor(Table):
    """A PostgreSQL database inside, at NAME.box:5432."""

    mode: Literal["fresh", "branch", "read_only"] = Field(
        default="fresh",
        description="fresh: an empty throw-away one; branch: a throw-away copy of `from`; read_only: `from` itself",
    )
    source: DsnText | None = Field(
        default=None,
        alias="from",
        description="postgresql://USER@HOST:PORT/DATABASE, without a password; or the data directory of a stopped cluster",
    )
    database: str | None = Field(
        default=None,
        pattern=r"^[^\x00-\x1f]{1,63}$",
        description="which database of a stopped cluster; else that of the door's name",
    )
    password_env: Word | None = Field(
        default=None, description="environment variable that holds its password; else PGPASSWORD, ~/.pgpass"
    )
    password_file: Path | None = Field(default=None, description="file that holds its password")
    exclude: tuple[Relation, ...] = Field(default=(), description="tables (SCHEMA.TABLE) whose rows are not copied")
    schema_only: bool = Field(default=False, description="copy no rows at all")
    sample: str | None = Field(
        default=None, pattern=r"^\d{1,2}(\.\d{1,4})?%$", description='of tables over 1 MiB this part of the rows: "1%"'
    )
    mask: Mapping[Column, Literal["hash", "null"]] = Field(
        default_factory=dict[str, Literal["hash", "null"]],
        description="columns ([SCHEMA.]TABLE.COLUMN) whose values stay outside: a hash, or nothing, in their place",
    )
    values: bool = Field(
        default=False, description="put what statements say, with their values, on record: the journal holds data then"
    )
    memory: Size = written(512 * 2**20, "512MiB", "memory of its server")
    disk: Size = written(2 * 2**30, "2GiB", "space of its server")
    must_touch: tuple[Relation, ...] = Field(
        default=(), description="relations (SCHEMA.TABLE) without contact to which the work was not real"
    )

    @property
    def percent(self) -> float:
        """Of the rows of large tables; 0: all."""
        return float(self.sample.removesuffix("%")) if self.sample else 0.0

    @property
    def is_stopped(self) -> bool:
        """Whether `from` is the data directory of a cluster."""
        return self.source is not None and self.source.startswith("/")

    @model_validator(mode="after")
    def _whole(self) -> PostgresDoor:
        if (self.mode == "fresh") != (self.source is None):
            raise wrong("a fresh database has no `from`" if self.source else f'mode = "{self.mode}" needs `from`, the database')
        if self.mode != "branch" and (self.exclude or self.schema_only or self.sample or self.mask):
            raise wrong("`exclude`, `schema_only`, `sample` and `mask` are for a branch")
        if self.is_stopped and (
            self.mode != "branch" or self.exclude or self.schema_only or self.sample or self.password_env or self.password_file
        ):
            raise wrong("the files of a stopped cluster are copied whole, for a branch, and without a password")
        if self.sample is not None and (self.schema_only or not self.percent):
            raise wrong("`sample` is a part of the rows, more than none: `schema_only` copies none")
        if self.database is not None and not self.is_stopped:
            raise wrong("`database` is for a stopped cluster; elsewhere it stands in `from`")
        if self.mode == "read_only" and self.must_touch:
            raise wrong("what was touched is counted by servers of our own: `must_touch` is for fresh and branch")
        return self


class RedisDoor(Table):
    """A Redis database inside, at NAME.box:6379: empty, a branch of `from`, or a volume that stays for the next run."""

    source: RedisSource | None = Field(
        default=None,
        alias="from",
        description="what it begins with: an RDB file, or redis://HOST:PORT (rediss:// with TLS) of a running server",
    )
    password_env: Word | None = Field(default=None, description="environment variable that holds that server's password")
    volume: Name | None = Field(
        default=None, description="what it holds in the end is what the next run of this name begins with"
    )
    memory: Size = written(256 * 2**20, "256MiB", "memory of its data")

    @model_validator(mode="after")
    def _whole(self) -> RedisDoor:
        if self.source is not None and self.volume is not None:
            raise wrong("`volume` begins with what the last run left, `from` with something else: name one of them")
        if self.memory < 4 << 20:  # an empty server takes one of them
            raise wrong("`memory` is at least 4MiB")
        if self.password_env is not None and "://" not in (self.source or ""):
            raise wrong("`password_env` is for a running server (redis://...)")
        return self


class AwsDoor(Table):
    """A cloud account inside, at http://aws.box: `aws`, boto3 and other clients find it by themselves."""

    mode: Literal["simulated", "live"] = Field(
        default="simulated", description="simulated: a throw-away one on this machine; live: yours, by a list of what is allowed"
    )
    allow: tuple[CloudRule, ...] = Field(
        default=(),
        description="SERVICE:OPERATION as the AWS CLI's documentation names them: s3:Get*, lambda:Invoke; live needs some",
    )
    region: str = Field(default="us-east-1", pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d$", description="the one region")
    profile: Word | None = Field(default=None, description="profile of the operator's AWS configuration")
    calls: int | None = Field(default=None, ge=1, description="most calls of a run")
    memory: Size = written(512 * 2**20, "512MiB", "memory of a simulated one")
    endpoint: Url | None = Field(default=None, description="where a live one is, in place of AWS's own addresses")
    allow_private: bool = Field(default=False, description="the endpoint may be on this machine or its networks")

    @model_validator(mode="after")
    def _whole(self) -> AwsDoor:
        if self.mode == "live" and not self.allow:
            raise wrong('mode = "live" needs `allow`, the operations that may be called')
        if self.mode == "simulated" and (self.profile or self.endpoint or self.allow_private):
            raise wrong("`profile`, `endpoint` and `allow_private` are for a live account")
        return self


class Doors(Table):
    """The doors beside model and gear."""

    http: HttpDoor = HttpDoor()
    api: Mapping[DoorName, ApiDoor] = Field(
        default_factory=dict[str, ApiDoor], description="APIs whose credentials stay outside, each at http://NAME.box"
    )
    postgres: Mapping[DoorName, PostgresDoor] = Field(default_factory=dict[str, PostgresDoor], description="databases, by name")
    redis: Mapping[DoorName, RedisDoor] = Field(default_factory=dict[str, RedisDoor], description="Redis databases, by name")
    aws: AwsDoor | None = Field(default=None, description="a cloud account")

    @model_validator(mode="after")
    def _volumes_once(self) -> Doors:
        volumes = [one.volume for one in self.redis.values() if one.volume is not None]
        if twice := {name for name in volumes if volumes.count(name) > 1}:
            raise wrong(f"two doors cannot keep one volume: {', '.join(sorted(twice))}")
        return self
