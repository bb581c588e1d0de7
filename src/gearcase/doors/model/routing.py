"""Which model is meant, what it costs, and who answers for it.

A model is named `PROVIDER/MODEL`, `http://HOST/v1#MODEL`, `local[/NAME]`, `manual:DIR`, `cassette:FILE` or `scripted:FILE`. Inside a
box only the lead's and the worker's model and what `allow` names can be called, with or without the provider before the name. Keys are
looked up outside: in the environment, a file, or the system's keyring; they never leave this folder's upstreams.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gearcase.box import Model, Provider
from gearcase.doors.model import pricing
from gearcase.doors.model.local import weights
from gearcase.doors.model.local.server import CONTEXT, MAX_OUTPUT, find_package
from gearcase.doors.model.price import Price
from gearcase.doors.model.upstreams.cassette import Cassette, Recording
from gearcase.doors.model.upstreams.http import Endpoint, Http
from gearcase.doors.model.upstreams.local import Local
from gearcase.doors.model.upstreams.manual import Manual
from gearcase.doors.model.upstreams.scripted import Scripted
from gearcase.doors.secrets import in_keyring
from gearcase.errors import Refused, UsageError
from gearcase.seams import Housing, Protocol_, Upstream

PROVIDERS: dict[str, tuple[str, str, Protocol_]] = {
    "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "anthropic"),
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY", "responses"),
    "google": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "chat"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "chat"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "chat"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY", "chat"),
    "x-ai": ("https://api.x.ai/v1", "XAI_API_KEY", "chat"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "chat"),
    "together": ("https://api.together.xyz/v1", "TOGETHER_API_KEY", "chat"),
    "fireworks": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "chat"),
}
"""Base address, environment variable of the key, and the protocol in which a lead speaks to it."""

_SYNTHETIC = ("manual", "cassette", "scripted")
_SPEAKS: dict[Protocol_, frozenset[Protocol_]] = {
    "anthropic": frozenset({"anthropic"}),
    "chat": frozenset({"chat"}),
    "responses": frozenset({"chat", "responses"}),
    "gemini": frozenset({"gemini"}),
}
_GEMINI = {"google": "https://generativelanguage.googleapis.com/v1beta"}
"""Providers that programs inside can also speak to in Gemini's own protocol, and where. A lead speaks chat to them."""
_OTHER_KEYS = {"google": "GOOGLE_API_KEY"}
"""Where a key is looked for after its variable: the provider's own clients know both."""


@dataclass(frozen=True, slots=True)
class Route:
    """A model that can be called: the name that its upstream knows, its price, and the protocols it speaks."""

    reference: str
    provider: str
    name: str
    protocol: Protocol_  # of a lead
    speaks: frozenset[Protocol_]
    price: Price
    upstream: Upstream
    billed: bool = True  # by anybody: a person, a cassette or a script sends no invoice
    leaves: bool = (
        True  # for somewhere else: a person and the local model are asked here, and what they did not answer cost nothing
    )


