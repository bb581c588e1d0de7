"""Every error that a user can meet, each with what to do about it.

One tree, one envelope. `GearcaseError` is the root; a subclass is a *kind* of ending (which exit code) and `code` names the
page of the docs. The envelope `{code, message, cause, remedy, context}` is the same on a terminal, in `--json`, on the gear
door and for a parent agent.

    GearcaseError
     +-- UsageError          2   wrong arguments or box
     +-- UnsafeError         3   this machine cannot enforce what the box needs
     +-- RunError           13   the run could not go on (sandbox, upstream, journal)
     +-- Refused             -   a door, the ledger or a delivery said no; the run itself goes on
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class GearcaseError(Exception):
    """Root of the tree. `remedy` is never empty: an error that cannot say what to do is not finished."""

    exit_code: ClassVar[int] = 13

    def __init__(self, code: str, message: str, *, remedy: str, cause: str = "", **context: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.cause = cause
        self.remedy = remedy
        self.context = context

    def envelope(self) -> dict[str, Any]:
        """The error as it is shown everywhere: plain JSON."""
        return {
            "code": self.code,
            "message": self.message,
            "cause": self.cause,
            "remedy": self.remedy,
            "context": self.context,
        }

    def packed(self) -> dict[str, Any]:
        """The envelope with what `unpack` needs in another process of ours: of which class of this module it is."""
        return {"kind": next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__), **self.envelope()}


class UsageError(GearcaseError):
    """Wrong arguments, a wrong box file, a run that does not exist."""

    exit_code = 2


class UnsafeError(GearcaseError):
    """The box needs a guarantee that this machine cannot give."""

    exit_code = 3


class RunError(GearcaseError):
    """The run cannot go on: sandbox lost, upstream dead, journal not writable."""

    exit_code = 13


class Refused(GearcaseError):
    """A guard said no to one request. The run goes on."""

    exit_code = 11


def unpack(told: Mapping[str, Any]) -> GearcaseError:
    """The error that another process of ours packed."""
    kinds = {kind.__name__: kind for kind in (UsageError, UnsafeError, RunError, Refused)}
    kind = kinds.get(str(told.get("kind")), RunError)
    return kind(told["code"], told["message"], remedy=told["remedy"], cause=told["cause"], **told["context"])
