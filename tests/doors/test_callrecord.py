"""What the doors of HTTP calls have on record: capped, masked, refusals at powers of ten."""

import json

from gearcase.doors.callrecord import MOST_RECORDS, CallRecord, refusal, status_of
from gearcase.doors.masks import Mask
from gearcase.errors import Refused
from gearcase.events import ApiCalled, DoorRefused
from tests.doors.upstream import Facts


def test_calls_are_on_record_up_to_a_cap_that_is_told():
    record, facts = CallRecord("api.x", Mask([])), Facts()
    record.ended(ApiCalled("api.x", "GET", "/", 200, 1, 1, 0.1, "done"), "lead")  # before anybody keeps a record
    record.recorder = facts
    for _ in range(MOST_RECORDS + 50):
        record.ended(ApiCalled("api.x", "GET", "/", 200, 1, 1, 0.1, "done"), "lead")
    assert len(facts.of(ApiCalled)) == MOST_RECORDS - 1
    assert [one.code for one in facts.of(DoorRefused)] == ["too_many_records"]


def test_refusals_are_on_record_at_powers_of_ten_without_a_secret():
    record, facts = CallRecord("api.x", Mask(["secret-4711"])), Facts()
    record.recorder = facts
    for _ in range(150):
        record.refused(Refused("unreachable", "no way to secret-4711", cause="secret-4711", remedy="wait"), "lead")
    assert [one.context["count"] for one in facts.of(DoorRefused)] == [1, 10, 100]
    assert "secret-4711" not in str(facts.events)


def test_a_refusal_is_an_answer_with_what_to_do():
    said = refusal(Refused("rate", "too fast", remedy="wait 3 s", retry_after=3))
    assert said.status == 429 and said.headers["retry-after"] == "3"
    assert json.loads(said.chunks)["error"]["remedy"] == "wait 3 s"
    assert status_of(Refused("anything else", "x", remedy="y")) == 502
