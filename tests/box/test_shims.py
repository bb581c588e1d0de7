"""Programs that a version manager stands in front of: the shims are written as the managers write theirs."""

import pytest

from gearcase.box import box_from_options
from gearcase.box.loading import Override
from gearcase.box.paths import PathMistake
from gearcase.box.tools import find_tools
from gearcase.errors import UsageError

PYENV = """#!/usr/bin/env bash
set -e
[ -n "$PYENV_DEBUG" ] && set -x

program="${0##*/}"

export PYENV_ROOT="%s/.pyenv"
exec "%s/.pyenv/libexec/pyenv" exec "$program" "$@"
"""
ASDF = """#!/usr/bin/env bash
# asdf-plugin: nodejs 22.5.1
exec %s/.asdf/bin/asdf exec "%s" "$@" # asdf_allow: ' asdf '
"""
NEW_ASDF = '#!/usr/bin/env bash\n# asdf-plugin: nodejs 22.5.1\nexec asdf exec "claude" "$@"'
PNPM = """#!/bin/sh
basedir=$(dirname "$(echo "$0" | sed -e 's,\\\\,/,g')")

case `uname` in
    *CYGWIN*) basedir=`cygpath -w "$basedir"`;;
esac

if [ -z "$NODE_PATH" ]; then
  export NODE_PATH="/somewhere"
else
  export NODE_PATH="/somewhere:$NODE_PATH"
fi
if [ -x "$basedir/node" ]; then
  exec "$basedir/node"  "$basedir/global/5/node_modules/@openai/codex/bin/codex.js" "$@"
else
  exec node  "$basedir/global/5/node_modules/@openai/codex/bin/codex.js" "$@"
fi
"""
NODE = "#!/usr/bin/env node\n"


