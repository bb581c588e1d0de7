"""A volume is replaced whole or not at all, and belongs to one run."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import types

import pytest

from gearcase.doors.redis.volume import Volume
from gearcase.errors import GearcaseError

OLD, NEW = b"REDIS0011 old", b"REDIS0011 new"


@pytest.fixture
def made(tmp_path):
    """A volume that holds OLD, and the workspace of a server that can hand something out."""
    inside = tmp_path / "inside"
    inside.mkdir()
    workspace = os.open(inside, os.O_RDONLY)
    volume = Volume(tmp_path / "volumes", "answers")
    volume.file.write_bytes(OLD)
    yield volume, inside, types.SimpleNamespace(sandbox=types.SimpleNamespace(workspace=workspace), disk=1 << 20)
    volume.close()
    os.close(workspace)


def names(volume):
    return sorted(path.name for path in volume.file.parent.iterdir())


def test_what_is_kept_replaces_what_was_there_and_is_nobody_elses(made):
    volume, inside, housed = made
    (inside / "dump.rdb").write_bytes(NEW)
    volume.file.with_suffix(".part").write_bytes(b"of a run that was killed")
    assert asyncio.run(volume.keep(housed, "dump.rdb")) == len(NEW)
    assert volume.file.read_bytes() == NEW
    assert names(volume) == ["answers.lock", "answers.rdb"]
    assert volume.file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("planted", ["nothing", "link", "fifo", "folder", "hole"])
def test_a_server_that_was_taken_over_hands_out_no_file_of_ours_and_nothing_without_end(made, tmp_path, planted):
    volume, inside, housed = made
    secret, file = tmp_path / "secret", inside / "dump.rdb"
    secret.write_bytes(NEW)
    if planted == "link":
        file.symlink_to(secret)
    elif planted == "fifo":
        os.mkfifo(file)
    elif planted == "folder":
        file.mkdir()
    elif planted == "hole":
        file.touch()
        os.truncate(file, 1 << 40)
    with pytest.raises(GearcaseError) as caught:
        asyncio.run(volume.keep(housed, "dump.rdb"))
    assert caught.value.code == "door_failed"
    assert volume.file.read_bytes() == OLD
    assert names(volume) == ["answers.lock", "answers.rdb"]


def test_a_full_disk_leaves_what_was_there(made):
    """The size of files is limited in place of the disk: the write fails all the same."""
    volume, inside, _ = made
    (inside / "dump.rdb").write_bytes(b"x" * 200_000)
    program = (
        "import asyncio, resource, signal, sys, types, os\n"
        "from pathlib import Path\n"
        "from gearcase.doors.redis.volume import Volume\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "volume = Volume(Path(sys.argv[1]), 'answers')\n"
        "workspace = os.open(sys.argv[2], os.O_RDONLY)\n"
        "housed = types.SimpleNamespace(sandbox=types.SimpleNamespace(workspace=workspace), disk=1 << 20)\n"
        "try:\n    asyncio.run(volume.keep(housed, 'dump.rdb'))\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    volume.close()
    told = subprocess.run([sys.executable, "-c", program, volume.file.parent, inside], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(errno.EFBIG)]
    assert volume.file.read_bytes() == OLD
    assert names(volume) == ["answers.lock", "answers.rdb"]


def test_one_run_at_a_time_has_it_until_it_ends_however_it_ends(made):
    volume, _, _ = made
    folder = volume.file.parent
    with pytest.raises(GearcaseError) as caught:
        Volume(folder, "answers")
    assert caught.value.code == "volume_in_use"
    Volume(folder, "another").close()
    volume.close()
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom gearcase.doors.redis.volume import Volume\n"
        "volume = Volume(Path(sys.argv[1]), 'answers')\nprint('mine', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(GearcaseError):
            Volume(folder, "answers")
        other.send_signal(signal.SIGKILL)
    Volume(folder, "answers").close()


def test_a_volume_that_is_damaged_says_what_to_do_and_stays(made):
    volume, _, _ = made
    assert volume.content().name == "the volume answers"
    volume.file.write_bytes(b"garbage")
    with pytest.raises(GearcaseError) as caught:
        volume.content()
    assert caught.value.code == "bad_dump"
    assert str(volume.file) in caught.value.remedy
    volume.file.unlink()
    assert volume.content() is None
