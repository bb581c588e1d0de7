import inspect
from dataclasses import MISSING, fields

import pytest

import gearcase.events
from gearcase.events import Event
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
    assert not text.startswith(f"{kind.__name__}(")  # the one that dataclass makes up
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not {one.name for one in fields(kind)} & set(ENVELOPE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_fields_with_a_default_come_last_so_that_they_can_be_added(kind: type[Event]) -> None:
    optional = [one.default is not MISSING or one.default_factory is not MISSING for one in fields(kind)]
    assert optional == sorted(optional)
