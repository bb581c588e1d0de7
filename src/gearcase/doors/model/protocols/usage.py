"""Usage as OpenAI's protocols report it: details are parts of the whole, and what they leave over is plain input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols.stream import count, table


def openai_usage(given: int, details: Mapping[str, Any], output: int, output_details: Mapping[str, Any], tier: str) -> TokenUsage:
    """`given` tokens of input, of which some were read from a cache or written into one, at rates of their own."""
    read = min(count(details.get("cached_tokens")), given)
    written = min(count(details.get("cache_write_tokens")), given - read)
    long = min(count(table(details.get("cache_write_tokens_details")).get("ttl_12h_tokens")), written)
    return TokenUsage(
        input=given - read - written,
        cache_read=read,
        cache_write_5m=written - long,
        cache_write_1h=long,
        output=output,
        reasoning=min(count(output_details.get("reasoning_tokens")), output),
        tier=tier,
    )


def openai_details(usage: TokenUsage) -> dict[str, int]:
    """The details of the input, as those protocols report them."""
    return {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h}
