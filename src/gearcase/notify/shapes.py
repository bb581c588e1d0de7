"""What is sent to each kind of target, as its maker documents it.

- ntfy: a JSON message to the server's root, which names the topic (texts of any language; headers would need encoding).
- Slack: `{"text": ...}` to an incoming webhook, with `&`, `<` and `>` escaped.
- PagerDuty: Events API v2, `trigger` with one `dedup_key` for all repetitions, `resolve` once it is answered.
- webhook: plain JSON, `event` is `page` or `answered`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from gearcase.notify.page import Page

VERSION = 1
"""Of the webhook's own shape."""
_PRIORITY = {"critical": 5, "high": 4, "normal": 3}
_SEVERITY = {"critical": "critical", "high": "error", "normal": "warning"}
_TAGS = {"critical": ["rotating_light"], "high": ["warning"], "normal": ["information_source"]}


@dataclass(frozen=True, slots=True)
class Destination:
    """A target with its secrets in place. They are in no text of ours: `repr` hides them."""

    name: str
    kind: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict[str, str])
    routing_key: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A POST that is ready to be sent."""

    to: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: str = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """For the process that sends it."""
        return {"to": self.to, "url": self.url, "headers": dict(self.headers), "body": self.body}


def trigger(to: Destination, page: Page) -> Outgoing:
    """The page, for this target."""
    (what, then), words = page.lines, page.words
    match to.kind:
        case "ntfy":
            root, topic = _topic(to.url)
            title = f"Gearcase: {page.name}"
            told = {"topic": topic, "title": title, "message": f"{what}\n{then}", "priority": _PRIORITY[words.urgency]}
            return _json(to, {**told, "tags": _TAGS[words.urgency]}, root)
        case "slack":
            text = f"{what}\n{then}"
            return _json(to, {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")})
        case "pagerduty":
            payload = {
                "summary": what[:1024],
                "source": f"gearcase/{page.name}"[:255],
                "severity": _SEVERITY[words.urgency],
                "class": words.about,
                "custom_details": {"meanwhile": words.meanwhile, "answers": list(words.answers), "run": page.run},
            }
            return _json(to, {**_event(to, page, "trigger"), "payload": payload, "client": "Gearcase"})
        case _:
            return _json(to, _plain(page, "page"))


def resolve(to: Destination, page: Page) -> Outgoing | None:
    """That it is answered, for targets that keep a page open."""
    match to.kind:
        case "pagerduty":
            return _json(to, _event(to, page, "resolve"))
        case "webhook":
            return _json(to, _plain(page, "answered"))
        case _:
            return None


def _event(to: Destination, page: Page, action: str) -> dict[str, Any]:
    return {"routing_key": to.routing_key, "event_action": action, "dedup_key": page.key[:255]}


def _plain(page: Page, event: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "event": event,
        "key": page.key,
        "run": page.run,
        "name": page.name,
        "about": page.words.about,
        "urgency": page.words.urgency,
        "told": page.told,
        "what": page.words.what,
        "meanwhile": page.words.meanwhile,
        "answers": list(page.words.answers),
        "text": "\n".join(page.lines),
    }


def _topic(url: str) -> tuple[str, str]:
    """The server's root and the topic of an ntfy address."""
    root, _, topic = url.partition("?")[0].rstrip("/").rpartition("/")
    return f"{root}/", unquote(topic)


def _json(to: Destination, told: Mapping[str, Any], url: str = "") -> Outgoing:
    headers = {"Content-Type": "application/json", "User-Agent": "gearcase", **to.headers}
    return Outgoing(to.name, url or to.url, headers, json.dumps(told))
