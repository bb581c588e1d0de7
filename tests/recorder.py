"""A recorder for tests: it keeps in memory what it is told."""


class Facts:
    """See `seams.Recorder`."""

    def __init__(self):
        self.events = []

    def append(self, event, agent=""):
        self.events.append(event)
        return len(self.events)

    def flush(self):
        """Nothing is held back."""

    async def durable(self):
        """Nothing is held back."""

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]