class Routing:
    """The models of one box. Upstreams are made when first needed, one for each provider or reference."""

    def __init__(
        self,
        model: Model,
        *,
        forbidden: Iterable[Path] = (),
        environment: Mapping[str, str] = os.environ,
        played: Cassette | None = None,
        live_worker: bool = False,
    ) -> None:
        """`forbidden`: paths that a `manual:` folder may not lie in. `played`: a replay; the cassette names the lead and answers for
        every model, none of which needs a key; with `live_worker` the box's own worker answers for itself. Raises nothing; `lead` and
        `worker` do."""
        self._live = model.worker if live_worker else None
        kept = {"worker": model.worker} if live_worker else {}
        self._model = model if played is None else model.model_copy(update={**_recorded(played), **kept})
        self._played = played
        self._forbidden = tuple(forbidden)
        self._environment = environment
        self._overrides = model.price_overrides()
        self._upstreams: dict[str, Upstream] = {}
        self._routes: dict[str, Route] = {}
        self._record: Path | None = None
        self._locals: list[Local] = []
        self._housing: Housing | None = None
        self.keys: list[str] = []
        """Keys that were found, for whoever looks for them where they must not be."""

    def house(self, housing: Housing) -> None:
        """Where the servers of local models live from now on; without it they are children of this process."""
        self._housing = housing

    def record(self, file: Path) -> None:
        """Record the traffic of every upstream into a cassette; one that is played is recorded again beside a live worker only."""
        self._record = file
        self._routes.clear()

    def lead(self) -> Route | None:
        """The model that drives the agent. Raises UsageError `missing_key`, `unknown_model`."""
        return self._named(self._model.lead) if self._model.lead else None

    def worker(self) -> Route | None:
        """The model that answers `gear ask`: the lead's where none is named. Raises as `lead` does."""
        name = self._model.worker or self._model.lead
        return self._named(name) if name else None

    def bills(self) -> bool:
        """Whether any of the models may cost somebody money."""
        routes = [route for route in (self.lead(), self.worker()) if route is not None]
        return any(route.billed for route in routes) or (self._played is None and bool(self._model.allow))

    def names(self) -> list[str]:
        """What programs inside may call, as far as it can be listed."""
        named = [name for name in (self._model.lead, self._model.worker) if name]
        return list(dict.fromkeys([*(self._route(name).name for name in named), *(n for n in self._model.allow if "*" not in n)]))

    def inside(self, name: str, protocol: Protocol_ | None = None) -> Route:
        """The route for a name that a program inside used. Raises Refused `unknown_model` for one that is not allowed."""
        route = self._allowed(name)
        if protocol is not None and protocol not in route.speaks:
            raise Refused(
                "unknown_model",
                f"{name[:80]} is not spoken to in this protocol ({protocol})",
                remedy=f"use {' or '.join(sorted(route.speaks))}",
            )
        return route

    def price_of(self, route: Route, served: str) -> Price | None:
        """The price of a model that was served in place of the one asked for; None where it has none of its own."""
        try:
            return pricing.find(route.provider, served, self._overrides)
        except Refused:
            return None

    def reached_elsewhere(self, route: Route, same_machine: bool) -> bool:
        """Whether a process elsewhere, or another one on the same machine, may ask this model as well.

        A person, a script, a cassette and the model of this machine are here alone.
        """
        if route.provider in (*_SYNTHETIC, "local") or self._plays(route.reference):
            return False
        settings = self._model.providers.get(route.provider, Provider())
        return same_machine or not _of_this_machine(settings.base or route.reference)

    def alone(self, route: Route) -> Model:
        """What another process has to know to ask this model and no other."""
        return self._model.model_copy(update={"lead": None, "worker": route.reference, "allow": ()})

    def warnings(self) -> list[str]:
        """What a report should say of the upstreams."""
        told: list[str] = []
        for upstream in {*self._upstreams.values(), *([self._played] if self._played else [])}:
            if isinstance(upstream, Cassette) and upstream.mismatched:
                differ = _counted(upstream.mismatched, "call differs", "calls differ")
                why = " (its worker is live)" if self._live else ""
                told.append(f"{differ} from the cassette{why}, the first: {upstream.mismatches[0]}")
        unplayed = self._played.unplayed(lead_only=self._live is not None) if self._played else 0
        if unplayed:
            told.append(f"{_counted(unplayed, 'recorded call was', 'recorded calls were')} not asked for")
        for one in self._locals:
            if one.server.deaths:
                told.append(f"the server of the local model died {_counted(one.server.deaths, 'time', 'times')}: see the journal")
        return told

    async def close(self) -> None:
        """Close every upstream."""
        for upstream in self._upstreams.values():
            await upstream.close()

    # --- names -------------------------------------------------------------------------------------------------------------

    def _allowed(self, name: str) -> Route:
        named = [reference for reference in (self._model.lead, self._model.worker) if reference]
        for reference in named:
            route = self._route(reference)
            if name in (reference, route.name, f"{route.provider}/{route.name}"):
                return route
        unknown: Refused | None = None
        for pattern in self._model.allow:
            provider, _, model = pattern.partition("/")
            candidate = name if name.startswith(f"{provider}/") else f"{provider}/{name}"
            if model and fnmatch.fnmatchcase(candidate, pattern):
                try:
                    return self._route(candidate)
                except Refused as refused:  # without a price there: another provider may be meant
                    unknown = unknown or refused
        if unknown is not None:
            raise unknown
        allowed = ", ".join([*named, *self._model.allow]) or "none"
        raise Refused(
            "unknown_model",
            f"the model {name[:80]!r} is not allowed in this box",
            remedy=f"allowed: {allowed}; the operator adds others to [model] allow",
        )

    def _named(self, reference: str) -> Route:
        """The route of a model that the operator named: without a price it is a mistake of the box, where at the door a call is refused."""
        try:
            return self._route(reference)
        except Refused as refused:
            raise UsageError(
                refused.code, refused.message, cause=refused.cause, remedy=refused.remedy, **refused.context
            ) from None

    def _route(self, reference: str) -> Route:
        if reference not in self._routes:
            self._routes[reference] = self._make(reference)
        return self._routes[reference]

    def _make(self, reference: str) -> Route:
        kind, _, place = reference.partition(":")
        if kind in _SYNTHETIC:
            return self._synthetic(reference, kind, Path(place))
        if reference.startswith(("http://", "https://")):
            base, _, model = reference.partition("#")
            upstream = self._upstream(
                reference, base, lambda: Http(Endpoint(_with_version(base), self._environment.get("OPENAI_API_KEY", "")))
            )
            price = self._price("http", model, pricing.nominal(model))
            billed = not self._plays(reference) and not _of_this_machine(base)
            return Route(reference, "http", model, "chat", _SPEAKS["responses"], price, upstream, billed)
        provider, _, model = reference.partition("/")
        if provider == "local" and "local" not in self._model.providers:
            return self._local(reference, model)
        settings = self._model.providers.get(provider, Provider())
        known = PROVIDERS.get(provider)
        if known is None and (settings.base is None or settings.protocol is None):
            near = ", ".join(PROVIDERS)
            raise UsageError(
                "unknown_provider",
                f"{provider!r} is not a provider with a known address",
                remedy=f"known: {near}; or give its base and protocol below [model.providers.{provider}]",
            )
        protocol = settings.protocol or (known[2] if known else "chat")
        price = pricing.find(provider, model, self._overrides)
        upstream = self._upstream(reference, provider, lambda: Http(self._endpoint(provider, settings, protocol)))
        speaks = _SPEAKS[protocol] | _SPEAKS["gemini"] if provider in _GEMINI else _SPEAKS[protocol]
        return Route(reference, provider, model, protocol, speaks, price, upstream, not self._plays(reference))

    def _local(self, reference: str, name: str) -> Route:
        """A model on this machine. Its price is nominal, so that limits of money mean something."""

        def make() -> Upstream:
            package = find_package()  # first: who lacks it need not fetch half a gigabyte to hear so
            one = Local(name or "local", package, weights.locate(name, self._environment), lambda: self._housing)
            self._locals.append(one)
            return one

        nominal = replace(pricing.nominal(name or "local"), context_window=CONTEXT, max_output=MAX_OUTPUT)
        price = self._price("local", name or "local", nominal)
        upstream = self._upstream(reference, reference, make)
        return Route(reference, "local", name or "local", "chat", frozenset(_SPEAKS), price, upstream, billed=False, leaves=False)

    def _synthetic(self, reference: str, kind: str, place: Path) -> Route:
        def make() -> Upstream:
            if kind == "manual":
                return Manual(place, self._forbidden)
            return Cassette(place) if kind == "cassette" else Scripted.from_file(place)

        upstream = self._upstream(reference, reference, make)
        protocol, name = "anthropic", kind
        played = getattr(self._played if self._plays(reference) else upstream, "lead", None)
        if played is not None:
            protocol, name = played
        price = self._price(kind, name, pricing.nominal(name))
        leaves = kind != "manual"
        return Route(reference, kind, name, protocol, frozenset(_SPEAKS), price, upstream, billed=False, leaves=leaves)

    def _plays(self, reference: str) -> bool:
        """Whether a cassette answers for this model."""
        return self._played is not None and reference != self._live

    def _price(self, provider: str, model: str, otherwise: Price) -> Price:
        try:
            return pricing.find(provider, model, self._overrides)
        except Refused:
            return otherwise

    def _upstream(self, reference: str, key: str, make: Any) -> Upstream:
        played = self._played if self._plays(reference) else None
        if played is not None and self._live is None:
            return played
        key = "played" if played is not None else key
        if key not in self._upstreams:
            self._upstreams[key] = played or make()
        upstream = self._upstreams[key]
        if self._record is not None and (upstream is played or not isinstance(upstream, Cassette | Recording)):
            upstream = self._upstreams[key] = Recording(upstream, self._record, _names(self._model))
        return upstream

    def require_key(self, provider: str) -> None:
        """Nothing where calls to this provider can be made; no connection is prepared. Raises UsageError `missing_key`."""
        protocol = PROVIDERS[provider][2]
        self._endpoint(provider, self._model.providers.get(provider, Provider()), protocol)

    # --- keys --------------------------------------------------------------------------------------------------------------

    def _endpoint(self, provider: str, settings: Provider, protocol: Protocol_) -> Endpoint:
        base, variable, _ = PROVIDERS.get(provider, ("", f"{provider.upper()}_API_KEY", protocol))
        variable = settings.key_env or variable
        key = self._key(provider, settings, variable)
        if not key and not (settings.base and _of_this_machine(settings.base)):
            raise UsageError(
                "missing_key",
                f"there is no key for {provider}",
                remedy=f"set {variable}, or name a key_file or keyring entry below [model.providers.{provider}]; it stays outside",
            )
        if settings.ca is not None:
            import ssl  # only here: it takes its time to load

            try:
                ssl.create_default_context(cafile=str(settings.ca))
            except OSError as error:
                remedy = f"name a PEM file of certificates with ca = ... below [model.providers.{provider}]"
                message = f"{settings.ca} holds no certificate authority that can be read"
                raise UsageError("bad_ca", message, cause=str(error), remedy=remedy) from error
        self.keys += [key] if key and key not in self.keys else []
        return Endpoint(
            base=_with_version(settings.base) if settings.base else base,
            key=key,
            key_header="x-api-key" if protocol == "anthropic" else "authorization",
            gemini=_gemini_base(settings.base) if settings.base else _GEMINI.get(provider, ""),
            proxy=settings.proxy or "",
            ca=settings.ca,
        )

    def _key(self, provider: str, settings: Provider, variable: str) -> str:
        if settings.key_file is not None:
            try:
                return settings.key_file.read_text().strip()
            except OSError as error:
                remedy = f"write the key into {settings.key_file}, or take key_file out"
                raise UsageError("missing_key", f"the key file of {provider} cannot be read: {error}", remedy=remedy) from error
        if settings.keyring is not None:
            return in_keyring(settings.keyring, provider)
        other = "" if settings.key_env else _OTHER_KEYS.get(provider, "")
        return (self._environment.get(variable) or self._environment.get(other, "")).strip()


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _names(model: Model) -> dict[str, str]:
    """What a cassette keeps of a box's models: names that mean the same elsewhere."""
    named = {"lead": model.lead, "worker": model.worker}
    return {role: name for role, name in named.items() if name and name.partition(":")[0] not in _SYNTHETIC}


def _recorded(cassette: Cassette) -> dict[str, str]:
    """The models of a replay. A lead that was no provider's has no name but its cassette's."""
    return {"lead": f"cassette:{cassette.file}", **cassette.models} if cassette.lead else dict(cassette.models)


def _of_this_machine(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _gemini_base(base: str) -> str:
    """Where a server has Gemini's own protocol: beside the compatible one, in the version that has all of it."""
    root = _with_version(base).removesuffix("/openai")
    return f"{root.removesuffix('/v1')}/v1beta" if root.endswith("/v1") else root


def _with_version(base: str) -> str:
    """A base without a path means its /v1, as the providers' own clients do."""
    base = base.rstrip("/")
    return base if base.count("/") > 2 else f"{base}/v1"
