#!/usr/bin/env python3
"""The server of the local model, on a Unix socket: started by the host in a sandbox of its own, or as an ordinary child.

The one argument is a JSON object: `package` (folder that holds xllamacpp), `model`, `socket`, `name`, `context` (tokens), `threads`, and
`parent`: the pid of the host where this is its ordinary child, else 0. A child dies with its host: the kernel kills it (PDEATHSIG), and
the end of the pipe on its standard input is the second means, because the first follows the thread that started it.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """End when the parent ends, whatever ended it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the line above

    def until_closed() -> None:
        while os.read(0, 1):
            continue
        os._exit(1)

    threading.Thread(target=until_closed, daemon=True).start()


def main() -> None:
    """Load the model and serve it until the process is killed."""
    wanted = json.loads(sys.argv[1])
    if wanted["parent"]:
        die_with(wanted["parent"])
    sys.path.insert(0, wanted["package"])
    xllamacpp: Any = importlib.import_module("xllamacpp")
    socket = Path(wanted["socket"])
    socket.unlink(missing_ok=True)  # of a server that died
    settings = xllamacpp.CommonParams()
    settings.model.path = wanted["model"]
    settings.model_alias = {wanted["name"]}
    settings.hostnames = [wanted["socket"]]
    settings.n_ctx = wanted["context"]
    settings.n_parallel = 1  # more gain nothing on a processor, and one answers the same to the same
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = wanted["threads"]
    settings.n_threads_http = 4
    settings.cache_ram_mib = 0
    settings.ui = settings.endpoint_slots = settings.endpoint_props = False
    settings.offline = True
    settings.verbosity = 1
    server = xllamacpp.Server(settings)
    socket.chmod(0o600)
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
