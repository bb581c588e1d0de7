"""The price of a model, by the names that people and providers give it.

The table, folder `prices`, is compiled from public price data (see NOTICE and `scripts/prices`, which states every rule that was
applied). Here it is only read: the index once, a provider's models when one of them is first asked for.

Invariants: an unknown model is refused, never guessed; the operator's prices win; names resolve as in genai-prices (dated
names, aliases, models that one provider offers of another).

The threat: names come from agents. They are capped, matched against rules that are ours, and never compiled into a pattern.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import orjson

from gearcase.doors.model.price import PICO, CacheWrite, Price, Rates, TokenUsage
from gearcase.errors import Refused, UsageError

__all__ = ["CacheWrite", "Overrides", "Price", "Rates", "TokenUsage", "find", "models", "nominal", "providers", "snapshot_id"]

Override = Mapping[str, int | float | str | Decimal]
Overrides = Mapping[str, Override]
"""The operator's prices: `provider/model` or `model` -> input, output, cache_read, cache_write, cache_write_1h in dollars per
million tokens; context, max_output in tokens."""

_LONGEST_NAME = 256


# --- finding a price -------------------------------------------------------------------------------------------------------


def find(provider: str, model: str, overrides: Overrides | None = None, *, day: date | None = None) -> Price:
    """The price of a model name, dated names and aliases included, on a day (today, UTC).

    An operator's override wins: for the name as given, else for the name that it resolves to.
    Raises Refused `unknown_model`, naming near names, and UsageError `bad_price` for an override that is no price.
    """
    today = day or datetime.now(UTC).date()
    known = _find(provider, model, today)
    if overrides:
        for name in _names(provider, model, known):
            if name in overrides:
                return _overridden(known, provider, model, name, overrides[name])
    if known is None:
        raise _unknown(provider, model)
    return known


def nominal(model: str) -> Price:
    """The price of what costs nothing or cannot be priced (manual, cassette, scripted, local): $1 in, $5 out, per million."""
    rates = Rates(0, PICO, 5 * PICO, PICO, PICO, PICO, 5 * PICO)
    return Price(f"nominal/{model}", "nominal", model, 200_000, 64_000, {"": (rates,)}, "nominal", asks_to_cache=True)


def providers() -> tuple[str, ...]:
    """Ids of the providers in the table."""
    return tuple(_index()["providers"])


def models(provider: str) -> Iterator[Price]:
    """Every model of a provider, at today's price. Raises Refused `unknown_model` for an unknown provider."""
    found = _provider(provider)
    if found is None:
        raise _unknown(provider, "")
    today = datetime.now(UTC).date()
    return (_price(found, entry, today) for entry in _models(found) if "rates" in entry)


def snapshot_id() -> str:
    """Identifies the price data: the first 16 hex digits of the SHA-256 of the models' files, in the order of their names."""
    return _index()["snapshot"]


_TABLE = Path(__file__).with_name("prices")


@cache
def _index() -> dict[str, Any]:
    return orjson.loads((_TABLE / "index.json").read_bytes())


@cache
def _models(provider: str) -> list[dict[str, Any]]:
    return orjson.loads((_TABLE / f"{provider}.json").read_bytes())


@lru_cache(maxsize=1024)
def _provider(name: str) -> str | None:
    """The id in the table that a provider's name means."""
    wanted = name.lower().strip()
    table: dict[str, Any] = _index()["providers"]
    if wanted in table:
        return wanted
    return next((id for id, entry in table.items() if entry["match"] and _matches(entry["match"], wanted)), None)


@lru_cache(maxsize=1024)
def _find(provider: str, model: str, day: date) -> Price | None:
    found = _provider(provider)
    if found is None or not model or len(model) > _LONGEST_NAME:
        return None
    wanted = model.lower()
    for text in dict.fromkeys((wanted, _dashed_date(wanted))):
        for id in (found, *_index()["providers"][found]["fallback"]):
            for entry in _models(id):
                if _matches(entry["match"], text) if "match" in entry else entry["id"].lower() == text:
                    # A model that is listed without rates is not priced by the token.
                    return replace(_price(id, entry, day), provider=found) if "rates" in entry else None
    return None


def _matches(rule: list[Any], text: str) -> bool:
    """A match rule of the table against a name in lower case."""
    operator, argument = rule
    match operator:
        case "=":
            return bool(text == argument)
        case "^":
            return text.startswith(argument)
        case "$":
            return text.endswith(argument)
        case "*":
            return argument in text
        case "~":
            return re.search(argument, text) is not None
        case "|":
            return any(_matches(one, text) for one in argument)
        case _:
            return all(_matches(one, text) for one in argument)


def _dashed_date(name: str) -> str:
    """`-20251211` as `-2025-12-11`: some routers compact the date of a name."""

    def dashed(found: re.Match[str]) -> str:
        try:
            return f"-{date(int(found[1]), int(found[2]), int(found[3])).isoformat()}"
        except ValueError:
            return found[0]

    return re.sub(r"-(20\d{2})(\d{2})(\d{2})(?=-|:|$)", dashed, name)


