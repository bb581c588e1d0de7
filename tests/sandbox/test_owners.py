"""Owner files: a record is its owner's from the moment that it can be seen."""

import fcntl
import os

import pytest

from gearcase.errors import RunError
from gearcase.sandbox import owners


@pytest.fixture
def boxes(tmp_path):
    folder = tmp_path / "boxes"
    folder.mkdir(mode=0o700)
    return str(folder)


def test_a_sweep_between_the_making_of_a_record_and_its_lock_takes_nothing_from_its_owner(boxes, monkeypatch):
    real, swept = fcntl.flock, []

    def sweep_first(descriptor, operation):
        if operation == fcntl.LOCK_EX and not swept:
            swept.append(True)
            swept.extend(owners.sweep(boxes))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    mine = owners.OwnerFile.create(boxes, "making", owners.record((), ()))
    assert swept == [True, mine.path], "the sweep came first"
    mine.rename("made")
    assert owners.sweep(boxes) == ()
    assert os.listdir(boxes) == ["made.json"]


def test_a_sweep_that_comes_late_leaves_the_next_record_of_that_name(boxes, monkeypatch):
    first = owners.OwnerFile.create(boxes, "name", owners.record((), ()))
    real, later = fcntl.flock, []

    def end_first(descriptor, operation):
        if operation & fcntl.LOCK_NB and not later:
            later.append(None)
            first.close()
            later.append(owners.OwnerFile.create(boxes, "name", owners.record((), ())))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", end_first)
    assert owners.sweep(boxes) == ()
    assert os.path.samestat(os.stat(later[1].path), os.fstat(later[1]._descriptor))


def test_the_record_of_a_dead_owner_is_swept_and_a_live_one_stays(boxes):
    live = owners.OwnerFile.create(boxes, "live", owners.record((), ()))
    dead = owners.OwnerFile.create(boxes, "dead", owners.record((), ()))
    os.close(dead._descriptor)
    assert owners.sweep(boxes) == (dead.path,)
    assert os.listdir(boxes) == ["live.json"]
    with pytest.raises(RunError, match="exists"):
        owners.OwnerFile.create(boxes, "live", owners.record((), ()))
    live.close()
