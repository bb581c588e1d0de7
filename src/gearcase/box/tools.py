"""The operator's own programs that a box may use: found on PATH, seen read-only below /opt/tools, started from /box/bin.

What is shown is the program and what it cannot run without, never the folder of a home: of a native program its file; of a node
package its folder, or the `node_modules` that it shares with what it loads; of a Python program its virtual environment and the
Python beneath it; of any other script its file. What lies below /usr is inside anyway.

Where PATH leads to a version manager's shim, it is the program behind it that counts.

Invariant: no folder that holds the operator's home, or is it, is ever shown.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gearcase.box.mistakes import nearest
from gearcase.box.paths import PathMistake
from gearcase.box.shims import real_program
from gearcase.seams import Mount

TOOLS = "/opt/tools"
"""Where tools are seen inside, each in a folder of its name."""
_STARTERS = "/box/bin"
_FURNISHED = frozenset({"gear"})
_FIRST_LINE = 512


@dataclass(frozen=True, slots=True)
class VirtualEnvironment:
    """A Python environment as it stands inside: below `home` in /box, its packages and its Python where they are mounted."""

    home: str  # below /box
    packages: str
    python: str


@dataclass(frozen=True, slots=True)
class Tool:
    """One program. `program` is what PATH led to; `words` start it inside; empty where PATH inside finds the very same one."""

    name: str
    program: Path
    mounts: tuple[Mount, ...] = ()
    words: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    environment: VirtualEnvironment | None = None

    @property
    def starter(self) -> bytes:
        """The script that stands on PATH inside; empty where none is needed."""
        if not self.words:
            return b""
        variables = [f"export {key}={shlex.quote(value)}" for key, value in self.variables]
        return "\n".join(["#!/bin/sh", *variables, f'exec {shlex.join(self.words)} "$@"', ""]).encode()


def find_tools(names: Sequence[str], environment: Mapping[str, str]) -> tuple[Tool, ...]:
    """The tools of these names, and the node that one of them needs. Raises PathMistake for the first that cannot be used."""
    found: dict[str, Tool] = {}
    for name in names:
        for tool in _Search(environment).find(name):
            found.setdefault(tool.name, tool)
    return tuple(found.values())


class _Search:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._path = environment.get("PATH", "")
        self._home = Path(environment.get("HOME") or Path.home()).resolve()

    def find(self, name: str) -> Iterator[Tool]:
        """The tool, after what it needs."""
        if name in _FURNISHED:
            raise PathMistake(f"{name!r} is inside in any case")
        place = shutil.which(name, path=self._path)
        if place is None:
            raise PathMistake(f"{name!r} is not on PATH: install it, or add the folder that it is in to PATH", self._near(name))
        real = real_program(name, Path(place), self._environment)
        program = real.resolve()
        words = _interpreter(program)
        if _inside(program) and not any(not _inside(Path(word)) for word in words[:1] if word.startswith("/")):
            plain = any(Path(folder, name).exists() for folder in ("/usr/local/bin", "/usr/bin"))
            yield Tool(name, program, words=() if plain else (str(program),))
            return
        package = _node_package(program)
        if not words:
            yield self._native(name, program)
        elif Path(words[0]).name in ("node", "bun"):
            yield from self._node(name, real, program, package, words)
        elif re.fullmatch(r"(python|pypy)[0-9.]*", Path(words[0]).name):
            yield self._python(name, program, Path(words[0]))
        else:
            yield Tool(
                name, program, (self._mount(program, f"{TOOLS}/{name}/{program.name}"),), (f"{TOOLS}/{name}/{program.name}",)
            )

    def _near(self, name: str) -> str:
        folders = [Path(folder) for folder in self._path.split(":") if folder]
        return nearest(name, (file.name for folder in folders if folder.is_dir() for file in folder.iterdir()))

    def _mount(self, source: Path, target: str) -> Mount:
        if source == Path("/") or self._home.is_relative_to(source):
            raise PathMistake(f"is installed in {source} itself, which is never shown: install it into a folder of its own")
        return Mount(source, target)

    def _native(self, name: str, program: Path) -> Tool:
        target = f"{TOOLS}/{name}/bin/{name}"
        return Tool(name, program, (self._mount(program, target),), (target,))

    def _node(self, name: str, real: Path, program: Path, package: Path | None, words: tuple[str, ...]) -> Iterator[Tool]:
        """A program of node's (or bun's), whose own engine stands beside it or on PATH."""
        what = Path(words[0]).name
        beside, engine = real.parent / what, shutil.which(what, path=self._path)
        if engine is None and not beside.exists():
            raise PathMistake(f"{name!r} needs {what}, which is not on PATH: install it, or add its folder to PATH")
        shimmed = engine is None or real != Path(shutil.which(name, path=self._path) or "")
        node = (
            beside if shimmed and beside.exists() else real_program(what, Path(engine or beside), self._environment)
        ).resolve()
        run = str(node)
        if not _inside(node):
            needed = self._native(node.name, node)
            yield needed
            run = needed.words[0]
        root = package or program
        target = f"{TOOLS}/{name}/{root.name}"
        inside = target if root == program else f"{target}/{program.relative_to(root)}"
        mounts = () if _inside(root) else (self._mount(root, target),)
        yield Tool(name, program, mounts, (run, *words[1:], inside if mounts else str(program)))

    def _python(self, name: str, program: Path, interpreter: Path) -> Tool:
        place = f"{TOOLS}/{name}"
        home = next((folder for folder in interpreter.parents if (folder / "pyvenv.cfg").is_file()), None)
        if home is None:
            return self._user_python(name, program, interpreter)
        mounts = [self._mount(home.resolve(), f"{place}/venv")]
        base = interpreter.resolve()
        if not _inside(base):
            mounts.append(self._mount(base.parent.parent, f"{place}/python"))
        python = str(base) if _inside(base) else f"{place}/python/bin/{base.name}"
        script = f"{place}/venv/{program.relative_to(home.resolve())}" if program.is_relative_to(home.resolve()) else ""
        if not script:
            script = f"{place}/bin/{name}"
            mounts.append(self._mount(program, script))
        # Where Python was built with a library of its own, it finds that one by the path at which it was installed.
        library = not _inside(base) and any(base.parent.parent.glob("lib/libpython*.so*"))
        variables = (("LD_LIBRARY_PATH", f"{place}/python/lib"),) if library else ()
        made = VirtualEnvironment(f"tools/{name}", f"{place}/venv", python)
        return Tool(name, program, tuple(mounts), (f"/box/tools/{name}/bin/python", script), variables, made)

    def _user_python(self, name: str, program: Path, interpreter: Path) -> Tool:
        """A script of `pip install --user`: the packages stand beside its folder."""
        found = sorted(program.parent.parent.glob("lib/python3*/site-packages"))
        if not _inside(interpreter.resolve()):
            raise PathMistake(
                f"runs on {interpreter}, which is neither below /usr nor a virtual environment: install it into one"
            )
        place = f"{TOOLS}/{name}"
        mounts = [self._mount(program, f"{place}/bin/{name}")]
        mounts += [self._mount(folder, f"{place}/packages") for folder in found[-1:]]
        variables = (("PYTHONPATH", f"{place}/packages"),) if found else ()
        return Tool(name, program, tuple(mounts), (str(interpreter.resolve()), f"{place}/bin/{name}"), variables)


def _inside(path: Path) -> bool:
    """Whether a box has this path by itself."""
    return path.is_relative_to("/usr") or (len(path.parts) > 1 and path.parts[1] in ("bin", "sbin", "lib", "lib64"))


def _interpreter(program: Path) -> tuple[str, ...]:
    """The words of a script's first line, without `env`; empty for what is no script."""
    try:
        with program.open("rb") as file:
            line = file.read(_FIRST_LINE).partition(b"\n")[0]
    except OSError as error:
        raise PathMistake(f"cannot be read: {error.strerror}") from None
    if not line.startswith(b"#!"):
        return ()
    words = line[2:].decode("utf-8", "replace").split()
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if word != "-S" and "=" not in word]
    return tuple(words)


def _node_package(program: Path) -> Path | None:
    """The folder that a node program and what it loads lie in: its package where that brings all with it, else `node_modules`."""
    parts = program.parts
    places = [at for at, part in enumerate(parts[:-1]) if part == "node_modules"]
    if not places:
        return None
    top = Path(*parts[: places[0] + 1])
    if (top / ".package-lock.json").exists() or (top / ".pnpm").exists() or (top / ".yarn-integrity").exists():
        return top
    scoped = parts[places[0] + 1].startswith("@")
    return Path(*parts[: places[0] + 2 + scoped])
