import inspect
import pickle
from dataclasses import FrozenInstanceError

import pytest

import gearcase.events
from gearcase.events import Event, GearUsed, LimitReached
from gearcase.journal.lines import ENVELOPE

KINDS = sorted(Event.catalogue.values(), key=lambda kind: kind.type)


def test_the_catalogue_holds_every_event_of_the_module_under_its_name() -> None:
    classes = [
        one for _, one in inspect.getmembers(gearcase.events, inspect.isclass) if issubclass(one, Event) and one is not Event
    ]
    assert {kind.__name__ for kind in KINDS} == {one.__name__ for one in classes}
    assert len(KINDS) > 30
    assert Event.catalogue["account_opened"].__name__ == "AccountOpened"
    assert all(name == kind.type for name, kind in Event.catalogue.items())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_an_event_is_documented_frozen_and_fits_a_line(kind: type[Event]) -> None:
    text = inspect.getdoc(kind) or ""
    assert len(text) > 15
    assert text != inspect.getdoc(Event)
    assert not set(kind.fields) & {*ENVELOPE, *vars(Event)}
    made = kind(*range(len(kind.fields)))
    for name in kind.fields:
        with pytest.raises(FrozenInstanceError):
            setattr(made, name, -1)
    assert [getattr(made, name) for name in kind.fields] == list(range(len(kind.fields)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_fields_with_a_default_come_last_so_that_they_can_be_added(kind: type[Event]) -> None:
    optional = [name in kind.defaults for name in kind.fields]
    assert optional == sorted(optional)


def test_an_event_is_made_by_place_or_name_and_what_is_left_out_has_its_default() -> None:
    whole = LimitReached("memory", detail="512 MiB")
    assert (whole.limit, whole.detail, LimitReached(limit="memory").detail) == ("memory", "512 MiB", "")
    assert whole == LimitReached("memory", "512 MiB") != LimitReached("memory")
    assert hash(whole) == hash(LimitReached("memory", "512 MiB"))
    assert repr(whole) == "LimitReached(limit='memory', detail='512 MiB')"
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_a_default_that_can_change_is_each_event_s_own() -> None:
    first, second = (GearUsed("ask", True) for _ in range(2))
    assert first.detail == second.detail == {}
    assert first.detail is not second.detail


@pytest.mark.parametrize("wrong", [((), {}), (("a", "b", "c"), {}), (("a",), {"limit": "b"}), (("a",), {"else": 1})])
def test_what_is_missing_doubled_or_unknown_is_refused(wrong: tuple[tuple[str, ...], dict[str, str]]) -> None:
    with pytest.raises(TypeError, match="LimitReached"):
        LimitReached(*wrong[0], **wrong[1])
