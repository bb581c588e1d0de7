"""The runaway of the demo: what a small model really did, played again, every command really executed."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
BOX = HERE.parents[1] / "src/gearcase/demo/runaway/box.toml"
RUNAWAYS = sorted((HERE / "runaways").glob("*.jsonl"))


@pytest.mark.parametrize("runaway", RUNAWAYS, ids=lambda path: path.stem)
def test_what_a_model_did_that_was_too_small_is_ended_by_a_monitor_within_few_turns(user, runaway):
    ended = user.types("replay", runaway, "-f", BOX, "--json", code=12)
    record = ended.record
    assert record["status"] == "stopped" and [alarm["name"] for alarm in record["alarms"]] == ["repetition"]
    assert record["delivered"] == [] and record["residue"] == []
    assert sum(one["type"] == "agent_turn" for one in user.journal()) <= 10


def test_with_the_monitor_off_it_goes_on(user):
    """The control: nothing else would have ended it so early."""
    loose = user.folder / "box.toml"
    text = BOX.read_text().replace('repetition = "latch"', 'repetition = "off"')
    loose.write_text(text.replace("given/sales", str(BOX.parent / "given/sales")).replace('"checks/', f'"{BOX.parent}/checks/'))
    record = user.types("replay", HERE / "runaways/an-open-quote.jsonl", "-f", loose, "--json").record
    assert sum(one["type"] == "agent_turn" for one in user.journal()) == 16 and record["alarms"] == []
