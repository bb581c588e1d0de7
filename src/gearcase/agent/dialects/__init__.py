"""The providers' native protocols, one a file, each a stateless `Dialect`."""

from __future__ import annotations

from gearcase.agent.dialects.anthropic import Anthropic
from gearcase.agent.dialects.chat import Chat
from gearcase.agent.dialects.responses import Responses
from gearcase.agent.transcript import Dialect
from gearcase.seams import Protocol_

DIALECTS: dict[Protocol_, Dialect] = {"anthropic": Anthropic(), "chat": Chat(), "responses": Responses()}
