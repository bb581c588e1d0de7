"""The pages say what is so: commands that they name exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_promise_names_a_command_and_files_that_exist():
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \|$", (ROOT / "docs/promises.md").read_text(), re.MULTILINE)
    assert len(rows) >= 15
    for promise, command in rows:
        for word in re.findall(r"(?:scripts|tests)/[\w./-]+", command):
            assert (ROOT / word).exists(), f"{promise}: {word} does not exist"


def test_every_link_of_the_pages_leads_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_pages_that_come_from_the_code_are_up_to_date():
    checked = subprocess.run([sys.executable, ROOT / "scripts/docs", "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
