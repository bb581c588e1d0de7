"""The detectors that act by default: each sees its adversary, and leaves the honest twin alone."""

import pytest

from gearcase import events as e
from gearcase.claims import claimed
from gearcase.monitors import error_storm, exfiltration, thrash

SHADOW = {"thrash": "shadow"}


# --- never_started -------------------------------------------------------------------------------------------------------------


def ticks(stream, count, cpu=0.0):
    for number in range(count):
        stream.tick(cpu=cpu * number)
    return stream


def test_a_run_without_any_answer_of_a_model_is_ended_after_two_minutes(stream):
    assert ticks(stream(), 23).actions("never_started") == [], "115 s"
    (raised,) = ticks(stream().call(status=401, why="bad key"), 24).raised("never_started")
    assert raised.action == "end" and "401 bad key" in raised.alarm.fact


def test_an_upstream_that_says_later_is_waited_for_and_so_is_a_person(stream):
    assert ticks(stream().call(status=429), 60).actions("never_started") == []
    asked = stream().add(e.Held(9, "lead", {"usd": 0}), "lead")  # billed by nobody: a person answers
    assert ticks(asked, 400).actions("never_started") == []
    hangs = stream().add(e.Held(9, "lead", {"usd": 5}, billed_by="p/m"), "lead")
    assert ticks(hangs, 119).actions("never_started") == []
    assert ticks(hangs, 60).actions("never_started") == ["end"]


def test_a_run_that_stands_still_is_latched_and_one_that_computes_or_waits_is_not(stream):
    assert ticks(stream().call(), 121).actions("never_started") == ["latch"]
    assert ticks(stream().call(), 300, cpu=1.0).actions("never_started") == []
    waits = stream().call().add(e.CommandStarted(1, "sleep 3600"), "lead")
    assert ticks(waits, 400).actions("never_started") == []


def test_a_program_that_never_calls_a_model_is_no_agent_that_never_started(stream):
    assert ticks(stream(kind="program", loop=False), 400).actions("never_started") == []


def test_an_agent_that_ended_without_an_answer_is_told_of_at_its_end(stream):
    gave_up = stream().call(status=503).add(e.AgentEnded("failed"), "lead", 94.0)
    assert gave_up.actions("never_started") == ["end"], "503 says later, and it did not wait so long"
    assert gave_up.add(e.RunEnded("failed", {})).actions("never_started") == ["end"], "once"
    assert stream().call().add(e.AgentEnded("done"), "lead").actions("never_started") == []
    assert stream().call().add(e.AgentEnded("failed"), "a1").actions("never_started") == [], "a sub-agent"


# --- burn_rate -----------------------------------------------------------------------------------------------------------------


def spending(stream, usd, calls, every, wall=36_000.0):
    made = stream(usd=10.0, wall=wall)
    for _ in range(calls):
        made.call(usd, after=every)
    return made


def test_spending_far_above_its_pace_is_told_and_at_fourteen_times_latched(stream):
    # The pace is 10 $ in 10 h: 0.0833 $ in 5 minutes.
    assert spending(stream, 0.02, 40, 10.0).actions("burn_rate") == ["note", "latch"], "7.2 times, and again after ten steps"
    assert spending(stream, 0.02, 29, 10.0).actions("burn_rate")[:1] == ["note"]
    assert "latch" in spending(stream, 0.05, 40, 10.0).actions("burn_rate"), "18 times"


def test_an_even_pace_a_burst_and_an_hour_of_it_are_no_alarm(stream):
    assert spending(stream, 0.002, 400, 10.0).actions("burn_rate") == []
    burst = spending(stream, 0.02, 5, 2.0)
    for _ in range(100):
        burst.call(0.001, after=30.0)
    assert burst.actions("burn_rate") == []


def test_a_minute_that_takes_a_tenth_of_the_budget_is_told_at_once_and_once(stream):
    # The pace is 3 $ in 45 min: 6 times it are 0.40 $ in a minute, and 2 $ in five.
    def run(first, later, before=0):
        made = stream(usd=3.0, wall=2700.0)
        for _ in range(before):
            made.call(0.001, after=20.0)
        for amount in (*first, *[later] * 14):
            made.call(amount, after=6.0)
        return [one for one in made.raised("burn_rate") if one.action != "shadow"]

    for before in (0, 60):
        (told,) = run([], 0.1, before)
        assert told.action == "note" and 0.4e9 <= told.alarm.evidence["in_1_min"] < 0.55e9, (
            "at a sixth of it, sooner or later in the run"
        )
    assert run([0.014, 0.14], 0.02) == [], "it read everything first, and then its cache"
    assert run([1.0], 0.0) == [], "one answer is no rate"


