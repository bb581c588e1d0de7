"""A stand for the model door: real journal and ledger, the door behind a socket, the fake provider behind another."""

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
import pytest

from gearcase.box import Model
from gearcase.doors.model.admission import Patience
from gearcase.doors.model.door import Caller, ModelDoor
from gearcase.doors.model.price import TokenUsage
from gearcase.doors.model.protocols import PROTOCOLS, address_of, content_type, counted
from gearcase.doors.model.protocols import answer as said
from gearcase.doors.model.routing import Routing
from gearcase.doors.model.upstreams.scripted import Script, Step, serve_script
from gearcase.doors.server import Reply, serve
from gearcase.journal import Journal, read
from gearcase.ledger import Ledger

PATHS = {
    "anthropic": "/v1/messages",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "gemini": "/v1beta/models/{model}:generateContent",
}
STREAM = "/v1beta/models/{model}:streamGenerateContent"
MODELS = {"anthropic": "claude-sonnet-4-5", "chat": "gpt-4.1", "responses": "gpt-5-mini", "gemini": "gemini-2.5-flash"}
CAPS = {"anthropic": "max_tokens", "chat": "max_completion_tokens", "responses": "max_output_tokens", "gemini": "maxOutputTokens"}
PROVIDERS = {"anthropic": "anthropic", "chat": "openai", "responses": "openai", "gemini": "google"}
KEYS = {"anthropic": "ANTHROPIC_API_KEY", "chat": "OPENAI_API_KEY", "responses": "OPENAI_API_KEY", "gemini": "GEMINI_API_KEY"}
RATES = {"anthropic": (3_000, 15_000), "chat": (2_000, 8_000), "responses": (250, 2_000), "gemini": (300, 2_500)}
"""Nano-dollars of a token in and out, of MODELS."""
DOLLAR = 10**9


def ask(protocol, text="How many?", cap=500, **more):
    """A request of a client. `cap` None leaves the ceiling out. Gemini's has `model` and `stream` in its path: `place` puts them there."""
    if protocol == "gemini":
        turns = text if isinstance(text, list) else [{"role": "user", "parts": [{"text": text}]}]
        config = {} if cap is None else {"generationConfig": {"maxOutputTokens": cap}}
        return {"model": MODELS[protocol], "contents": turns, **config, **more}
    turns = text if isinstance(text, list) else [{"role": "user", "content": text}]
    body = {"model": MODELS[protocol], "input" if protocol == "responses" else "messages": turns}
    if cap is not None:
        body[CAPS[protocol]] = cap
    return {**body, **more}


def place(protocol, body):
    """(path, body) of a request as its client sends it."""
    if protocol != "gemini" or not isinstance(body, dict):
        return PATHS[protocol].replace("{model}", MODELS[protocol]), body
    told = dict(body)
    model, stream = told.pop("model", MODELS[protocol]), told.pop("stream", False) is True
    told.pop("stream_options", None)
    return (f"{STREAM}?alt=sse" if stream else PATHS[protocol]).replace("{model}", model), told


def reads(protocol, body):
    """A request as the door reads it."""
    path, told = place(protocol, body)
    path, _, query = path.partition("?")
    return PROTOCOLS[protocol].read(told, frozenset(), address_of(path, query.encode()))


def cap_of(protocol, body):
    """The ceiling that a body asks for."""
    return (body["generationConfig"] if protocol == "gemini" else body)[CAPS[protocol]]


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """Data of the events of a stream, each of which must be whole."""
        assert self.body.endswith((b"\n\n", b"\r\n\r\n")), self.body[-200:]
        lines = [line[5:].strip() for line in self.body.splitlines() if line.startswith(b"data:")]
        return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]

    def error(self, protocol):
        """(kind, message) of an error in the shape of its protocol."""
        if protocol == "anthropic":
            assert self.json["type"] == "error"
            assert set(self.json["error"]) == {"type", "message"}
        elif protocol == "gemini":
            assert set(self.json["error"]) == {"code", "message", "status", "details"}
            assert self.json["error"]["code"] == self.status
            return self.json["error"]["status"], self.json["error"]["message"]
        else:
            assert set(self.json["error"]) == {"message", "type", "param", "code"}
        return self.json["error"]["type"], self.json["error"]["message"]


