"""What the repair of a map found, and its form in the store of results: the same map begun again goes on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from gearcase.swarm.signature import Signature


@dataclass(frozen=True, slots=True)
class Learned:
    """The text of the prompt for what is to come, and those of clusters."""

    default: str
    variants: Mapping[Signature, str]

    def to_json(self) -> str:
        """For the store."""
        return json.dumps([self.default, [[asdict(signature), text] for signature, text in self.variants.items()]])

    @classmethod
    def from_json(cls, text: str) -> Learned:
        """What `to_json` wrote."""
        default, variants = json.loads(text)
        return cls(default, {Signature(**signature): prompt for signature, prompt in variants})