def test_with_much_time_the_first_cents_are_no_burst(stream):
    made = stream(usd=1.0, wall=36_000.0)
    for _ in range(3):
        made.call(0.015, after=10.0)
    assert made.actions("burn_rate") == [], "4.5 % in half a minute"


def test_marks_of_the_budget_are_on_record_once_each(stream):
    made = stream(usd=1.0, wall=600.0)
    for _ in range(10):
        made.call(0.1, after=60.0)
    raised = made.raised("burn_rate")
    assert [(one.action, one.alarm.key) for one in raised] == [("shadow", "0.5"), ("shadow", "0.8"), ("shadow", "0.95")]


# --- no_contact ----------------------------------------------------------------------------------------------------------------


def database(stream, **more):
    opened = e.DatabaseOpened("postgres.shop", "branch", 17, tables=3, rows=1000, must_touch=["public.orders"])
    return stream(usd=1.0, **more).add(opened)


def test_without_contact_the_agent_is_told_at_thirty_and_held_at_fifty_percent(stream):
    made = database(stream)
    for _ in range(6):
        made.call(0.1, after=60.0)
    assert made.actions("no_contact") == ["note", "latch"]


def test_contact_at_any_time_before_is_enough(stream):
    made = database(stream).call(0.1)
    made.add(e.Contact("postgres.shop", {"public.orders": {"read": 3, "written": 0}}, []))
    for _ in range(9):
        made.call(0.1, after=60.0)
    assert made.add(e.GearUsed("done", True), "lead").actions("no_contact") == []


def test_handing_in_without_contact_is_refused(stream):
    made = database(stream).call(0.1).add(e.GearUsed("done", True), "lead")
    assert made.actions("no_contact") == ["refuse"]
    other = e.Contact("postgres.shop", {"public.orders": {"read": 0, "written": 0}}, ["public.orders"])
    assert database(stream).add(other).add(e.GearUsed("done", True), "lead").actions("no_contact") == ["refuse"]
    assert database(stream).add(e.GearUsed("done", False), "lead").actions("no_contact") == [], "it was refused already"


def test_a_statement_whose_contact_is_not_counted_yet_is_waited_for_and_a_poll_is_not(stream):
    select = e.StatementRan("postgres.shop", 1, "SELECT", 1, 1, 1, 0.1)
    made = database(stream).call(0.2, after=60.0).add(select).call(0.4, after=2.0)
    assert made.actions("no_contact") == [], "60 % are used, and it asked two seconds ago"
    counted = e.Contact("postgres.shop", {"public.orders": {"read": 3, "written": 0}}, [])
    assert made.add(counted, after=3.0).call(after=60.0).actions("no_contact") == []
    polls = database(stream).call(0.2, after=60.0).add(select).call(0.4, after=2.0)
    for _ in range(70):
        polls.add(select, after=1.0)
    assert polls.tick().actions("no_contact") == ["latch"]


def kept(number, lacking=0):
    return e.StepKept(f"k{number}", number, False, 1, 1, 1, 0, 0, 1, lacking, 0.1)


def named(made, detector):
    return [one.alarm.evidence.get("snapshot") for one in made.raised(detector)]


def test_the_snapshot_of_no_contact_stood_when_the_real_thing_was_touched_last(stream):
    made = stream(usd=1.0).add(e.DatabaseOpened("postgres.shop", "branch", 17, must_touch=["public.orders", "public.refunds"]))
    made.add(kept(1), "lead")
    for _ in range(6):
        made.call(0.1, after=60.0)
    assert named(made, "no_contact") == ["s0", "s0"], "whatever it made, it made without"
    made = stream(usd=1.0).add(e.DatabaseOpened("postgres.shop", "branch", 17, must_touch=["public.orders", "public.refunds"]))
    made.add(kept(1), "lead").add(e.SnapshotTaken("s1", 1, 1), "lead")
    made.add(e.Contact("postgres.shop", {"public.orders": {"read": 3, "written": 0}}, ["public.refunds"])).add(kept(2), "lead")
    for _ in range(6):
        made.call(0.1, after=60.0)
    assert named(made, "no_contact") == ["s1", "s1"]


