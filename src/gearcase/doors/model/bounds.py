"""Upper bounds of a request's input tokens, without a tokenizer.

One token a byte is a hard bound for every byte-level vocabulary, and about four times loose. The *prefix rule* tightens it: when a
request begins with the very bytes of one that was answered, the provider has told how many tokens those are, so only the new tail
counts by its bytes. Bytes are compared by hash over everything but the messages (tools, system, model, betas) and each message in turn.
"""

from __future__ import annotations

from collections import OrderedDict

from gearcase.doors.model.price import Price, TokenUsage
from gearcase.doors.model.protocols.request import ModelRequest, denied

MOST_REMEMBERED = 4096
"""Prefixes that are remembered for each door."""

_PER_IMAGE = {"anthropic": 5_000, "openai": 5_000, "nominal": 5_000}
_DEAR_IMAGES = {"gpt-4o-mini": 50_000}  # 2,833 and 5,667 for each of up to 8 tiles
"""Tokens of one image, at most, by provider and by the beginning of a model's name."""


class Bounds:
    """Remembers the exact size of prefixes that were answered."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, bytes], tuple[int, int]] = OrderedDict()

    def bound(self, request: ModelRequest, price: Price) -> int:
        """The most input tokens that this request can have. Raises Refused where only an unknown window would bound it."""
        images = _images(request, price)
        if request.unbounded or images is None:
            if not price.context_window:
                raise denied("this input is bounded by the model's context window only, which is unknown")
            return price.context_window
        best = request.byte_bound()
        for at in range(len(request.prefix) - 1, 0, -1):
            known = self._known.get((request.model, request.betas, request.prefix[at]))
            if known is not None:
                exact, output = known
                best = min(best, exact + output + request.byte_bound(at + 1))
                break
        best += images
        return min(best, price.context_window) if price.context_window else best

    def learn(self, request: ModelRequest, usage: TokenUsage) -> None:
        """The provider has told the exact size of this request."""
        if usage.total_input <= 0:
            return
        key = (request.model, request.betas, request.prefix[-1])
        self._known[key] = (usage.total_input, usage.output)
        self._known.move_to_end(key)
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)


def _images(request: ModelRequest, price: Price) -> int | None:
    """The most tokens of a request's images; None where only the context window bounds them."""
    if not request.images:
        return 0
    each = next((most for name, most in _DEAR_IMAGES.items() if price.model.startswith(name)), _PER_IMAGE.get(price.provider))
    return None if each is None else each * request.images
