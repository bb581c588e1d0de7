"""The pages say what is so: commands that they name exist."""

import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gearcase.box import schema

ROOT = Path(__file__).parents[1]


def test_every_promise_names_a_command_and_files_that_exist():
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \|$", (ROOT / "docs/promises.md").read_text(), re.MULTILINE)
    assert len(rows) >= 15
    for promise, command in rows:
        for word in re.findall(r"(?:scripts|tests)/[\w./-]+", command):
            assert (ROOT / word).exists(), f"{promise}: {word} does not exist"


def test_every_attempt_that_is_shown_elsewhere_is_shown_by_files_that_exist():
    text = (ROOT / "tests/hostile/table.py").read_text()
    shown = re.search(r"PROVEN_ELSEWHERE = \{(.+?)\n\}", text, re.DOTALL)
    assert shown is not None
    named = re.findall(r"tests/[\w/]+\.py", shown[1])
    assert len(named) > 8 and all((ROOT / name).exists() for name in named)


class Links(HTMLParser):
    """What a page of the site links to, what it makes a browser load, and its anchors."""

    def __init__(self, page):
        super().__init__()
        self.led, self.loaded, self.anchors = [], [], set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name in ("src", "srcset", "data", "action", "poster") or (name == "href" and tag == "link"):
                self.loaded.append(value)
            elif name == "href":
                self.led.append(value)
            assert name not in ("style", "background") and not name.startswith("on"), f"{tag} {name}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    built = subprocess.run([sys.executable, ROOT / "docs/site/build.py", out], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return out


def test_every_link_and_anchor_of_the_pages_leads_somewhere(site):
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 25
    for page, links in pages.items():
        assert len(links.led) > 20, "the navigation"
        for link in links.led:
            path, _, anchor = link.partition("#")
            if "://" not in link:
                other = (page.parent / path).resolve() if path else page
                assert other in pages, f"{page.name}: {link}"
                assert not anchor or anchor in pages[other].anchors, f"{page.name}: {link}"


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for source in Links(page).loaded:
            assert source == "data:," or ("://" not in source and (page.parent / source).is_file()), f"{page.name}: {source}"
    for file in (*site.rglob("*.css"), site / "search.js"):
        assert not re.search(r"https?:|url\(|@import|fetch\(|import\(", file.read_text()), file.name


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path):
    copy = tmp_path / "copy"
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("README.md", "SECURITY.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy)
    for link, told in (("limits.md#no-such-heading", "no such heading"), ("../src/nothing.py", "leads to no page")):
        (copy / "docs/ci.md").write_text(f"# In CI\n\n[see]({link})\n")
        built = subprocess.run([sys.executable, copy / "docs/site/build.py", tmp_path / "out"], capture_output=True, text=True)
        assert built.returncode == 1 and told in built.stderr and "docs/ci.md" in built.stderr


def test_each_error_on_its_page_has_the_remedy_of_its_own_place(tmp_path):
    """Names such as `remedy` are given something else in every function."""
    (tmp_path / "module.py").write_text(
        "remedy = 'of the module'\n"
        "def first():\n"
        "    remedy = 'of first'\n"
        "    raise RunError('a', 'first', remedy=remedy)\n"
        "def second():\n"
        "    message, remedy = 'told', 'once'\n"
        "    error = RunError('b', message, remedy=remedy)\n"
        "    remedy = 'twice'\n"
        "    return error, Refused('c', 'second', remedy=remedy)\n"
        "def third():\n"
        "    return UsageError('d', 'third', remedy=remedy)\n"
        "def fourth(remedy, *, told='by default'):\n"
        "    return UsageError('e', 'fourth', remedy=remedy), UsageError('f', 'fourth', remedy=told)\n"
    )
    found = runpy.run_path(str(ROOT / "scripts/docs"))["raised"](tmp_path / "module.py")
    assert [(code, message, remedy) for code, _, message, remedy in found] == [
        ("a", "first", "of first"),
        ("b", "told", "once"),
        ("c", "second", "twice"),
        ("d", "third", "of the module"),
        ("e", "fourth", "…"),
        ("f", "fourth", "by default"),
    ]


def test_the_reference_tells_every_key_of_a_box():
    page = (ROOT / "docs/box.md").read_text()
    for name, table in schema()["$defs"].items():
        for key in table["properties"] if name != "Doors" else ():
            assert f"| `{key}` |" in page, f"{name}: {key}"
    for door in schema()["$defs"]["Doors"]["properties"]:
        assert f"`[doors.{door}" in page, door


def test_the_list_for_models_names_every_page():
    told = set(re.findall(r"\]\(([\w./-]+\.md)\)", (ROOT / "docs/llms.txt").read_text()))
    assert told == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_pages_that_come_from_the_code_are_up_to_date():
    checked = subprocess.run([sys.executable, ROOT / "scripts/docs", "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