def test_an_agent_that_the_operator_took_back_has_a_fifth_of_the_budget_to_do_better(stream):
    made = database(stream)
    for _ in range(4):
        made.call(0.1, after=60.0)
    made.add(e.Rewound("s0", "operator", "s1"), "lead")
    made.call(0.1, after=60.0).call(0.05, after=60.0)
    assert made.actions("no_contact") == ["note"], "55 %"
    assert made.call(0.1, after=60.0).actions("no_contact") == ["note", "latch"]


# --- local_green_host_red --------------------------------------------------------------------------------------------------------


def test_tests_that_pass_inside_while_the_check_fails_are_told_at_the_second_time_and_held_at_the_fourth(stream):
    made = stream()
    for _ in range(4):
        for _ in range(6):
            made.call()
        made.tests(40).check("failed", 0.1)
    assert made.actions("local_green_host_red") == ["note", "latch"]


@pytest.mark.parametrize(
    "rounds",
    [
        [((40, 0), "failed", 0.1)],  # once
        [((40, 0), "failed", 0.1), ((40, 0), "passed", 1.0), ((40, 0), "failed", 0.1)],  # not running
        [((5, 5), "failed", 0.4)] * 4,  # its own tests fail, too
        [((40, 0), "skipped", None)] * 4,  # nothing was checked
    ],
)
def test_what_is_no_gap_between_tests_and_check_is_left_alone(stream, rounds):
    made = stream()
    for (passed, failed), verdict, score in rounds:
        made.call().tests(passed, failed).check(verdict, score)
    assert made.actions("local_green_host_red") == []


def test_a_check_that_gets_better_each_time_is_work_that_is_not_done_yet(stream):
    def scores(*told):
        made = stream()
        for score in told:
            for _ in range(6):
                made.call()
            made.tests(40).check("failed", score)
        return made.actions("local_green_host_red")

    assert scores(0.1, 0.2, 0.3, 0.35, 0.4, 0.45) == []
    assert scores(0.1, 0.2, 0.2, 0.2, 0.2, 0.2) == ["note", "latch"], "it stands still from the second on"


def test_a_program_of_the_agents_own_that_calls_its_work_right_is_compared_with_the_check(stream):
    made = stream()
    for number in range(4):
        for _ in range(6):
            made.call()
        claim = claimed(1, f"verify: {150 + number}/{150 + number} checks passed (100 %), round {number}\n")
        made.add(claim, "lead").check("failed", 0.3)
    assert made.actions("local_green_host_red") == ["note", "latch"]


def test_the_snapshot_of_green_tests_under_a_red_check_stood_when_both_agreed_last(stream):
    made = stream().add(kept(1), "lead").tests(5).check("passed", 1.0).add(kept(2), "lead")
    for _ in range(2):
        made.call().tests(40).check("failed", 0.1)
    assert named(made, "local_green_host_red") == ["k1"]
    made = stream().add(kept(1), "lead").tests(5, 5).check("failed", 0.4).call().tests(40).check("failed", 0.1)
    assert named(made.call().check("failed", 0.1), "local_green_host_red") == ["s0"], "they never agreed that it is sound"


def test_a_snapshot_that_is_gone_or_was_not_kept_whole_is_not_named(stream):
    made = stream().add(kept(1), "lead").add(kept(2), "lead").add(kept(3, lacking=9), "lead").tests(5).check("passed", 1.0)
    made.call().tests(40).check("failed", 0.1)
    assert named(made.call().check("failed", 0.1), "local_green_host_red") == ["k2"]
    made = (
        stream()
        .add(kept(1), "lead")
        .add(kept(2), "lead")
        .tests(5)
        .check("passed", 1.0)
        .add(e.StepsPruned(["k2"], 1, "size"), "lead")
    )
    made.call().tests(40).check("failed", 0.1)
    assert named(made.call().check("failed", 0.1), "local_green_host_red") == ["k1"]


def test_a_return_by_the_operator_begins_the_count_of_red_checks_anew_and_one_by_the_agent_does_not(stream):
    for by, actions in (("operator", ["note"]), ("agent", ["note", "latch"])):
        made = stream()
        for number in range(4):
            if number == 3:
                made.add(e.Rewound("s0", by, "s1"), "lead")
            for _ in range(6):
                made.call()
            made.tests(40).check("failed", 0.1)
        assert made.actions("local_green_host_red") == actions


