"""Gearcase: the box for autonomous agents.

From Python: `from gearcase import api` (see `gearcase.api`). Its names stand here too, loaded when they are first used; `run` does not,
because the package of that name does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gearcase.api import Box, EndRecord, GearcaseError, open_door, open_sandbox, run_async

__version__ = "0.1.0"
__all__ = ["Box", "EndRecord", "GearcaseError", "__version__", "open_door", "open_sandbox", "run_async"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gearcase import api

    return getattr(api, name)