class Home:
    """A home in which managers keep programs; the first of these folders is looked at first."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}

    def on_path(self, *folders):
        self.environment["PATH"] = ":".join([*(f"{self.folder}/{one}" for one in folders), self.environment["PATH"]])

    def program(self, path, text="\x7fELF"):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return file

    def link(self, path, target):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)
        return file

    def manager(self, path, **programs):
        """One that answers `which` as they do."""
        cases = "".join(f"{name}) echo {self.folder / place};;\n" for name, place in programs.items())
        return self.program(
            path, f'#!/bin/sh\n[ "$1" = which ] || exit 64\ncase "$2" in\n{cases}*) echo "no $2 here" >&2; exit 1;;\nesac\n'
        )

    def sources(self, *names):
        """What is shown of which tool."""
        return {tool.name: [str(mount.source.relative_to(self.folder)) for mount in tool.mounts] for tool in self.find(*names)}

    def find(self, *names):
        return find_tools(names, self.environment)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def node_installation(home, place):
    """A node with Claude Code beside it, as npm installs it globally."""
    home.program(f"{place}/bin/node")
    home.program(f"{place}/lib/node_modules/claude/cli.js", NODE)
    home.link(f"{place}/bin/claude", "../lib/node_modules/claude/cli.js")


@pytest.mark.parametrize("text", [ASDF, NEW_ASDF], ids=["a script that names its asdf", "a script that looks for asdf"])
def test_of_asdf_the_program_is_shown_with_the_node_beside_it(home, text):
    node_installation(home, ".asdf/installs/nodejs/22.5.1")
    at = ".asdf/installs/nodejs/22.5.1/bin"
    home.manager(".asdf/bin/asdf", claude=f"{at}/claude", node=f"{at}/node")
    home.program(".asdf/shims/claude", text % (home.folder, "claude") if "%s" in text else text)
    home.program(".asdf/shims/node", ASDF % (home.folder, "node"))
    home.on_path(".asdf/shims", ".asdf/bin")
    assert home.sources("claude") == {
        "node": [".asdf/installs/nodejs/22.5.1/bin/node"],
        "claude": [".asdf/installs/nodejs/22.5.1/lib/node_modules/claude"],
    }


def test_of_nvm_whose_folder_is_on_path_nothing_stands_between(home):
    node_installation(home, ".nvm/versions/node/v22.5.1")
    home.on_path(".nvm/versions/node/v22.5.1/bin")
    assert home.sources("claude")["claude"] == [".nvm/versions/node/v22.5.1/lib/node_modules/claude"]


def test_of_mise_a_native_program_and_a_program_of_a_node_of_its_own(home):
    home.program(".local/share/mise/installs/claude/2.1/claude")
    home.program(".local/share/mise/installs/node/22/bin/node")
    home.program(".local/share/mise/installs/npm-codex/1/lib/node_modules/codex/codex.js", NODE)
    home.link(".local/share/mise/installs/npm-codex/1/bin/codex", "../lib/node_modules/codex/codex.js")
    place = ".local/share/mise/installs"
    mise = home.manager(
        ".local/bin/mise",
        claude=f"{place}/claude/2.1/claude",
        node=f"{place}/node/22/bin/node",
        codex=f"{place}/npm-codex/1/bin/codex",
    )
    for name in ("claude", "node", "codex"):
        home.link(f".local/share/mise/shims/{name}", mise)
    home.on_path(".local/share/mise/shims")
    assert home.sources("claude", "codex") == {
        "claude": [f"{place}/claude/2.1/claude"],
        "node": [f"{place}/node/22/bin/node"],
        "codex": [f"{place}/npm-codex/1/lib/node_modules/codex"],
    }


def test_of_volta_the_manager_beside_its_shim_is_asked(home):
    home.manager(
        ".volta/bin/volta", codex=".volta/tools/image/packages/codex/bin/codex", node=".volta/tools/image/node/22/bin/node"
    )
    shim = home.program(".volta/bin/volta-shim")
    home.program(".volta/tools/image/node/22/bin/node")
    home.program(".volta/tools/image/packages/codex/lib/node_modules/codex/codex.js", NODE)
    home.link(".volta/tools/image/packages/codex/bin/codex", "../lib/node_modules/codex/codex.js")
    for name in ("codex", "node"):
        home.link(f".volta/bin/{name}", shim)
    home.on_path(".volta/bin")
    assert home.sources("codex") == {
        "node": [".volta/tools/image/node/22/bin/node"],
        "codex": [".volta/tools/image/packages/codex/lib/node_modules/codex"],
    }


def test_of_pyenv_the_program_is_shown_with_its_environment(home):
    venv = home.folder / ".pyenv/versions/tools"
    home.program(".pyenv/versions/tools/bin/aider", f"#!{venv}/bin/python\n")
    home.link(".pyenv/versions/tools/bin/python", "/usr/bin/python3")
    home.program(".pyenv/versions/tools/pyvenv.cfg", "home = /usr/bin\n")
    home.manager(".pyenv/libexec/pyenv", aider=".pyenv/versions/tools/bin/aider")
    home.program(".pyenv/shims/aider", PYENV % (home.folder, home.folder))
    home.on_path(".pyenv/shims")
    assert home.sources("aider") == {"aider": [".pyenv/versions/tools"]}


def test_of_pnpm_the_program_that_its_script_names_is_shown(home):
    home.program(".local/share/pnpm/codex", PNPM)
    home.program(".local/share/pnpm/node")
    home.program(".local/share/pnpm/global/5/node_modules/@openai/codex/bin/codex.js", NODE)
    home.on_path(".local/share/pnpm")
    assert home.sources("codex")["codex"] == [".local/share/pnpm/global/5/node_modules/@openai/codex"]


def test_a_manager_that_does_not_know_is_a_mistake_that_says_what_to_do(home, monkeypatch):
    home.manager(".asdf/bin/asdf")
    home.program(".asdf/shims/claude", ASDF % (home.folder, "claude"))
    home.on_path(".asdf/shims")
    with pytest.raises(PathMistake, match=r"a shim of asdf, .*\(no claude here\).*make `asdf which claude` work"):
        home.find("claude")
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as refused:
        box_from_options([Override(("sandbox", "tools"), "claude", "--tool")])
    assert "`asdf which claude`" in str(refused.value.envelope())


def test_a_manager_that_is_gone_or_names_itself_is_a_mistake(home):
    home.program(".pyenv/shims/aider", PYENV % (home.folder, home.folder))
    home.on_path(".pyenv/shims")
    with pytest.raises(PathMistake, match="libexec/pyenv is not on PATH"):
        home.find("aider")
    home.manager(".pyenv/libexec/pyenv", aider=".pyenv/shims/aider")
    with pytest.raises(PathMistake, match="one shim after another"):
        home.find("aider")


def test_a_link_to_nothing_that_pnpm_left_is_a_mistake(home):
    home.program("bin/codex", PNPM)
    home.on_path("bin")
    with pytest.raises(PathMistake, match="which does not exist: install it anew"):
        home.find("codex")
