"""The real small model for tests: GEARCASE_TEST_MODEL, else pulled once into .cache of the checkout."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache/data"


def small():
    """Its file."""
    if own := os.environ.get("GEARCASE_TEST_MODEL"):
        return Path(own)
    file = CACHE / "gearcase/models/small.gguf"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one test run
        if not file.exists():
            command = [Path(sys.executable).with_name("gearcase"), "models", "pull", "small"]
            subprocess.run(command, env={**os.environ, "XDG_DATA_HOME": str(CACHE)}, check=True, timeout=600)
    return file
