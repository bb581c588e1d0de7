"""Build the pages of docs/, README.md and SECURITY.md, and the READMEs of examples/ as a folder of plain HTML. `scripts/site` calls it.

Invariants: nothing on a page is loaded from anywhere but the folder, so that it works from a disk without a network; every page has a
place in the navigation; a link that leads nowhere, or to an anchor that is not there, ends the build.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAVIGATION = {
    "Use it": (
        "README first-five-minutes my-agent my-repository limits brake monitors notify journal snapshots maps engines agents local-model "
        "manual-model python-api ci examples"
    ).split(),
    "Doors": "doors-files doors-http doors-api doors-secrets doors-postgres doors-redis doors-aws".split(),
    "Look it up": "box errors events endings platforms containers CHANGELOG".split(),
    "Trust it": "promises threat-model SECURITY benchmarks crash-door crash-run".split(),
    "Inside": "architecture decisions dependencies".split(),
}
"""Pages by the name of their file; `examples` and `decisions` are lists of pages."""

_CONTENTS = range(3, 16)
"""A page with so many chapters shows them as a list; a longer one (errors, events) is searched."""


@dataclass
class Page:
    """One page: where it comes from, where it goes to, what is on it."""

    source: Path
    target: str
    title: str = ""
    body: str = ""
    anchors: set[str] = field(default_factory=set[str])
    chapters: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    sections: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])


class Broken(Exception):
    """The pages do not hang together; says where."""


def slug(text: str, seen: Counter[str]) -> str:
    """The anchor of a heading, as GitHub makes it."""
    base = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
    seen[base] += 1
    return base if seen[base] == 1 else f"{base}-{seen[base] - 1}"


def plain(token: Token) -> str:
    """The words of a heading or paragraph."""
    return "".join(child.content if child.type in ("text", "code_inline") else " " for child in token.children or ())


def sources() -> list[Page]:
    """Every page there is."""
    found = [Page(ROOT / "README.md", "index.html")]
    found += [Page(ROOT / name, f"{Path(name).stem.lower()}.html") for name in ("SECURITY.md", "CHANGELOG.md")]
    found += [Page(file, f"{file.stem}.html") for file in sorted((ROOT / "docs").glob("*.md"))]
    found += [Page(file, f"decisions/{file.stem}.html") for file in sorted((ROOT / "docs/decisions").glob("*.md"))]
    examples = sorted((ROOT / "examples").rglob("README.md"))
    return found + [Page(file, f"examples/{file.parent.name}.html") for file in examples]


def read(page: Page, markdown: MarkdownIt) -> None:
    """Parse a page: its body with anchors, its links still as they are written, and its sections for the search."""
    tokens = markdown.parse(page.source.read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    heading = anchor = ""
    words: list[str] = []
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            page.sections.append((anchor, heading, " ".join(words)))
            heading, words = plain(tokens[at + 1]).strip(), []
            anchor = slug(heading, seen)
            page.anchors.add(anchor)
            token.attrSet("id", anchor)
            page.title = page.title or heading
            if token.tag == "h2":
                page.chapters.append((anchor, heading))
        elif token.type == "inline":
            words.append(plain(token))
        elif token.type in ("code_block", "fence"):
            words.append(token.content)
    page.sections.append((anchor, heading, " ".join(words)))
    page.body = markdown.renderer.render(tokens, markdown.options, {})


def code(text: str, language: str) -> str:
    """A block of code. One without a language is what is typed into a shell: its remarks are set back."""
    if language:
        shown = str(highlight(text, get_lexer_by_name(language), HtmlFormatter(nowrap=True)))
    else:
        shown = re.sub(r"((?:^|\s{2,})#.*)$", r'<span class="c1">\1</span>', html.escape(text, quote=False), flags=re.MULTILINE)
    return f'<pre tabindex="0"><code>{shown}</code></pre>\n'


def parser() -> MarkdownIt:
    """Markdown as GitHub reads these pages: tables, no raw HTML."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("fence", lambda _, tokens, at, *__: code(tokens[at].content, tokens[at].info.strip()))
    markdown.add_render_rule("code_block", lambda _, tokens, at, *__: code(tokens[at].content, ""))
    markdown.add_render_rule("table_open", lambda *_: '<div class="wide" tabindex="0"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return markdown


def resolved(page: Page, pages: dict[Path, Page]) -> str:
    """The body with its links to other sources led to their pages."""

    def lead(match: re.Match[str]) -> str:
        written = html.unescape(match[1])
        path, _, anchor = unquote(written).partition("#")
        if "://" in path or path.startswith("mailto:"):
            return f'href="{match[1]}" rel="noreferrer"'
        other = page if not path else pages.get((page.source.parent / path).resolve())
        if other is None:
            raise Broken(f"{page.source.relative_to(ROOT)}: the link {written!r} leads to no page")
        if anchor and anchor not in other.anchors:
            raise Broken(f"{page.source.relative_to(ROOT)}: {written!r}: no such heading")
        return f'href="{relative(page, other.target)}{f"#{anchor}" if anchor else ""}"'

    return re.sub(r'href="([^"]*)"', lead, page.body)


def relative(page: Page, target: str) -> str:
    """The way from a page to a file of the site."""
    return os.path.relpath(target, Path(page.target).parent)


def list_of(title: str, folder: str, target: str, pages: list[Page]) -> Page:
    """A page that lists others: what a link to their folder leads to."""
    made = Page(ROOT / folder, target, title, anchors={"top"})
    items = "".join(f'<li><a href="{relative(made, one.target)}">{html.escape(one.title)}</a></li>\n' for one in pages)
    made.body = f'<h1 id="top">{html.escape(title)}</h1>\n<ul>\n{items}</ul>\n'
    made.sections = [("top", title, " ".join(one.title for one in pages))]
    return made


def navigation(page: Page, places: dict[str, Page]) -> Iterator[str]:
    """The list of all pages, this one marked."""
    for title, names in NAVIGATION.items():
        yield f"<h2>{title}</h2><ul>"
        for name in names:
            one = places[name]
            here = ' aria-current="page"' if one is page else ""
            label = "Gearcase" if name == "README" else one.title
            yield f'<li><a href="{relative(page, one.target)}"{here}>{html.escape(label)}</a></li>'
        yield "</ul>"


def contents(page: Page) -> str:
    """The chapters of a page, where they are worth a list."""
    if len(page.chapters) not in _CONTENTS:
        return ""
    items = "".join(f'<li><a href="#{anchor}">{html.escape(text)}</a></li>' for anchor, text in page.chapters)
    return f'<nav class="contents" aria-label="On this page"><ul>{items}</ul></nav>'


def build(out: Path) -> int:
    """Write the site; how many pages it has. Raises Broken."""
    markdown, pages = parser(), sources()
    for page in pages:
        read(page, markdown)
    decisions = [page for page in pages if page.target.startswith("decisions/")]
    examples = [page for page in pages if page.target.startswith("examples/")]
    lists = [
        list_of("Decisions", "docs/decisions", "decisions/index.html", decisions),
        list_of("Examples", "examples", "examples/index.html", examples),
    ]
    by_source = {page.source.resolve(): page for page in [*pages, *lists]} | {ROOT / "examples/agents": lists[1]}
    places = {page.source.stem: page for page in [*pages, *lists] if page not in (*examples, *decisions)}
    listed = {name for names in NAVIGATION.values() for name in names}
    if missing := places.keys() ^ listed:
        raise Broken(f"the navigation of docs/site/build.py and the pages differ: {', '.join(sorted(missing))}")
    shutil.rmtree(out, ignore_errors=True)
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    for page in [*pages, *lists]:
        file = out / page.target
        file.parent.mkdir(parents=True, exist_ok=True)
        filled = template.substitute(
            title=html.escape(page.title if page.title == "Gearcase" else f"{page.title} · Gearcase"),
            root="../" * page.target.count("/"),
            home=relative(page, "index.html"),
            navigation="\n".join(navigation(page, places)),
            body=(page.body if page in lists else resolved(page, by_source)).replace("</h1>", f"</h1>{contents(page)}", 1),
        )
        file.write_text(filled, encoding="utf-8")
    index = [
        [page.target + (f"#{anchor}" if anchor else ""), page.title, heading, re.sub(r"\s+", " ", text)]
        for page in [*pages, *lists]
        for anchor, heading, text in page.sections
        if heading
    ]
    (out / "index.js").write_text(f"const INDEX = {json.dumps(index, ensure_ascii=False)};\n", encoding="utf-8")
    for name in ("style.css", "search.js"):
        shutil.copyfile(HERE / name, out / name)
    shutil.copyfile(ROOT / "docs/llms.txt", out / "llms.txt")
    return len(pages) + len(lists)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()
    try:
        print(f"{build(target)} pages in {target}: open {target / 'index.html'}")
    except Broken as broken:
        sys.exit(str(broken))
