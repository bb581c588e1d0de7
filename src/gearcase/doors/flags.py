"""What to look at before using a delivered file: names that tools of the host run, obey or misread without being asked.

A flag never stops a delivery; files are inert data until somebody's tool meets them. What `flags` finds is by name and mode alone, since
nothing of the host parses what an agent wrote, and its list of the usual ways in cannot be complete. Others know that a file belongs to
a database, or holds a credential.
"""

from __future__ import annotations

import stat

_NAMES: dict[bytes, str] = {
    **dict.fromkeys(
        (b"makefile", b"gnumakefile", b"cmakelists.txt", b"justfile", b"taskfile.yml", b"rakefile", b"build.rs", b"meson.build"),
        "build",
    ),
    **dict.fromkeys((b"setup.py", b"setup.cfg", b"pyproject.toml", b"noxfile.py", b"tox.ini", b"fabfile.py"), "build"),
    **dict.fromkeys((b"build.gradle", b"build.gradle.kts", b"pom.xml", b"binding.gyp", b"gulpfile.js", b"gruntfile.js"), "build"),
    **dict.fromkeys(
        (b"package.json", b".npmrc", b".yarnrc", b".yarnrc.yml", b".pnpmfile.cjs", b"composer.json"), "package scripts"
    ),
    **dict.fromkeys((b"conftest.py", b"sitecustomize.py", b"usercustomize.py", b"pytest.ini"), "run by python tools"),
    **dict.fromkeys(
        (b".envrc", b".bashrc", b".bash_profile", b".profile", b".zshrc", b".zshenv", b".env", b"mise.toml", b".mise.toml"),
        "shell start-up",
    ),
    **dict.fromkeys((b".vimrc", b".exrc", b".nvimrc", b".emacs", b".dir-locals.el", b".editorconfig"), "editor"),
    **dict.fromkeys(
        (
            b".gitlab-ci.yml",
            b"action.yml",
            b"bitbucket-pipelines.yml",
            b".woodpecker.yml",
            b".travis.yml",
            b"jenkinsfile",
            b"azure-pipelines.yml",
            b".drone.yml",
            b"appveyor.yml",
        ),
        "ci",
    ),
    **dict.fromkeys(
        (
            b".pre-commit-config.yaml",
            b".pre-commit-hooks.yaml",
            b"lefthook.yml",
            b".gitmodules",
            b".gitattributes",
            b".gitconfig",
        ),
        "git",
    ),
    **dict.fromkeys(
        (
            b"dockerfile",
            b"containerfile",
            b"vagrantfile",
            b"docker-compose.yml",
            b"docker-compose.yaml",
            b"compose.yml",
            b"compose.yaml",
        ),
        "container",
    ),
    **dict.fromkeys(
        (b"agents.md", b"claude.md", b"gemini.md", b".mcp.json", b".cursorrules", b".windsurfrules"), "agent instructions"
    ),
    **dict.fromkeys((b"desktop.ini", b"autorun.inf", b".ds_store"), "desktop"),
}
_HOOKS = frozenset(
    b"applypatch-msg pre-applypatch post-applypatch pre-commit pre-merge-commit prepare-commit-msg commit-msg post-commit pre-rebase "
    b"post-checkout post-merge pre-push pre-receive update proc-receive post-receive post-update reference-transaction push-to-checkout "
    b"pre-auto-gc post-rewrite sendemail-validate fsmonitor-watchman".split()
)
_FOLDERS: dict[bytes, str] = {
    b".git": "git",
    b".hg": "version control",
    b".svn": "version control",
    b".husky": "git",
    b".circleci": "ci",
    b".buildkite": "ci",
    b".vscode": "editor",
    b".idea": "editor",
    b".devcontainer": "container",
    b".claude": "agent instructions",
    b".codex": "agent instructions",
    b".cursor": "agent instructions",
    b"node_modules": "package scripts",
    b".cargo": "build",
    b".ssh": "ssh",
}
_ENDINGS: dict[bytes, str] = {
    b".pth": "run by python tools",
    b".pyc": "run by python tools",
    b".pyd": "native code",
    b".so": "native code",
    b".dylib": "native code",
    b".dll": "native code",
    b".node": "native code",
    b".exe": "program",
    b".bat": "program",
    b".cmd": "program",
    b".ps1": "program",
    b".scr": "program",
    b".desktop": "desktop",
    b".lnk": "desktop",
    b".url": "desktop",
    b".mk": "build",
    b".pkl": "code when loaded",
    b".pickle": "code when loaded",
    b".joblib": "code when loaded",
    b".pt": "code when loaded",
    b".xlsm": "macros",
    b".docm": "macros",
    b".ipynb": "code when loaded",
}
OPEN_DATABASE = "open database"
PART_OF_DATABASE = "part of a database"
REASONS: dict[str, str] = {
    OPEN_DATABASE: "a program had it open: its newest rows are in the file beside it, so keep the two together",
    PART_OF_DATABASE: "holds the newest rows of the database beside it, or what undoes half a transaction: keep the two together",
    "build": "runs, or says what runs, when the project is built, installed or set up",
    "package scripts": "names programs that a package manager runs at install or by name",
    "run by python tools": "python or its test runner loads it without being told to",
    "shell start-up": "a shell or its helper reads it on entering the folder",
    "editor": "an editor obeys it when the folder is opened",
    "ci": "says what your CI runs, with the rights and secrets that it has there",
    "git": "git, or a tool that git calls, obeys it",
    "git hook": "has the name of a git hook: git runs it where hooks are looked for in this folder",
    "container": "says what is built into or run as a container",
    "agent instructions": "other agents follow it as if you had said it",
    "desktop": "a desktop obeys it",
    "version control": "a version control system obeys it",
    "ssh": "ssh obeys it",
    "native code": "machine code that nobody can read",
    "program": "a program",
    "code when loaded": "loading it can run code",
    "macros": "holds macros",
    "executable": "is now executable",
}
"""Why each flag matters, for people. A flag of the name itself says it all."""

