"""What a server says of itself is read within bounds, whoever says it."""

from gearcase.doors.redis.counts import read_counts, since

INFO = """# Stats
keyspace_hits:7
keyspace_misses:2
rdb_changes_since_last_save:5
used_memory:1000
valkey_version:9.1.2
cmdstat_get:calls=9,usec=4000,usec_per_call=1.00,rejected_calls=0,failed_calls=0
cmdstat_auth:calls=3,usec=9,usec_per_call=3.00,rejected_calls=0,failed_calls=0
cmdstat_client|setinfo:calls=2,usec=2,usec_per_call=1.00,rejected_calls=0,failed_calls=1
cmdstat_eval:calls=0,usec=0,usec_per_call=0.00,rejected_calls=4,failed_calls=0
"""


def test_commands_are_counted_without_what_the_keeper_said_and_with_what_was_refused():
    counts = read_counts(INFO.replace("\n", "\r\n"), {"auth": 3})
    assert counts.kinds == {
        "GET": {"count": 9, "errors": 0, "milliseconds": 4},
        "CLIENT|SETINFO": {"count": 2, "errors": 1, "milliseconds": 0},
        "EVAL": {"count": 4, "errors": 4, "milliseconds": 0},
    }
    assert (counts.read, counts.written, counts.memory, counts.version) == (9, 5, 1000, 9)


def test_what_came_since_is_never_less_than_nothing():
    before = {"GET": {"count": 5, "errors": 2, "milliseconds": 9}, "SET": {"count": 3, "errors": 0, "milliseconds": 0}}
    now = {"GET": {"count": 6, "errors": 1, "milliseconds": 8}, "SET": {"count": 1, "errors": 0, "milliseconds": 0}}
    assert since(before, now) == {"GET": {"count": 1, "errors": 0, "milliseconds": 0}}


def test_a_server_that_was_taken_over_says_no_more_than_fits():
    told = "".join(f"cmdstat_k{n}:calls=1,usec=1,rejected_calls=0,failed_calls=0\r\n" for n in range(5000))
    told += "cmdstat_huge:calls=" + "9" * 6000 + ",usec=1,rejected_calls=0,failed_calls=0\r\nused_memory:" + "9" * 6000
    counts = read_counts(told, {})
    assert len(counts.kinds) == 500
    assert "HUGE" not in counts.kinds
    assert counts.memory < 10**18
    assert read_counts("\0" * 1000, {}).kinds == {}