@dataclass
class Stand:
    """`async with Stand(folder, steps) as stand`. Without `steps` nobody listens at the provider's address."""

    folder: object
    steps: tuple = (Step("ok"),)
    limits: dict = field(default_factory=lambda: {"usd": DOLLAR})
    model: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)
    options: dict = field(default_factory=dict)
    accounts: tuple = ("lead",)
    keep: bool = False  # a provider that keeps every request, and answers each in a word
    served: str = ""  # the model that it says it served
    closed: bool = False
    failures: list = field(default_factory=list)  # what would end a run

    async def __aenter__(self):
        self.stack = AsyncExitStack()
        self.script = Script(self.steps)
        upstream = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.upstream_port = upstream.getsockname()[1]
        self.provider = None
        self.got = []  # requests as they reached the provider, with `keep`
        if self.keep:
            self.provider = await serve(upstream, self._keeps)
            self.stack.push_async_callback(self.provider.close)
        elif self.steps:
            self.provider = await serve_script(self.script, upstream)
            self.stack.push_async_callback(self.provider.close)
        else:
            upstream.close()
        base = {"base": f"http://127.0.0.1:{self.upstream_port}/v1"}
        settings = {
            "allow": ["anthropic/*", "openai/*", "google/*"],
            "providers": dict.fromkeys(("anthropic", "openai", "google"), base),
            **self.model,
        }
        self.journal = Journal.create(self.folder / "journal")
        self.ledger = Ledger(self.journal)
        for account in self.accounts:
            self.ledger.open(account, dict(self.limits), agent=account)
        self.routing = Routing(Model.model_validate(settings), environment=self.environment)
        self.door = ModelDoor(self.ledger, self.journal, self.routing, patience=self.patience, **self.options)
        inside = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.server = await serve(inside, self.door.handler(Caller("lead", "lead"), self.failures.append), cancel=True)
        self.session = aiohttp.ClientSession(f"http://127.0.0.1:{inside.getsockname()[1]}")
        self.stack.push_async_callback(self.routing.close)
        self.stack.push_async_callback(self.server.close)
        self.stack.push_async_callback(self.session.close)
        return self

    async def __aexit__(self, *error):
        await self.session.close()
        await self.door.close()
        await self.stack.aclose()
        self.journal.close()
        self.closed = True

    async def _keeps(self, request):
        self.got.append(request)
        body = json.loads(request.body)
        address = address_of(request.path, request.query)
        if (told := counted(address.path, 11)) is not None:
            return Reply(200, {"content-type": "application/json"}, told)
        answer = said.Answer("ok", usage=TokenUsage(input=11, output=2), model=self.served or address.model or body["model"])
        stream = address.stream or body.get("stream") is True
        chunks = b"".join(PROTOCOLS[address.protocol].render(answer, stream))
        return Reply(200, {"content-type": content_type(stream), "set-cookie": "a=b", "x-request-id": "r1"}, chunks)

    @property
    def bodies(self):
        return [json.loads(request.body) for request in self.got]

    async def post(self, protocol, body, headers=None, path=None):
        own, body = place(protocol, body)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        async with self.session.post(path or own, data=data, headers=headers) as response:
            return Answer(
                response.status, {name.lower(): value for name, value in response.headers.items()}, await response.read()
            )

    def balance(self, account="lead", resource="usd"):
        return self.ledger.balance(account, resource)

    @property
    def asked(self):
        """What the provider has on its log."""
        return self.script.entries

    def records(self, kind):
        if not self.closed:
            self.journal.flush()
        return [record.event for record in read(self.folder / "journal") if record.type == kind]

    async def until(self, true, what="it"):
        """Wait until something is so."""
        async with asyncio.timeout(30):
            while not true():
                await asyncio.sleep(0.005)
        assert true(), what


class Model_:
    """What the tests of the door use."""

    Stand, Answer, Patience = Stand, Answer, Patience
    PATHS, MODELS, PROVIDERS, KEYS, RATES, DOLLAR = PATHS, MODELS, PROVIDERS, KEYS, RATES, DOLLAR
    ask, place, reads, cap_of = staticmethod(ask), staticmethod(place), staticmethod(reads), staticmethod(cap_of)


@pytest.fixture(scope="session")
def stands():
    """The stand and its requests."""
    return Model_


@pytest.fixture(params=tuple(PATHS))
def protocol(request):
    return request.param
