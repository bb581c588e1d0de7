"""`gearcase run --model local`: the real small model drives an agent. It is no good at that; the run is whole all the same."""

import pytest

from tests.local_model import small


@pytest.mark.local
@pytest.mark.timeout(300)
def test_a_small_model_leads_a_run_that_ends_cleanly_and_is_paid_for(user):
    user.environment["GEARCASE_MODEL"] = str(small())
    limits = ("--usd", "0.50", "--steps", "2", "--wall", "3m")
    ended = user.types("run", "List the files.", "--model", "local", *limits, "--take", "out/**", "--json", timeout=240)
    record = ended.record
    assert record["status"] in ("exhausted", "unverified"), ended.err
    assert record["residue"] == []
    assert 0 < record["spent"]["usd"] < 500_000_000
    assert "command_started" in [one["type"] for one in user.journal()], "what it wrote became commands that ran"
