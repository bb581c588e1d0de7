"""Make a stopped cluster of PostgreSQL in the folder `cluster`, with one database `shop`; its server listens nowhere but in its folder."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from gearcase.doors.postgres.binaries import candidates

_NOBODY = 65534


def make(sql):
    """`sql` fills the database. The programs refuse to be root's: they run as nobody then."""
    programs = candidates()[0].root / "bin"
    user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="cluster-") as scratch:
        data = Path(scratch) / "data"
        data.mkdir(mode=0o700)
        if user:
            Path(scratch).chmod(0o755)
            os.chown(data, _NOBODY, _NOBODY)

        def run(*command, told=None):
            subprocess.run(command, input=told, text=True, check=True, capture_output=True, cwd="/", **user)

        run(programs / "initdb", "-D", data, "-U", "postgres", "--no-sync", "-E", "UTF8", "--no-locale")
        control = (programs / "pg_ctl", "-D", data, "-w", "-l", f"{data}/log")
        psql = (programs / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", data, "-U")
        run(*control, "-o", f"-c listen_addresses='' -k {data}", "start")
        run(*psql, "postgres", "postgres", told="CREATE ROLE owner LOGIN; CREATE DATABASE shop OWNER owner;")
        run(*psql, "owner", "shop", told=sql)
        run(*control, "stop")
        shutil.copytree(data, "cluster", symlinks=True)
    box = Path("box.toml")  # a copy for this one run: its cluster is named by a path from the root
    box.write_text(box.read_text().replace("/CLUSTER", str(Path("cluster").resolve())))