_TURNS = tuple(
    chr(code).encode() for code in (0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069, 0x200E, 0x200F)
)


def flags(path: bytes, mode: int) -> tuple[str, ...]:
    """The flags of a file that is to leave, sorted. `mode` is the one it had in the box."""
    found = set(_name_flags(path))
    if mode & 0o111:
        found.add("executable")
    if mode & (stat.S_ISUID | stat.S_ISGID):
        found.add("set-id bit dropped")
    lower = path.lower()
    *folders, name = lower.split(b"/")
    found.update(_FOLDERS[folder] for folder in folders if folder in _FOLDERS)
    if b".github/workflows" in lower or b".github/actions" in lower or b".gitea/workflows" in lower:
        found.add("ci")
    if name in _NAMES:
        found.add(_NAMES[name])
    if name in _HOOKS:
        found.add("git hook")
    if name.startswith(b"dockerfile."):
        found.add("container")
    found.update(flag for ending, flag in _ENDINGS.items() if name.endswith(ending))
    if b".so." in name:
        found.add("native code")
    return tuple(sorted(found))


def _name_flags(path: bytes) -> list[str]:
    """What is wrong with the name itself."""
    found: list[str] = []
    if any(byte < 0x20 or byte == 0x7F for byte in path):
        found.append("control characters in its name")
    try:
        path.decode()
    except UnicodeDecodeError:
        found.append("name is not UTF-8")
    if any(turn in path for turn in _TURNS):
        found.append("name changes the direction of text")
    if any(part.startswith(b"-") for part in path.split(b"/")):
        found.append("name looks like an option")
    if any(part.startswith((b" ", b"~")) or part.endswith(b" ") for part in path.split(b"/")):
        found.append("name is easily misread")
    return found
