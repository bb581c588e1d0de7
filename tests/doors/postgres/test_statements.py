"""Which statements wait at the gate of a branch."""

import time

import pytest

from gearcase.doors.postgres.gate import ClientReader
from gearcase.doors.postgres.statements import LONG, MOST, destructive
from gearcase.doors.postgres.wire import message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("drop table t", "DROP"),
        ("SELECT 1; truncate t", "TRUNCATE"),
        ("delete from t", "DELETE"),
        ("DELETE FROM t RETURNING 'where'", "DELETE"),
        ("update t set x = 1 -- where", "UPDATE"),
        ("UPDATE t SET x = 1 /* WHERE */", "UPDATE"),
        ("with gone as (delete from t returning *) select * from gone", "DELETE"),
        ("ALTER TABLE t DROP COLUMN x", "ALTER"),
        ("do $$ begin perform 1; end $$", "DO"),
        ("create function f() returns void language plpgsql as $x$ begin delete from t; end $x$", "DELETE"),
        ("x" * (MOST + 1), LONG),
        ("select 1", ""),
        ("delete from t where id = 1", ""),
        ("update t set x = 1 where id = 2", ""),
        ("select * from t for update", ""),
        ("select * from t for no key update", ""),
        ("insert into t values (1) on conflict do update set x = 2", ""),
        ("create table c (p int references t on delete cascade on update cascade)", ""),
        ("create trigger x before update on t execute function f()", ""),
        ("select 'drop table t', \"drop\" from t -- drop", ""),
        (r"select e'it\'s drop' from t", ""),
        ("", ""),
    ],
)
def test_what_may_destroy_is_named_by_its_word(text, word):
    assert destructive(text.encode()) == word


BAD = ["'", "' ", "/*", "/* ", "$a", "$a$", "e'", "e'\\\\", '"', "e'x ", '"x ', "-- ", "update set ", "update x set where "]


@pytest.mark.parametrize("bad", BAD)
def test_no_text_takes_long_to_read(bad):
    began = time.perf_counter()
    destructive((bad * (MOST // len(bad))).encode())
    assert time.perf_counter() - began < 1


def test_what_comes_before_a_destructive_statement_passes_and_the_rest_waits_however_it_is_cut():
    first, second, third = message(b"Q", b"select 1\0"), message(b"P", b"name\0drop table t\0\0\0"), message(b"S", b"")
    whole = first + second + third
    for size in (1, 3, 7, len(whole)):
        reader, passed, word = ClientReader(), b"", ""
        for at in range(0, len(whole), size):
            data, said = reader.feed(whole[at : at + size]) if not word else (b"", word)
            passed, word = passed + data, said
            if word:
                rest = reader.take() + whole[at + size :]
                break
        assert (passed, word, rest) == (first, "DROP", second + third)
