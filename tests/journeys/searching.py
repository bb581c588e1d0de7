"""Looks for a text in everything of a live box, from outside: its processes' variables, memory and descriptors, and its files.

The text is looked for as it is, in base64 wherever it stands in a longer one, and URL-encoded.
"""

import base64
import os
import stat
from pathlib import Path
from urllib.parse import quote

_FOLDERS = ("workspace", "tmp", "home", "box", "etc", "dev/shm", "run", "var", "opt", "root")
_CHUNK = 8 << 20


def forms(text):
    """How it may be written."""
    raw = text.encode()
    aligned = [base64.b64encode(b"\0" * before + raw)[-(-8 * before // 6) : 8 * (before + len(raw)) // 6] for before in range(3)]
    return {raw, quote(text, safe="").encode(), *aligned, *(one.replace(b"+", b"-").replace(b"/", b"_") for one in aligned)}


def processes_of_box(marker):
    """Host pids of all processes in the pid namespace of the one whose command line holds `marker`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = os.readlink(entry / "ns/pid"), (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended, or is another user's
    ours = os.readlink("/proc/self/ns/pid")
    spaces = {space for space, line in found.values() if marker.encode() in line and space != ours}
    return [pid for pid, (space, _) in found.items() if space in spaces]


class Search:
    """Where any of some texts was found, as `(text, place)`; `unread` is what this user may not look into."""

    def __init__(self, *texts):
        self._forms = {text: forms(text) for text in texts}
        self._longest = max(len(form) for some in self._forms.values() for form in some)
        self.found = set()
        self.unread = set()
        self.read = 0

    def places(self, text):
        """The kinds of places where it was found."""
        return {place for found, place in self.found if found == text}

    def data(self, place, data):
        """Look through bytes."""
        self.read += len(data)
        for text, some in self._forms.items():
            if any(form in data for form in some):
                self.found.add((text, place))

    def processes(self, pids):
        """Look through processes; returns how many could be read."""
        return sum(self._process(Path(f"/proc/{pid}")) for pid in pids)

    def _process(self, process):
        try:
            self.data("environ", (process / "environ").read_bytes())
            self.data("cmdline", (process / "cmdline").read_bytes())
            self._memory(process)
            for descriptor in list((process / "fd").iterdir()):
                self.data("fd", os.fsencode(os.readlink(descriptor)))
                if stat.S_ISREG(descriptor.stat().st_mode):
                    self._file(descriptor, "fd")
        except (PermissionError, ProcessLookupError, FileNotFoundError) as error:
            self.unread.add(f"{process}: {error.strerror}")
            return False
        return True

    def _memory(self, process):
        with open(process / "mem", "rb", buffering=0) as memory:
            for line in (process / "maps").read_text().splitlines():
                span, rights, *rest = line.split(None, 5)
                if not rights.startswith("r") or rest[-1] in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                    continue
                begin, end = (int(one, 16) for one in span.split("-"))
                before = b""
                while begin < end:
                    try:
                        part = os.pread(memory.fileno(), min(_CHUNK, end - begin), begin)
                    except OSError:  # a page that is not there
                        break
                    if not part:
                        break
                    self.data("mem", before + part)
                    before, begin = part[-self._longest :], begin + len(part)

    def files(self, root, place="file", folders=_FOLDERS):
        """Look through files and their names, following no link."""
        for top in folders:
            for folder, _, names in os.walk(Path(root) / top):
                for name in names:
                    path = Path(folder) / name
                    self.data(place, os.fsencode(path))
                    if stat.S_ISREG(path.lstat().st_mode):
                        self._file(path, place)

    def _file(self, path, place):
        try:
            with open(path, "rb") as file:
                before = b""
                while part := file.read(_CHUNK):
                    self.data(place, before + part)
                    before = part[-self._longest :]
        except OSError as error:
            self.unread.add(f"{path}: {error.strerror}")