# --- destructive ---------------------------------------------------------------------------------------------------------------


def test_the_snapshot_of_a_loss_stood_before_its_first_file_went(stream):
    made = stream().add(kept(1), "lead").files(lost=12, of=1000).add(kept(2), "lead").files(lost=24, of=1000)
    assert named(made, "destructive") == ["k1"]


def test_twenty_files_that_are_gone_within_a_minute_freeze_the_run(stream):
    assert stream().files(lost=19, of=1000).actions("destructive") == []
    assert stream().files(lost=20, of=1000).actions("destructive") == ["freeze"]
    slow = stream()
    for number in range(1, 40):
        slow.files(lost=number, of=1000, after=10.0)
    assert slow.actions("destructive") == [], "six in any minute"


def test_a_share_counts_from_five_files_and_bytes_count_alone(stream):
    assert stream().files(lost=4, of=10).actions("destructive") == []
    assert stream().files(lost=5, of=100).actions("destructive") == ["freeze"]
    assert stream().files(lost=5, of=101).actions("destructive") == []
    assert stream().files(lost=1, of=1000, lost_bytes=100_000_000).actions("destructive") == ["freeze"]


def test_one_file_that_must_stay_is_enough_and_what_comes_back_is_no_loss(stream):
    assert stream().files(lost=1, of=1000, kept_gone=["given/ledger.db"]).actions("destructive") == ["freeze"]
    moved = stream().files(lost=10, of=1000).files(lost=0, of=1000).files(lost=15, of=1000)
    assert moved.actions("destructive") == []


def counted(*lost):
    return e.Contact("postgres.shop", {"public.orders": {"read": 1, "written": 0}}, [], list(lost))


def test_a_table_of_a_branch_that_is_gone_or_emptied_freezes_the_run_once(stream):
    made = database(stream).add(counted()).add(counted("public.orders"))
    assert made.actions("destructive") == ["freeze"]
    for _ in range(12):
        made.call()
    assert made.add(counted("public.orders")).actions("destructive") == ["freeze"], "it is told once"
    assert made.add(counted("public.orders", "public.customers")).actions("destructive") == ["freeze", "freeze"]


def test_a_declared_migration_is_told_and_never_held_however_many_tables_go(stream):
    made = database(stream).call().add(counted("public.orders"))
    assert made.actions("destructive", destructive="note") == ["note"]
    for _ in range(12):
        made.call()
    made.add(counted("public.orders", "public.customers"))
    assert made.actions("destructive", destructive="note") == ["note", "note"]


def test_the_alarm_names_what_a_box_says_of_work_that_is_meant_to_remove(stream):
    for made in (stream().files(lost=20, of=1000), database(stream).add(counted("public.orders"))):
        (raised,) = made.raised("destructive")
        assert raised.alarm.evidence["declare"] == '[monitors] destructive = "note"'


# --- disk_remedy ---------------------------------------------------------------------------------------------------------------


def test_any_loss_after_a_full_disk_freezes_the_run(stream):
    full = stream().command(exit=1, limits=["disk"]).files(lost=1, of=1000)
    assert full.actions("disk_remedy") == ["freeze"]
    quota = stream().tick(disk=91, of_disk=100).files(lost=1, of=1000)
    assert quota.actions("disk_remedy") == ["freeze"]


def test_a_loss_before_it_long_after_it_or_of_own_files_is_none(stream):
    before = stream().files(lost=1, of=1000).command(exit=1, limits=["disk"]).files(lost=1, of=1000)
    assert before.actions("disk_remedy") == []
    assert stream().tick(disk=89, of_disk=100).files(lost=1, of=1000).actions("disk_remedy") == []
    late = stream().command(exit=1, limits=["disk"]).files(lost=1, of=1000, after=601.0)
    assert late.actions("disk_remedy") == []


# --- thrash --------------------------------------------------------------------------------------------------------------------


def test_a_source_that_comes_back_twice_to_what_it_was_is_told(stream):
    made = stream()
    for digest in "abab":
        made.call().files(("src/a.py", digest))
    assert made.actions("thrash") == ["note"]
    once = stream().call().files(("a.py", "a")).files(("a.py", "b")).files(("a.py", "a"))
    assert once.actions("thrash") == [], "one undo"
    log = stream()
    for digest in "ababab":
        log.call().files(("state.lock", digest))
    assert log.actions("thrash") == [], "no source"
    met = stream()
    for number in range(6):
        met.call().files(("a.py", "e3b0c44298fc1c14")).files(("a.py", f"{number:016x}"))
    assert met.actions("thrash") == [], "looks that met it opened and not yet written"


