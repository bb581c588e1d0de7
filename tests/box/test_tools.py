"""Programs of the operator's are found where people install them, and no more than they need is shown."""

import pytest

from gearcase.box import box_from_options
from gearcase.box.crossing import crossings
from gearcase.box.declaration import Box
from gearcase.box.loading import Override
from gearcase.box.paths import PathMistake
from gearcase.box.tools import find_tools
from gearcase.errors import UsageError


class Home:
    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / ".local/bin"
        self.bin.mkdir(parents=True)
        self.environment = {"HOME": str(folder), "PATH": f"{self.bin}:/usr/bin:/bin"}

    def program(self, path, text="\x7fELF", link=""):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        if link:
            (self.bin / link).symlink_to(file)
        return file

    def find(self, *names):
        return find_tools(names, self.environment)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def shown(tool):
    return {mount.target: mount.source for mount in tool.mounts}


def test_of_a_native_program_only_its_file_is_shown(home):
    file = home.program(".local/share/claude/versions/2.1.0", link="claude")
    (tool,) = home.find("claude")
    assert shown(tool) == {"/opt/tools/claude/bin/claude": file}
    assert tool.starter == b'#!/bin/sh\nexec /opt/tools/claude/bin/claude "$@"\n'


def test_of_a_global_node_package_its_own_folder_is_shown_and_the_node_that_it_needs(home):
    node = home.program(".nvm/versions/node/v22/bin/node", link="node")
    home.program("npm/lib/node_modules/@openai/codex/bin/codex.js", "#!/usr/bin/env node\n", link="codex")
    engine, tool = home.find("codex")
    assert shown(engine) == {"/opt/tools/node/bin/node": node}
    assert shown(tool) == {"/opt/tools/codex/codex": home.folder / "npm/lib/node_modules/@openai/codex"}
    assert tool.words == ("/opt/tools/node/bin/node", "/opt/tools/codex/codex/bin/codex.js")


def test_a_node_package_of_a_project_is_shown_with_the_packages_that_it_shares(home):
    home.program(".nvm/bin/node", link="node")
    home.program("app/node_modules/gemini/index.js", "#!/usr/bin/env node\n", link="gemini")
    (home.folder / "app/node_modules/.package-lock.json").write_text("{}")
    _, tool = home.find("gemini")
    assert shown(tool) == {"/opt/tools/gemini/node_modules": home.folder / "app/node_modules"}


def test_a_python_program_is_shown_with_its_environment_and_the_python_beneath_it(home):
    python = home.program(".local/share/uv/python/cpython-3.12/bin/python3.12")
    venv = home.folder / ".local/share/uv/tools/aider"
    home.program(".local/share/uv/tools/aider/bin/aider", f"#!{venv}/bin/python\n", link="aider")
    (venv / "bin/python").symlink_to(python)
    (venv / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
    (tool,) = home.find("aider")
    assert shown(tool) == {"/opt/tools/aider/venv": venv, "/opt/tools/aider/python": python.parent.parent}
    assert tool.environment.python == "/opt/tools/aider/python/bin/python3.12"
    assert tool.words == ("/box/tools/aider/bin/python", "/opt/tools/aider/venv/bin/aider")


def test_a_program_of_pip_install_user_is_shown_with_its_packages(home):
    packages = home.folder / ".local/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    home.program(".local/bin/mini", "#!/usr/bin/python3\n")
    (tool,) = home.find("mini")
    assert shown(tool)["/opt/tools/mini/packages"] == packages
    assert tool.variables == (("PYTHONPATH", "/opt/tools/mini/packages"),)


def test_what_a_box_has_anyway_is_not_shown_twice(home):
    (tool,) = home.find("env")
    assert not tool.mounts and not tool.starter


def test_a_home_is_never_shown_whole(home):
    home.program("bin/aider", f"#!{home.folder}/bin/python\n", link="aider")
    (home.folder / "bin/python").symlink_to("/usr/bin/python3")
    (home.folder / "pyvenv.cfg").touch()
    with pytest.raises(PathMistake, match="never shown"):
        home.find("aider")


def test_a_node_package_without_node_says_what_to_install(home):
    home.program("npm/lib/node_modules/gemini/index.js", "#!/usr/bin/env node\n", link="gemini")
    home.environment["PATH"] = str(home.bin)
    with pytest.raises(PathMistake, match="'gemini' needs node, which is not on PATH: install it"):
        home.find("gemini")


def test_a_tool_that_is_not_there_is_a_mistake_of_the_box_with_the_nearest_name(home):
    home.program(".local/bin/claude")
    with pytest.raises(UsageError) as refused:
        box_from_options([Override(("sandbox", "tools"), "cluade", "--tool")], environment=home.environment)
    assert "'cluade' is not on PATH: install it" in refused.value.cause and "did you mean `claude`" in refused.value.cause


def test_what_crosses_over_is_told_and_the_home_does_not(home, tmp_path, monkeypatch):
    home.program(".local/share/claude/versions/2.1.0", link="claude")
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "CLAUDE.md").touch()
    (home.folder / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n[credential]\nhelper = store\n")
    monkeypatch.setenv("HOME", str(home.folder))
    box = Box.model_validate({"files": {"give": [project]}, "sandbox": {"tools": ["claude"]}})
    told = {one.what: one.inside for one in crossings(box, home.environment)}
    assert told[str(project)] == "/workspace/project, a copy, with its CLAUDE.md"
    assert told["tool claude"].endswith("at /opt/tools/claude/bin/claude, read-only; started by /box/bin/claude")
    assert told["git identity"] == "user.name = Ada, user.email = ada@example.org"
    assert told["home folder"].startswith("nothing else")
