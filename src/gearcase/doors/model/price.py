"""What a model call costs: exactly, after it; at worst, before it. Arithmetic alone; `pricing.py` finds the price.

Invariants:
- Integers only. A rate is pico-dollars per million units, a result is nano-dollars; the sum is rounded up, once.
- `worst(input, output)` is at least `cost(usage)` of every usage whose input (cached, written or not) and output stay within
  those bounds, in the tier asked for or the standard one.
- An unknown service tier in an answer is priced at the dearest tier known; in a request it is refused.

The threat: a request that is priced lower than it is billed is a hole in the budget. What a price cannot cover is named
(`Price.unpriced`, `Price.tiers`), so that a door can refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from gearcase.errors import Refused

PICO = 10**12
"""Pico-dollars in a dollar: the unit of a rate, per million."""
_DIVISOR = 10**9  # pico-dollars per million units, times units, over this, is nano-dollars

CacheWrite = Literal["none", "5m", "1h"]

_STANDARD = frozenset({"", "default", "standard", "standard_only", "on_demand"})
_ANY = "auto"  # whichever tier the account is set to


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What a provider reported. `input` is uncached; `output` is everything billed as output, `reasoning` is a part of it."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    web_searches: int = 0
    tier: str = ""

    @property
    def total_input(self) -> int:
        """Every token of the prompt: what context tiers are measured by."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-dollars per million, for prompts of more than `above` tokens."""

    above: int
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    reasoning: int
    web_search: int = 0
    request: int = 0

    def cost(self, usage: TokenUsage) -> int:
        """Unrounded, in pico-dollars times a million."""
        hidden = min(usage.reasoning, usage.output)
        return (
            usage.input * self.input
            + usage.cache_read * self.cache_read
            + usage.cache_write_5m * self.cache_write_5m
            + usage.cache_write_1h * self.cache_write_1h
            + (usage.output - hidden) * self.output
            + hidden * self.reasoning
            + usage.web_searches * self.web_search
            + self.request
        )


@dataclass(frozen=True, slots=True)
class Price:
    """One model's price, frozen: settle a hold with the price it was made with.

    `context_window` is 0 where it is unknown: what only the window bounds must then be refused. `unpriced` names kinds of input
    (audio, image, video, document, file_search) that have rates of their own which this table does not hold.
    """

    id: str
    provider: str
    model: str
    context_window: int
    max_output: int
    rates: Mapping[str, tuple[Rates, ...]]  # by service tier, "" is the standard one; bands in ascending order
    snapshot: str
    asks_to_cache: bool = False  # cache writes are billed only where the request asks for them
    unpriced: tuple[str, ...] = ()
    _flat: dict[tuple[CacheWrite, str], _Dearest] = field(default_factory=dict[Any, Any], init=False, repr=False, compare=False)

    @property
    def tiers(self) -> frozenset[str]:
        """Service tiers with a price, besides the standard one. A request for another must not be sent."""
        return frozenset(self.rates) - {""}

    def cost(self, usage: TokenUsage) -> int:
        """What this usage costs, in nano-dollars, rounded up once."""
        tier = "" if usage.tier in _STANDARD else usage.tier
        total = usage.total_input
        known = (tier,) if tier in self.rates else tuple(self.rates)
        return -(-max(_band(self.rates[name], total).cost(usage) for name in known) // _DIVISOR)

    def worst(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        cache_write: CacheWrite = "none",
        tier: str = "",
        web_searches: int = 0,
    ) -> int:
        """The most that a call within these bounds can cost, in nano-dollars. `tier` is the one that the request asks for.

        Raises Refused `unknown_tier` for a tier without a price.
        """
        dearest = self._dearest(input_tokens, cache_write, tier)
        return -(-(dearest.fixed(input_tokens, web_searches) + output_tokens * dearest.output) // _DIVISOR)

    def output_for(
        self,
        nano: int,
        input_tokens: int,
        *,
        cache_write: CacheWrite = "none",
        tier: str = "",
        web_searches: int = 0,
    ) -> int:
        """The most output tokens that `nano` can pay at worst beside that input; 0 when not even the input fits.

        Not capped by `max_output`, except where output is free: then it is `max_output`.
        """
        dearest = self._dearest(input_tokens, cache_write, tier)
        room = nano * _DIVISOR - dearest.fixed(input_tokens, web_searches)
        if room < 0:
            return 0
        return room // dearest.output if dearest.output else self.max_output

    def _dearest(self, input_tokens: int, cache_write: CacheWrite, tier: str) -> _Dearest:
        if known := self._flat.get((cache_write, tier)):
            return known
        # A usage may stay below the bound, so every band that starts within it can apply.
        bands = [band for name in self._servable(tier) for band in self.rates[name] if band.above < max(input_tokens, 1)]
        if len(bands) == 1:  # almost every model
            [band] = bands
            output = max(band.output, band.reasoning)
            dearest = _Dearest(self._dearest_input(band, cache_write), output, band.web_search, band.request)
            if all(len(self.rates[name]) == 1 for name in self._servable(tier)):  # whatever the size of the prompt
                self._flat[cache_write, tier] = dearest
            return dearest
        return _Dearest(
            input=max(self._dearest_input(band, cache_write) for band in bands),
            output=max(max(band.output, band.reasoning) for band in bands),
            web_search=max(band.web_search for band in bands),
            request=max(band.request for band in bands),
        )

    def _servable(self, tier: str) -> frozenset[str]:
        """The tiers in which a request for `tier` may be served: that one, or the standard one instead."""
        if tier == _ANY:
            return frozenset(self.rates)
        wanted = "" if tier in _STANDARD else tier
        if wanted not in self.rates:
            raise Refused(
                "unknown_tier",
                f"no price is known for the service tier {tier!r} of {self.id}",
                remedy=f"ask for the standard tier{''.join(f' or {name}' for name in sorted(self.tiers))}",
                tier=tier,
                model=self.id,
            )
        return frozenset({"", wanted})

    def _dearest_input(self, band: Rates, cache_write: CacheWrite) -> int:
        rates = [band.input, band.cache_read]
        if cache_write != "none" or not self.asks_to_cache:
            rates.append(band.cache_write_5m)
        if cache_write == "1h":
            rates.append(band.cache_write_1h)
        return max(rates)


class _Dearest(NamedTuple):
    """The highest rate of each kind that can apply to a request."""

    input: int
    output: int
    web_search: int
    request: int

    def fixed(self, input_tokens: int, web_searches: int) -> int:
        """All but the output, unrounded."""
        return input_tokens * self.input + web_searches * self.web_search + self.request


def _band(bands: tuple[Rates, ...], total: int) -> Rates:
    """The band that applies to a prompt: a threshold passed applies to every token of it."""
    for band in reversed(bands):
        if total > band.above:
            return band
    return bands[0]
