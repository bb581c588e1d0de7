"""Whose PostgreSQL a door runs."""

import pytest

from gearcase.doors.postgres.binaries import candidates, choose
from gearcase.errors import UsageError


def test_the_wheel_comes_first_and_knows_its_version():
    first = candidates()[0]
    assert first.bundled
    assert first.major >= 17
    assert choose().root == first.root


@pytest.mark.parametrize(
    ("wanted", "code"), [({"at_least": 99}, "older_server"), ({"extensions": ["no_such", "plpgsql"]}, "missing_extension")]
)
def test_a_database_that_no_server_here_can_hold_is_refused_with_what_to_install(wanted, code):
    with pytest.raises(UsageError) as caught:
        choose(**wanted)
    assert caught.value.code == code
    assert "install" in caught.value.remedy


def test_an_extension_is_found_by_its_name_alone():
    assert choose(extensions=["plpgsql", "pg_trgm"]).has_extension("pg_trgm")
    assert not candidates()[0].has_extension("../extension/plpgsql")
