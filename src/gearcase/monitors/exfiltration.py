"""`exfiltration`: data is on its way out: to names that nobody allowed, in names, or by uploads where reading was meant."""

from __future__ import annotations

import math
from collections import Counter, deque

from gearcase.events import ConnectionClosed, NameAsked
from gearcase.monitors.seam import Alarm, Detector, Fact
from gearcase.units import format_bytes

WINDOW, DENIED = 600.0, 5
"""Seconds, and different denied hosts in them."""
LABEL, ENTROPY = 40, 3.5
"""Characters of one label of a name, and the bits a character from which they look like data: text has 2 to 3, base32 about 4.5."""
LABELS, CARRIED = 20, 400
"""Different labels that were asked for below one denied domain in a run, and characters in them: whoever answers for that domain has read
these. What a program needs there it asks for with the same few names, and stops when they do not exist; a call in each of a cloud's 17
regions makes 18 labels of under 200 characters, a table makes two or more a row."""
RATIO, SENT = 10, 10**6
"""How many times more goes up than comes down, from so many bytes on."""
_MOST_DOMAINS = 1000
EXPECTED = (
    "pypi.org", "pythonhosted.org", "npmjs.org", "npmjs.com", "yarnpkg.com", "crates.io", "rust-lang.org", "golang.org", "debian.org",
    "ubuntu.com", "alpinelinux.org", "fedoraproject.org", "rubygems.org", "maven.org", "maven.apache.org", "gradle.org", "nodejs.org",
    "anaconda.com", "anaconda.org", "conda.io", "github.com", "githubusercontent.com", "gitlab.com", "docker.io", "docker.com",
    "huggingface.co", "local", "lan", "internal", "arpa", "localdomain", "box",
)  # fmt: skip
"""What programs ask for by themselves when they install or start: denied all the same, and no sign of anything."""


class Exfiltration(Detector):
    """See the module."""

    name = "exfiltration"
    acts = True
    kinds = (NameAsked, ConnectionClosed)
    needs = frozenset({"egress"})
    rule = (
        "5 denied hosts in 10 minutes, a name whose label looks like data, 20 labels of 400 characters below one denied domain, or uploads "
        "of 1 MB that are 10 times the downloads"
    )

    def __init__(self) -> None:
        self._denied: dict[str, deque[tuple[float, str]]] = {}
        self._below: dict[str, set[str]] = {}  # denied domain -> labels below it, whichever agent asked
        self._traffic: dict[tuple[str, str], tuple[int, int]] = {}

    def update(self, fact: Fact) -> Alarm | None:
        """Fold one fact in."""
        event = fact.event
        if isinstance(event, ConnectionClosed):
            return self._uploads(event, fact) if event.door == "http" else None
        assert isinstance(event, NameAsked)
        if event.allowed:
            return None
        for label in event.name.split("."):
            if len(label) > LABEL and entropy(label) > ENTROPY:
                said = f"the name {event.name[:60]}… was asked for, which looks like data in a name"
                return self._alarm(said, {"label": len(label), "bits": round(entropy(label), 2)}, fact)
        return self._names(event.name.rstrip(".").lower(), fact)

    def _names(self, name: str, fact: Fact) -> Alarm | None:
        if "." not in name or any(name == one or name.endswith(f".{one}") for one in EXPECTED):
            return None
        host = ".".join(name.split(".")[-2:])
        if (told := self._carried(host, name.split(".")[:-2])) is not None:
            return self._alarm(*told, fact)
        denied = self._denied.setdefault(fact.agent, deque(maxlen=256))
        while denied and denied[0][0] <= fact.at - WINDOW:
            denied.popleft()
        denied.append((fact.at, host))
        hosts = list(dict.fromkeys(one for _at, one in denied))
        if len(hosts) < DENIED:
            return None
        return self._alarm(f"{len(hosts)} hosts were denied in ten minutes: {', '.join(hosts[:5])}", {"hosts": hosts[:10]}, fact)

    def _carried(self, host: str, labels: list[str]) -> tuple[str, dict[str, object]] | None:
        """What names below one domain have carried to whoever answers for it, where that is much."""
        below = self._below.pop(host, set())
        self._below[host] = below  # the latest is the last
        if len(self._below) > _MOST_DOMAINS:
            del self._below[next(iter(self._below))]
        size = sum(map(len, below))
        if len(below) < LABELS or size < CARRIED:  # no more is kept than it takes to say so
            below.update(labels)
            size = sum(map(len, below))
        if len(below) < LABELS or size < CARRIED:
            return None
        said = f"{len(below)} labels below {host}, which is denied, were asked for: {size} characters, which looks like data in names"
        return said, {"domain": host, "labels": len(below), "characters": size}

    def _uploads(self, event: ConnectionClosed, fact: Fact) -> Alarm | None:
        key = (fact.agent, event.name)
        sent, received = self._traffic.get(key, (0, 0))
        sent, received = self._traffic[key] = sent + event.sent, received + event.received
        if sent < SENT or sent < RATIO * received:
            return None
        said = f"{format_bytes(sent)} went to {event.name}, and {format_bytes(received)} came back"
        return self._alarm(said, {"host": event.name, "sent": sent, "received": received}, fact)

    def _alarm(self, said: str, evidence: dict[str, object], fact: Fact) -> Alarm:
        remedy = "nothing may leave but through `take`; ask for a host with `gear ask-for net HOST`"
        return Alarm(self.name, "freeze", said, remedy, fact.agent, evidence)


def entropy(text: str) -> float:
    """Bits a character, of the text's own letters."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