def spiral(stream, writes=8, error="E: no match at {}", score=None):
    made = stream()
    for number in range(writes):
        made.call().files(("parse.py", f"{number}")).command(exit=1, tail=error.format(number))
        if score is not None:
            made.check("failed", score(number))
    return made


def test_patching_one_file_while_the_same_error_stays_is_told_then_latched(stream):
    assert spiral(stream).actions("thrash") == ["note"]
    assert spiral(stream, writes=7).actions("thrash") == []
    assert spiral(stream, writes=18).actions("thrash") == ["note", "latch"]


def test_patching_with_new_errors_or_a_better_score_is_work(stream):
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda my ny xi omikron pi rho sigma tau ypsilon".split()
    other = stream()
    for number, word in enumerate(words):
        other.call().files(("parse.py", f"{number}")).command(exit=1, tail=f"no {word}")
    assert other.actions("thrash") == []
    assert spiral(stream, writes=12, score=lambda number: number / 100).actions("thrash") == []


def patched(stream, said, writes=9, exit=0, text="python3 parse.py 2>&1 | tail -2"):
    """One file is written again and again; what a command of exit code `exit` says of it is `said(number)`."""
    made = stream()
    for number in range(writes):
        made.call().files(("parse.py", f"{number}")).command(f"write it {number}\n{text}", exit=exit, tail=said(number))
    return made.actions("thrash")


def test_an_error_behind_a_pipe_is_one_whatever_the_exit_code(stream):
    assert patched(stream, lambda number: f"    ^^^^\nAssertionError: no time: '2026-03-{number}'\n") == ["note"]
    assert patched(stream, lambda number: f"src/a.c:{number}:5: error: expected ';'\n") == ["note"]
    assert patched(stream, lambda number: f"parsed {number} lines\n") == []
    log = "2026-03-01 10:00 | db | ERROR | slow query\nweb-1 said: no error\n"
    assert patched(stream, lambda _: log) == [], "what a log says is no error of who shows it"


def test_failures_that_become_fewer_are_work_and_the_same_ones_are_not(stream):
    def suite(failures):
        return f"Ran 12 tests in 0.002s\n\nFAILED (failures={failures})\n"

    assert patched(stream, lambda number: suite(10 - number)) == []
    assert patched(stream, lambda _: suite(2)) == ["note"]
    assert patched(stream, lambda number: f"FAILED (failures={10 - number})\n") == []


def test_an_error_that_the_same_command_says_no_more_is_mended(stream):
    """Red, green, red, green: a test is written first, and then what it asks for."""
    said = ["FAILED (failures=1)\n", "OK\n"] * 6
    assert patched(stream, lambda number: said[number], writes=12, text="python3 -m unittest 2>&1 | tail -1") == []
    assert patched(stream, lambda number: said[number], writes=12, exit=1, text="make") == ["note"], "its exit code says red"


def test_a_signature_is_an_error_without_its_details():
    assert thrash.signature("a\nTypeError: 'x' at line 12 of /tmp/a.py\n\n") == thrash.signature(
        "TypeError: 'y' at line 9 of /b.py"
    )
    assert thrash.signature("") == "" and thrash.signature("done\n", failed=False) == ""
    assert (
        thrash.signature("TypeError: x is no function\n    at a (b.js:3)\n\nNode.js v22.1.0\n") == "TypeError: x is no function"
    )
    assert thrash.signature("Ran 3 tests in 0.1s\n\nOK\nKeyError: 'x'\n") == "KeyError: #", "it came after green tests"


# --- error_storm ---------------------------------------------------------------------------------------------------------------


def test_a_failing_upstream_rests_for_longer_each_time(stream):
    made = stream()
    for _ in range(80):
        made.call(status=500, after=1.0)
    seconds = [one.alarm.evidence["seconds"] for one in made.raised("error_storm")]
    assert seconds == [30.0, 60.0] and made.actions("error_storm") == ["rest", "rest"]


