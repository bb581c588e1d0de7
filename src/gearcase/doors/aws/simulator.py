"""A simulated cloud account: moto's server in a sandbox of its own, without network. Its state ends with the run.

Threat: the server reads what an agent wrote. What it could reach when it is taken over is its sandbox; it holds no credential.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import resources
from pathlib import Path

from gearcase.doors.housed import Housed
from gearcase.errors import UsageError
from gearcase.sandbox.trees import write_file
from gearcase.seams import Command, Housing, Limits, Mount

SOCKET = "aws.sock"
_PACKAGES = ("moto", "botocore", "flask", "werkzeug", "cryptography", "yaml")
"""They and what they need lie in one or two folders of packages."""
_STARTING = 60.0
"""Seconds."""
_PYTHON = "/opt/python"


async def open_simulator(housing: Housing, memory: int) -> Housed:
    """A server that answers. Raises UsageError `missing_extra`, RunError `door_failed`."""
    folders = _folders()
    mounts = [Mount(folder, f"/opt/packages/{number}") for number, folder in enumerate(folders)]
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if Path("/usr/bin", python).exists():
        interpreter = f"/usr/bin/{python}"
    else:  # what the packages were built for is not among the machine's own
        mounts.append(Mount(Path(sys.base_prefix), _PYTHON))
        interpreter = f"{_PYTHON}/bin/{python}"
    limits = Limits(memory=memory, cpus=1.0, disk=256 << 20, processes=128)
    housed = await Housed.open(housing, "aws", limits, mounts)
    try:
        program = resources.files("gearcase.inbox").joinpath("awsserver.py").read_bytes()
        write_file(housed.sandbox.box, b"awsserver.py", program)
        arguments = (interpreter, "-I", "/box/awsserver.py", f"/workspace/{SOCKET}", *(mount.target for mount in mounts))
        housed.start(Command(arguments, environment={"LANG": "C.UTF-8", "HOME": "/workspace"}, output_cap=8192))
        await housed.wait_for(SOCKET, _STARTING)
    except BaseException:
        await housed.close()
        raise
    return housed


def _folders() -> list[Path]:
    found: dict[Path, None] = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise UsageError(
                "missing_extra", "the simulated cloud account is not installed", remedy="pip install 'gearcase[aws]'", extra="aws"
            )
        found[Path(spec.origin).resolve().parent.parent] = None
    return list(found)
