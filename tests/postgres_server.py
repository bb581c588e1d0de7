"""A real PostgreSQL server outside, of which branches are made: somebody's live database."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from gearcase.doors.postgres.binaries import candidates

PASSWORD = "canary-of-the-live-database"
_NOBODY = 65534


class Live:
    """A server with a role `owner` (no superuser) who owns the databases, over TCP with a password."""

    def __init__(self, folder, bin_, port, user):
        self.folder = folder
        self.port = port
        self._bin = bin_
        self._user = user
        self.dsn = f"postgresql://owner@127.0.0.1:{port}/shop"

    def run(self, program, *arguments, user="owner", database="shop", stdin=None):
        environment = {"PATH": "/usr/bin:/bin", "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": user}
        environment |= {"PGPASSWORD": PASSWORD, "PGDATABASE": database, "LANG": "C.UTF-8"}
        done = subprocess.run(
            [self._bin / program, *arguments], env=environment, input=stdin, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sql(self, text, user="owner", database="shop"):
        """Run SQL; returns what it answers."""
        return self.run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", user=user, database=database, stdin=text).strip()

    def keep(self, folder):
        """Stop the server, and copy its data directory."""
        done = subprocess.run(
            [self._bin / "pg_ctl", "-D", self.folder / "data", "-w", "-m", "fast", "stop"], cwd="/", **self._user
        )
        assert done.returncode == 0
        shutil.copytree(self.folder / "data", folder, symlinks=True)

    def digest(self):
        """SHA-256 of a dump of all of it. Newer clients put a random word into a plain dump: it is no data."""
        text = re.sub(r"^\\(un)?restrict .*$", "", self.run("pg_dump"), flags=re.MULTILINE)
        return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def live(binaries=None):
    """A running server with an empty database `shop`."""
    binaries = binaries or candidates()[0]
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        folder, bin_ = Path(folder), binaries.root / "bin"
        user = {}
        if os.getuid() == 0:  # the server refuses to be root's
            user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            if binaries.bundled:
                shutil.copytree(binaries.root, folder / "postgres")
                bin_ = folder / "postgres/bin"
            folder.chmod(0o755)
        data = folder / "data"
        data.mkdir(mode=0o700)
        password = folder / "password"
        password.write_text(PASSWORD)
        if user:
            os.chown(data, _NOBODY, _NOBODY)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        subprocess.run(
            [
                bin_ / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "scram-sha-256",
                f"--pwfile={password}",
                "--no-sync",
                "-E",
                "UTF8",
                "--no-locale",
            ],
            check=True,
            capture_output=True,
            cwd="/",
            **user,
        )
        options = [
            "-c",
            f"port={port}",
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={data}",
            "-c",
            "fsync=off",
        ]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([bin_ / "postgres", "-D", data, *options], cwd="/", stderr=log, **user)
        try:
            made = Live(folder, bin_, port, user)
            until = time.monotonic() + 30
            while subprocess.run([bin_ / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode:
                assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.05)
            made.sql(f"CREATE ROLE owner LOGIN PASSWORD '{PASSWORD}'; CREATE DATABASE shop OWNER owner;", "postgres", "postgres")
            yield made
        finally:
            server.terminate()
            server.wait(20)