def test_one_request_that_fails_five_times_rests_too_and_is_forgotten_by_others(stream):
    made = stream()
    for _ in range(error_storm.SAME):
        made.call(status=400, request="abc", after=20.0)
    assert made.actions("error_storm") == ["rest"]
    many = stream()
    for number in range(12):
        many.call(status=400, request=f"r{number}", after=20.0)
    assert many.actions("error_storm") == []


def test_a_model_that_mostly_answers_and_another_model_do_not_rest(stream):
    made = stream()
    for number in range(100):
        made.call(status=500 if number % 4 else 200, after=1.0)
    assert made.actions("error_storm") == [], "75 % errors"
    assert all(one.alarm.evidence["model"] == "bad" for one in _two_models(stream).raised("error_storm"))


def _two_models(stream):
    made = stream()
    for _ in range(30):
        made.call(status=529, model="bad", after=0.5).call(model="good", after=0.5)
    return made


def api(made, status, path="/orders", why="done", after=1.0, door="api.orders"):
    return made.add(e.ApiCalled(door, "GET", path, status, 10, 10, 0.1, why), "lead", after)


def test_an_api_that_only_fails_is_told_of_and_what_it_did_not_give_is_not_to_be_made_up(stream):
    made = stream()
    for _ in range(4):
        api(made, 200)
    for _ in range(4):
        api(made, 500, after=20.0)
    assert made.actions("error_storm") == [], "asked again with patience"
    (raised,) = api(made, 500).raised("error_storm")
    assert raised.action == "note" and "GET /orders failed 5 times" in raised.alarm.fact and "missing" in raised.alarm.remedy
    gone = stream()
    for number in range(10):
        api(gone, 502, path=f"/orders/{number}", why="unreachable")
    assert gone.actions("error_storm") == ["note"], "whatever was asked of it"


def test_a_database_that_cannot_be_reached_is_told_of_too(stream):
    def refused(*counts, code="unreachable"):
        made = stream()
        for count in counts:
            made.add(e.DoorRefused("postgres.shop", code, "the live database cannot be reached", {"count": count}), "lead", 1.0)
        return made.actions("error_storm")

    assert refused(1) == [] and refused(1, 10) == ["note"] and refused(1, 10, code="not_allowed") == []


@pytest.mark.parametrize("told", [(404, "done"), (403, "call_not_allowed"), (429, "rate"), (0, "cut")])
def test_what_is_no_failure_of_an_api_is_left_alone(stream, told):
    made = stream()
    for _ in range(40):
        api(made, told[0], why=told[1])
    assert made.actions("error_storm") == []


def test_an_api_that_fails_now_and_then_is_left_alone(stream):
    made = stream()
    for number in range(60):
        api(made, 200 if number % 4 == 3 else 503, after=2.0)
    assert made.actions("error_storm") == [], "three of four fail, and each fourth try succeeds"


# --- fan_out -------------------------------------------------------------------------------------------------------------------


def spawned(made, number, goal="part {}", after=1.0, parent="lead"):
    event = e.AgentSpawned(parent, f"n{number}", goal.format(number), "m", 1, {}, 0, 0)
    return made.add(event, f"a{number}", after)


def test_spawning_faster_than_the_box_can_work_is_denied(stream):
    made = stream().add(e.Watching({}, declared={"live": 4}))
    for number in range(11):
        spawned(made, number)
    assert made.actions("fan_out") == ["deny"]
    few = stream().add(e.Watching({}, declared={"live": 4}))
    for number in range(30):
        spawned(few, number, after=10.0)
    assert few.actions("fan_out") == []
    wide = stream().add(e.Watching({}, declared={"live": 16}))
    for number in range(20):
        spawned(wide, number)
    assert wide.actions("fan_out") == [], "it was declared"


def returned(made, number, after=1.0):
    made.add(e.AgentReturned("lead", "done", "", "", "", {}, 1, 1.0), f"a{number}", after)


def test_sub_agents_that_have_ended_and_were_read_are_done_with(stream):
    """Twelve in a minute, four at a time, each read before the next ones: no more than four are ever open."""
    made = stream().add(e.Watching({}, declared={"live": 3}))
    for first in (0, 4, 8):
        for number in range(first, first + 4):
            spawned(made, number)
        for number in range(first, first + 4):
            returned(made, number)
        made.add(e.GearUsed("wait", True), "lead").call()
    assert made.actions("fan_out") == []
    unread = stream().add(e.Watching({}, declared={"live": 3}))
    for number in range(12):
        spawned(unread, number)
        returned(unread, number)
    assert unread.actions("fan_out") == ["deny"], "they ended as fast, and nobody looks"


