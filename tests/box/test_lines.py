"""The line scanner agrees with tomllib on what there is, and with the text on where it is."""

from __future__ import annotations

import string
import tomllib
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from gearcase.box.lines import PathKey, lines_of

AWKWARD = """# comment = [1
a = 1
"b.c" . d = "x # y"   # c
e = '''
first [not.a.table]
x = 1
'''
f = [
  1, # one ]
  "]", [ 2, 3 ],
  { g = 1, 'h' = "}" },
]
[t]
i = \"\"\"a\\\"\"\" still \"\"\"\"
[t.u."v w"]
j = 1979-05-27T07:32:00Z
[[s]]
k = 1
[s.sub]
l = 2
[[s]]
k = 3
[[s.deep]]
m = 4
[[s.deep]]
m = 5
"""


def paths_in(value: Any, at: PathKey = ()) -> set[PathKey]:
    found: set[PathKey] = {at} if at else set()
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found |= paths_in(item, (*at, key))
    return found


def test_an_awkward_text_is_mapped_whole() -> None:
    lines = lines_of(AWKWARD)
    assert set(lines) == paths_in(tomllib.loads(AWKWARD))
    assert lines[("a",)] == 2
    assert lines[("b.c", "d")] == 3
    assert lines[("e",)] == 4
    assert lines[("f", 1)] == 10
    assert lines[("f", 2, 1)] == 10
    assert lines[("f", 3, "h")] == 11
    assert lines[("t", "i")] == 14
    assert lines[("t", "u", "v w", "j")] == 16
    assert lines[("s", 1, "deep", 1, "m")] == 26


def test_windows_line_ends_count_once() -> None:
    assert lines_of("a = 1\r\n\r\nb = 2\r\n") == {("a",): 1, ("b",): 3}


KEYS = st.text(string.ascii_letters + '._-# "=[]', min_size=1, max_size=6)
SCALARS = st.one_of(
    st.integers(-99, 99).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", ""), max_size=12).map(lambda s: quote(s)),
    st.text(string.ascii_letters + '# ]}",=\n', max_size=12).map(lambda s: f"'''{s}'''"),
    st.text(string.ascii_letters + "# ]},=\n\\'", max_size=12).map(lambda s: '"""' + s.replace("\\", "\\\\") + '"""'),
    st.just("1979-05-27 07:32:00"),
)


def quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def written(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(children, max_size=3).map(lambda items: "[\n" + " # ]\n,".join(items) + "\n]")
    tables = st.dictionaries(KEYS, children.filter(lambda item: "\n" not in item), max_size=3).map(
        lambda items: "{ " + ", ".join(f"{quote(key)} = {value}" for key, value in items.items()) + " }"
    )
    return lists | tables


VALUES = st.recursive(SCALARS, written, max_leaves=6)


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_any_text_is_mapped_whole(top: dict[str, str], tables: list[dict[str, str]]) -> None:
    text = "".join(f"{quote('x' + key)} = {value} # end\n" for key, value in top.items())
    for table in tables:
        text += "[[list]]\n" + "".join(f"\t{quote(key)}={value}\n" for key, value in table.items())
    lines = lines_of(text)
    assert set(lines) == paths_in(tomllib.loads(text))
    rows = text.split("\n")
    for path, line in lines.items():
        if len(path) == 1 and path != ("list",):
            assert rows[line - 1].startswith(quote(str(path[0])))
