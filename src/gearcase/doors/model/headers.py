"""Headers of a model call, by allow-list: what is not known does not pass in either direction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

REQUEST = frozenset({"anthropic-version", "anthropic-beta", "openai-beta", "user-agent", "accept", "x-stainless-retry-count"})
"""Of a client's headers. Credentials, hosts, cookies and hop-by-hop headers are never passed on."""

RESPONSE = (
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "request-id",
    "x-request-id",
    "anthropic-ratelimit-",
    "x-ratelimit-",
)
"""Of an upstream's headers, by prefix."""

_BETAS = (
    "claude-code-",
    "interleaved-thinking-",
    "fine-grained-tool-streaming-",
    "context-management-",
    "prompt-caching-",
    "token-counting-",
    "output-128k-",
    "structured-outputs-",
    "effort-",
    "extended-cache-ttl-",
    "prompt-caching-scope-",
    "advanced-tool-use-",
    "adaptive-thinking-",
    "redact-thinking-",
    "responses",
)
"""Betas that change neither the price nor what the provider reaches. Long context, fast mode, files, skills, MCP and code
execution are not among them."""


def request_headers(headers: Iterable[tuple[bytes, bytes]], edits: list[str]) -> dict[str, str]:
    """The headers that go on to an upstream; betas that are left out are put on record in `edits`."""
    passed: dict[str, str] = {}
    for name_bytes, value_bytes in headers:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        if name not in REQUEST:
            continue
        if name.endswith("-beta"):
            betas = [beta.strip() for beta in value.split(",") if beta.strip()]
            known = [beta for beta in betas if beta.startswith(_BETAS)]
            edits += [f"removed beta {beta[:60]}" for beta in betas if beta not in known]
            if not known:
                continue
            value = ",".join(known)
        passed[name] = value
    return passed


def response_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of an upstream's headers, named in lower case, that go back."""
    return {name: value for name, value in headers.items() if name.startswith(RESPONSE)}


REFUSED, RESOURCE = "x-gearcase-refused", "x-gearcase-resource"
"""Headers that only the door's own refusals carry: the code, and which limit. A provider's answer never has them."""


UNREACHED = "x-gearcase-unreached"
"""Header of an answer in place of an upstream that was provably sent nothing."""

COST = "x-gearcase-cost-nano-usd"
"""Header of an answer that came whole: what it was booked at, in nano-dollars."""


def is_out_of_budget(headers: Mapping[str, str]) -> bool:
    """Whether the door refused because an account of ours cannot pay. A provider's own 402 is its own affair."""
    return headers.get(REFUSED) in ("budget", "no_account")