def test_results_that_nobody_reads_and_equal_goals_are_told(stream):
    made = stream()
    for number in range(6):
        spawned(made, number, after=10.0)
    for number in range(6):
        returned(made, number)
    assert made.actions("fan_out") == [], "its parent may be waiting for them"
    assert made.call().actions("fan_out") == [], "this turn may read them"
    assert made.call().actions("fan_out") == ["note"]
    handed_in = stream()
    for number in range(6):
        spawned(handed_in, number, after=10.0)
    assert handed_in.add(e.GearUsed("done", True), "lead").actions("fan_out") == ["note"]
    read = stream()
    for number in range(6):
        spawned(read, number, after=10.0)
        returned(read, number)
    read.add(e.GearUsed("wait", True), "lead").call().call().add(e.GearUsed("done", True), "lead")
    assert read.actions("fan_out") == []
    same = stream()
    for number in range(3):
        spawned(same, number, goal="the whole", after=10.0)
    assert same.actions("fan_out") == ["note"]


# --- exfiltration --------------------------------------------------------------------------------------------------------------


def asked(made, *names, after=1.0):
    for name in names:
        made.add(e.NameAsked(name, "A", False, 1), "lead", after)
    return made


def test_five_hosts_that_nobody_allowed_freeze_the_run(stream):
    hosts = [f"n{number}.evil.com" for number in range(9)]
    assert asked(stream(), *hosts).actions("exfiltration") == []
    hosts = [f"evil{number}.com" for number in range(5)]
    assert asked(stream(), *hosts).actions("exfiltration") == ["freeze"]
    assert asked(stream(), *hosts, after=200.0).actions("exfiltration") == []


def test_what_installers_ask_for_by_themselves_is_no_sign(stream):
    names = [
        "pypi.org",
        "files.pythonhosted.org",
        "deb.debian.org",
        "registry.npmjs.org",
        "github.com",
        "proxy.golang.org",
        "host.local",
    ]
    assert asked(stream(), *names).actions("exfiltration") == []


def test_data_in_a_name_freezes_the_run_and_a_long_word_does_not(stream):
    data = "mzxw6ytboi4dsmrqgq3tkojsgi2dknjqha4tomrugu3q"
    assert len(data) > exfiltration.LABEL and asked(stream(), f"{data}.evil.com").actions("exfiltration") == ["freeze"]
    assert asked(stream(), f"{'ab' * 25}.evil.com").actions("exfiltration") == []


def test_many_labels_below_one_denied_domain_carry_data_however_slowly(stream):
    rows = [f"anna-berg-{number}.de89370400440532{number:04}.r.count.example.net" for number in range(15)]
    assert asked(stream(), *rows, after=300.0).actions("exfiltration")[:1] == ["freeze"]
    assert asked(stream(), *rows[:5]).actions("exfiltration") == [], "five rows"
    again = [f"{name}.example.net" for name in ("www", "api", "cdn", "static", "telemetry-collector") * 40]
    assert asked(stream(), *again).actions("exfiltration") == [], "the same few names again and again"
    regions = [f"ec2.eu-central-{number}.amazonaws.com" for number in range(17)]
    assert asked(stream(), *regions).actions("exfiltration") == [], "one call in each region"
    spread = stream()
    for number, name in enumerate(rows):
        spread.add(e.NameAsked(name, "A", False, 1), f"a{number}", 1.0)
    assert "freeze" in spread.actions("exfiltration"), "a row by each sub-agent"


def closed(door, name, sent, received):
    return e.ConnectionClosed(door, 1, name, sent, received, 1.0, "done")


def test_uploads_to_a_host_meant_for_reading_freeze_the_run(stream):
    assert stream().add(closed("http", "files.example.com", 10**6, 99_000), "lead").actions("exfiltration") == ["freeze"]
    assert stream().add(closed("http", "files.example.com", 10**6 - 1, 0), "lead").actions("exfiltration") == []
    assert stream().add(closed("http", "files.example.com", 10**7, 10**7), "lead").actions("exfiltration") == []
    assert stream().add(closed("postgres.shop", "shop.box", 10**8, 0), "lead").actions("exfiltration") == [], "a branch of ours"
