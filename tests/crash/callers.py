"""Agents that ask through the door's sockets, in three protocols, and go on whatever happens to the door."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import aiohttp
import orjson

MODELS = {
    "anthropic": ("claude-sonnet-4-5", "claude-haiku-4-5"),
    "chat": ("gpt-4.1", "gpt-5-mini"),
    "responses": ("gpt-5-mini", "gpt-6-sol"),
}
PATHS = {"anthropic": "/v1/messages", "chat": "/v1/chat/completions", "responses": "/v1/responses"}
WORDS = "the box holds a journal and its ledger keeps every hold until the door has settled what was spent".split()
PATIENCE = 4.0  # seconds until a caller gives up on an answer that stalls


def text(random: Random, words: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(words))


def request(random: Random, account: str, turns: list[str]) -> tuple[str, dict[str, Any]]:
    """A path and a body as a client of that protocol sends it. `turns` is a conversation so far, the user's and the model's."""
    protocol = random.choice(tuple(MODELS))
    messages: list[dict[str, Any]] = [
        {"role": "assistant" if at % 2 else "user", "content": turn} for at, turn in enumerate(turns)
    ]
    body: dict[str, Any] = {"model": random.choice(MODELS[protocol]), "stream": random.random() < 0.6}
    asked = random.choice((None, 200, 1_500, 8_000, 64_000))
    system = "You work in a box. " * random.choice((1, 40))
    match protocol:
        case "anthropic":
            body |= {"messages": messages, "max_tokens": asked or 4_000, "metadata": {"user_id": account}}
            block: dict[str, Any] = {"type": "text", "text": system}
            if random.random() < 0.3:
                block["cache_control"] = {"type": "ephemeral", "ttl": random.choice(("5m", "1h"))}
            body["system"] = [block]
        case "chat":
            body |= {"messages": [{"role": "system", "content": system}, *messages], "user": account}
            if asked:
                body["max_completion_tokens"] = asked
            if random.random() < 0.1:
                body["n"] = 2
        case _:
            body |= {"input": messages, "instructions": system, "user": account, "store": False}
            if asked:
                body["max_output_tokens"] = asked
    return PATHS[protocol], body


class Caller:
    """One program inside a box: it knows an address, and nothing of the door behind it."""

    def __init__(self, account: str, address: str, seed: int) -> None:
        self.account = account
        self._address = address
        self._random = Random(seed)

    async def ask_on(self, stopped: asyncio.Event, told: Counter[str]) -> None:
        """One call after the other until `stopped`; `told` counts how they ended."""
        turns: list[str] = []
        while not stopped.is_set():
            if len(turns) % 2 == 0:
                turns = [*(turns if len(turns) < 6 else []), text(self._random, self._random.choice((20, 200, 2_000)))]
            path, body = request(self._random, self.account, turns)
            outcome = await self._call(path, body)
            told[outcome] += 1
            if outcome == "200":
                turns = [*turns, text(self._random, 30)]
            elif outcome in ("402", "429"):
                turns = []
                await asyncio.sleep(self._random.uniform(0.1, 0.4))

    async def _call(self, path: str, body: dict[str, Any]) -> str:
        leave_at = self._random.choice((1, 3)) if body["stream"] and self._random.random() < 0.1 else 0
        timeout = aiohttp.ClientTimeout(total=None, sock_read=PATIENCE)
        try:
            async with (
                aiohttp.ClientSession(self._address, timeout=timeout) as session,
                session.post(path, data=orjson.dumps(body), headers={"content-type": "application/json"}) as response,
            ):
                chunks = 0
                async for _ in response.content.iter_any():
                    chunks += 1
                    if chunks == leave_at:
                        return "left"
                return str(response.status)
        except TimeoutError:
            return "gave up"
        except (aiohttp.ClientError, ConnectionError):
            return "broken off"