def _price(provider: str, entry: dict[str, Any], day: date) -> Price:
    period = [rates for since, rates in entry["rates"] if since <= day.isoformat()] or [entry["rates"][0][1]]
    return Price(
        id=f"{provider}/{entry['id']}",
        provider=provider,
        model=entry["id"],
        context_window=entry["context"],
        max_output=entry["max_output"],
        rates={tier: tuple(_rates(band) for band in bands) for tier, bands in period[-1].items()},
        snapshot=_index()["snapshot"],
        asks_to_cache=entry.get("asks", False),
        unpriced=tuple(entry.get("unpriced", ())),
    )


def _rates(band: dict[str, int]) -> Rates:
    """A kind of token without a rate is billed as what it is a part of: cached input as input, a 1-hour write as a write."""
    write = band.get("cache_write_5m", band["input"])
    return Rates(
        above=band["above"],
        input=band["input"],
        output=band["output"],
        cache_read=band.get("cache_read", band["input"]),
        cache_write_5m=write,
        cache_write_1h=band.get("cache_write_1h", write),
        reasoning=band.get("reasoning", band["output"]),
        web_search=band.get("web_search", 0),
        request=band.get("request", 0),
    )


def _unknown(provider: str, model: str) -> Refused:
    found = _provider(provider)
    if found is None:
        near = difflib.get_close_matches(provider.lower()[:64], providers(), 3, 0.5)
        what = f"no prices are known for the provider {provider[:64]!r}"
    else:
        names = [entry["id"] for entry in _models(found) if "rates" in entry]
        near = [f"{found}/{name}" for name in difflib.get_close_matches(model.lower()[:64], names, 3, 0.5)]
        what = f"no price is known for {found}/{model[:_LONGEST_NAME]}"
    instead = f"use {' or '.join(near)}, or " if near else ""
    return Refused(
        "unknown_model",
        what,
        cause="a call that cannot be priced cannot be kept within a budget",
        remedy=f"{instead}give its price in the box under [model.prices] (input and output in dollars per million tokens)",
        near=near,
    )


# --- the operator's prices -------------------------------------------------------------------------------------------------

_DOLLARS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
_TOKENS = ("context", "max_output")


def _names(provider: str, model: str, known: Price | None) -> tuple[str, ...]:
    """Under which names an override is looked for, the most specific first."""
    given = (f"{provider}/{model}", model)
    return (*given, f"{known.provider}/{known.model}", known.model) if known else given


def _overridden(known: Price | None, provider: str, model: str, name: str, values: Override) -> Price:
    """Rates replace the table's whole (one flat tier); a window or limit alone keeps them.

    Cached input costs as much as input, a cache write twice as much, unless given: over-counted rather than under-counted.
    """
    if unknown := sorted(values.keys() - {*_DOLLARS, *_TOKENS}):
        raise _bad_price(name, f"unknown key {unknown[0]!r}")
    tokens = {key: _tokens(name, key, values[key]) for key in _TOKENS if key in values}
    context = tokens.get("context", known.context_window if known else 0)
    limit = tokens.get("max_output", known.max_output if known else min(context or 4_096, 4_096))
    if not values.keys() & set(_DOLLARS):
        if known is None:
            raise _bad_price(name, "the model is not in the table, so its price is needed")
        return replace(known, context_window=context, max_output=limit)
    if not {"input", "output"} <= values.keys():
        raise _bad_price(name, "input and output are both needed")
    dollars = {key: _pico(name, key, values[key]) for key in _DOLLARS if key in values}
    write = dollars.get("cache_write", 2 * dollars["input"])
    flat = Rates(
        above=0,
        input=dollars["input"],
        output=dollars["output"],
        cache_read=dollars.get("cache_read", dollars["input"]),
        cache_write_5m=write,
        cache_write_1h=dollars.get("cache_write_1h", write),
        reasoning=dollars["output"],
    )
    return Price(
        id=known.id if known else f"{provider}/{model}",
        provider=known.provider if known else provider,
        model=known.model if known else model,
        context_window=context,
        max_output=limit,
        rates={"": (flat,)},
        snapshot="operator",
        asks_to_cache=True,
    )


def _pico(name: str, key: str, value: int | float | str | Decimal) -> int:
    try:
        pico = Decimal(str(value)) * PICO
    except InvalidOperation:
        raise _bad_price(name, f"{key} = {value!r} is not a number") from None
    if not pico.is_finite() or pico < 0 or pico != pico.to_integral_value():
        raise _bad_price(name, f"{key} = {value!r} is not a price")
    return int(pico)


def _tokens(name: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _bad_price(name, f"{key} = {cast(Any, value)!r} is not a number of tokens")
    return value


def _bad_price(name: str, message: str) -> UsageError:
    return UsageError(
        "bad_price",
        f"the price given for {name!r}: {message}",
        remedy="give input and output (and cache_read, cache_write, cache_write_1h) in dollars per million tokens, "
        "context and max_output in tokens",
    )
