"""A box file that is wrong is answered with every mistake, its line, and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gearcase.box import DEFAULT, LoadedBox, Override, box_from_options, load_box
from gearcase.errors import UsageError
from gearcase.units import NANO


def write_box(folder: Path, text: str) -> Path:
    path = folder / "box.toml"
    path.write_text(text)
    return path


def mistakes_of(folder: Path, text: str, environment: dict[str, str] | None = None) -> list[dict[str, Any]]:
    with pytest.raises(UsageError) as caught:
        load_box(write_box(folder, text), environment=environment or {})
    assert caught.value.code == "box"
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return caught.value.context["mistakes"]


def only_mistake(folder: Path, text: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    mistakes = mistakes_of(folder, text, environment)
    assert len(mistakes) == 1, mistakes
    return mistakes[0]


def test_an_empty_box_is_a_safe_box(tmp_path: Path) -> None:
    box = load_box(write_box(tmp_path, "")).box
    assert (box.limits.usd, box.limits.wall, box.limits.steps) == (2 * NANO, 2700.0, 400)
    assert (box.files.give, box.files.see, box.files.take) == ((), (), ())
    assert (box.model.allow, box.model.hosted_tools) == ((), ())
    assert box.limits.on_exhausted == "ask"
    assert box.journal.durability == "strict"
    assert box.sandbox.need == ("network", "filesystem", "processes")


def test_amounts_are_held_in_base_units_exactly(tmp_path: Path) -> None:
    text = '[limits]\nusd = 2.10\nwall = "1h30m"\nmemory = "512MiB"\ndisk = 1048576\nwind_down_reserve = "7%"\ncpus = 0.5\n'
    limits = load_box(write_box(tmp_path, text)).box.limits
    assert limits.usd == 2_100_000_000
    assert limits.wall == 5400.0
    assert limits.memory == 512 * 2**20
    assert limits.disk == 2**20
    assert limits.wind_down_reserve == 0.07
    assert limits.cpus == 0.5


def test_all_mistakes_are_listed_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = '[limits]\nwall = "soon"\nmemry = "4GiB"\n\n[files]\ngive = ["absent/"]\ntake = ["/etc/**"]\n'
    found = mistakes_of(tmp_path, text)
    assert [(m["line"], m["key"]) for m in found] == [
        (2, "limits.wall"),
        (3, "limits.memry"),
        (6, "files.give[0]"),
        (7, "files.take[0]"),
    ]


def test_the_error_says_key_table_line_and_the_nearest_known_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_box(write_box(tmp_path, '# a box\n[limits]\nmemry = "4GiB"\n'))
    assert caught.value.cause == "unknown key `memry` in [limits], line 3: did you mean `memory`?"
    assert caught.value.message == "box.toml has a mistake"


@pytest.mark.parametrize(
    ("text", "line", "near"),
    [
        ("gaol = 'x'\n", 1, "goal"),
        ("[limit]\nusd = 1\n", 1, "limits"),
        ("[model]\nprice = 1\n", 2, "prices"),
        ("[model.providers.acme]\nkeyenv = 'A'\n", 2, "key_env"),
        ("[model.prices.'a/b']\ninput = 1\noutput = 2\ncache_raed = 3\n", 4, "cache_read"),
        ("[[check]]\nname = 'a'\nrun = 'true'\n\n[[check]]\nname = 'b'\nrun = 'true'\nshw = 'score'\n", 8, "show"),
        ("limits.usdd = 3\n", 1, "usd"),
        ("limits = { usd = 1, wal = 3 }\n", 1, "wall"),
        ("[sandbox]\nneeds = []\n", 2, "need"),
        ("[journal]\ndurabilty = 'strict'\n", 2, "durability"),
    ],
)
def test_an_unknown_key_names_its_nearest(tmp_path: Path, text: str, line: int, near: str) -> None:
    found = only_mistake(tmp_path, text)
    assert (found["line"], found["near"]) == (line, near)
    assert "unknown key" in found["message"]


def test_a_key_of_another_table_is_told_where_it_belongs(tmp_path: Path) -> None:
    assert "it belongs in [limits]" in only_mistake(tmp_path, "usd = 3\n")["message"]


@pytest.mark.parametrize("key", ["dashboard"])
def test_a_table_whose_machinery_does_not_exist_is_unknown(tmp_path: Path, key: str) -> None:
    assert only_mistake(tmp_path, f"[{key}]\nx = 1\n")["message"] == f"unknown key `{key}` in the box"


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("[limits]\nusd = 'much'\n", "limits.usd", "not an amount of dollars"),
        ("[limits]\nusd = -1\n", "limits.usd", "not a payable amount"),
        ("[limits]\nusd = 0.0000000001\n", "limits.usd", "not a payable amount"),
        ("[limits]\nusd = inf\n", "limits.usd", "not a payable amount"),
        ("[limits]\nusd = nan\n", "limits.usd", "not a payable amount"),
        ("[limits]\nusd = 1e300\n", "limits.usd", "no limit"),
        ("[limits]\nusd = true\n", "limits.usd", "neither a number nor a text"),
        ("[limits]\nusd = [1]\n", "limits.usd", "neither a number nor a text"),
        ("[limits]\nusd = 1979-05-27\n", "limits.usd", "neither a number nor a text"),
        ("[limits]\nmemory = '4 gigs'\n", "limits.memory", "not a size"),
        ("[limits]\nmemory = 1.5\n", "limits.memory", "must be from 1MiB"),
        ("[limits]\ndisk = 0\n", "limits.disk", "must be from 1MiB"),
        ("[limits]\nwall = '45 minutes'\n", "limits.wall", "not a duration"),
        ("[limits]\nwall = 0\n", "limits.wall", "must be from 1ms"),
        ("[limits]\nwall = inf\n", "limits.wall", "must be from 1ms to 366d"),
        ("[limits]\nwall = nan\n", "limits.wall", "not a duration"),
        ("[limits]\ncpus = '2'\n", "limits.cpus", "without quotes"),
        ("[limits]\ncpus = 0\n", "limits.cpus", "must be from"),
        ("[limits]\ncpus = nan\n", "limits.cpus", "must be from"),
        ("[limits]\nsteps = 1.5\n", "limits.steps", "whole number"),
        ("[limits]\nsteps = 0\n", "limits.steps", "at least 1"),
        ("[limits]\nsteps = true\n", "limits.steps", "whole number"),
        ("[limits]\nprocesses = 2\n", "limits.processes", "at least 8"),
        ("[limits]\ntokens = 99999999999999999999\n", "limits.tokens", "at most"),
        ("[limits]\nwind_down_reserve = '80%'\n", "limits.wind_down_reserve", "50%"),
        ("[limits]\nwind_down_reserve = 'some'\n", "limits.wind_down_reserve", "not a share"),
        ("[limits]\nwind_down_reserve = nan\n", "limits.wind_down_reserve", "50%"),
        ("goal = 3\n", "goal", "must be a text"),
        ("limits = 3\n", "limits", "must be a table"),
        ("check = 3\n", "check", "must be a list"),
        ("check = [3]\n", "check[0]", "must be a table"),
        ("[model]\nproviders = 3\n", "model.providers", "must be a table"),
        ("[model]\nproviders.acme = 3\n", "model.providers.acme", "must be a table"),
        ("[model]\nlead = 'opus'\n", "model.lead", "not a model"),
        ("[model]\nlead = 'http://127.0.0.1:1/v1'\n", "model.lead", "names no model"),
        ("[model]\nlead = 'manual:'\n", "model.lead", "names no path"),
        ("[model]\nlead = 4\n", "model.lead", "must be a text"),
        ("[model]\nallow = 'anthropic/*'\n", "model.allow", "must be a list"),
        ("[model.providers.acme]\nbase = 'api.acme.test'\n", "model.providers.acme.base", "not an address"),
        ("[model.providers.acme]\nbase = 'https://me:secret@acme.test'\n", "model.providers.acme.base", "keys belong in"),
        ("[model.providers.acme]\nkey_env = 'a b'\n", "model.providers.acme.key_env", "not allowed there"),
        ("[model.providers.acme]\nprotocol = 'chats'\n", "model.providers.acme.protocol", "not one of"),
        ("[model.providers.acme]\nkey_env = 'A'\nkeyring = 'a/b'\n", "model.providers.acme.keyring", "name one"),
        ("[model.providers.'A B']\nkey_env = 'A'\n", "model.providers.A B", "not allowed there"),
        ("[model.prices.'a/b']\ninput = -1\noutput = 1\n", "model.prices.a/b.input", "at least 0"),
        ("[model.prices.'a/b']\ninput = nan\noutput = 1\n", "model.prices.a/b.input", "finite"),
        ("[model.prices.'a/b']\ninput = 1\n", "model.prices.a/b", "needs `output`"),
        ("[files]\ngive = 'data'\n", "files.give", "must be a list"),
        ("[files]\ngive = [3]\n", "files.give[0]", "must be a path"),
        ("[files]\ngive = ['']\n", "files.give[0]", "is empty"),
        ("[files]\nsee = ['/']\n", "files.see[0]", "root folder"),
        ("[files]\ntake = ['../x']\n", "files.take[0]", "leaves /workspace"),
        ("[files]\ntake = ['a/../../x']\n", "files.take[0]", "leaves /workspace"),
        ("[files]\ntake = ['/x']\n", "files.take[0]", "is absolute"),
        ("[files]\ntake = ['']\n", "files.take[0]", "names no file"),
        ("[files]\ntake = [3]\n", "files.take[0]", "must be a text"),
        ("[[check]]\nrun = 'true'\n", "check[0].name", "[[check]] needs `name`"),
        ("[[check]]\nname = 'a'\n", "check[0].run", "needs `run`"),
        ("[[check]]\nname = 'A b'\nrun = 'true'\n", "check[0].name", "not allowed there"),
        ("[[check]]\nname = 'a'\nrun = ' '\n", "check[0].run", "not allowed there"),
        ("[[check]]\nname = 'a'\nrun = 'true'\nshow = 'all'\n", "check[0].show", "not one of"),
        ("[[check]]\nname = 'a'\nrun = 'true'\nmin_score = inf\n", "check[0].min_score", "finite"),
        ("[[check]]\nname = 'a'\nrun = 'true'\nfiles = ['../x']\n", "check[0].files[0]", "does not exist"),
        ("[[check]]\nname = 'a'\nrun = 'true'\nfiles = ['/']\n", "check[0].files[0]", "root folder"),
        ("[[check]]\nname = 'a'\nrun = 'true'\nfiles = ['/usr/bin', '/bin']\n", "check[0].files[1]", "same place"),
        ("[[check]]\nname='a'\nrun='true'\n[[check]]\nname='a'\nrun='true'\n", "check[1].name", "an earlier check"),
        ("[sandbox]\ndriver = 'docker'\n", "sandbox.driver", "not one of"),
        ("[sandbox]\nneed = ['net']\n", "sandbox.need[0]", "not one of"),
        ("[sandbox]\npackages = ['/usr/bin/git']\n", "sandbox.packages[0]", "not allowed there"),
        ("[journal]\ndurability = 'loose'\n", "journal.durability", "not one of"),
    ],
)
def test_a_wrong_value_is_said_with_its_key(tmp_path: Path, text: str, key: str, says: str) -> None:
    found = only_mistake(tmp_path, text)
    assert found["key"] == key
    assert says in found["message"]
    assert found["line"] >= 1


@pytest.mark.parametrize(
    ("text", "line"),
    [("goal = \n", 1), ("[limits\n", 1), ("goal = 'a'\ngoal = 'b'\n", 2), ("x = [1,\n\n", 3), ("a = 1\n[a]\n", 2)],
)
def test_a_syntax_error_says_its_line(tmp_path: Path, text: str, line: int) -> None:
    found = only_mistake(tmp_path, text)
    assert found["line"] == line
    assert "not TOML" in found["message"]


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_bytes(b"goal = 'x'\n# caf\xe9\n")
    with pytest.raises(UsageError) as caught:
        load_box(tmp_path / "box.toml")
    assert caught.value.context["mistakes"][0]["line"] == 2


def test_a_missing_box_file_names_the_one_beside_it(tmp_path: Path) -> None:
    write_box(tmp_path, "")
    with pytest.raises(UsageError) as caught:
        load_box(tmp_path / "bok.toml")
    assert caught.value.code == "no_box"
    assert str(tmp_path / "box.toml") in caught.value.remedy


def test_a_folder_is_not_a_box_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no box could be read"):
        load_box(tmp_path)


# --- paths -----------------------------------------------------------------------------------------------------------------


def test_paths_are_absolute_from_the_box_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "sub").mkdir()
    box = load_box(write_box(tmp_path, '[files]\ngive = ["data/"]\nsee = ["./sub/../sub"]\n')).box
    assert box.files.give == (tmp_path / "data",)
    assert box.files.see == (tmp_path / "sub",)


def test_a_missing_path_names_the_nearest_beside_it(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    found = only_mistake(tmp_path, '[files]\nsee = ["refrence/"]\n')
    assert (found["line"], found["near"]) == (2, "reference")


def test_a_dangling_link_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert "link to something" in only_mistake(tmp_path, '[files]\nsee = ["link"]\n')["message"]


def test_variables_and_home_are_expanded_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "hospital").mkdir()
    (tmp_path / "home/notes").mkdir(parents=True)
    path = write_box(tmp_path, '[files]\ngive = ["${DATA}/hospital"]\nsee = ["~/notes"]\n')
    box = load_box(path, environment={"DATA": str(tmp_path), "HOME": str(tmp_path / "home")}).box
    assert box.files.give == (tmp_path / "hospital",)
    assert box.files.see == (tmp_path / "home/notes",)


def test_a_variable_that_is_not_set_is_a_mistake_with_the_nearest_one(tmp_path: Path) -> None:
    found = only_mistake(tmp_path, '[files]\ngive = ["${GEARCASE_DAT}/x"]\n', {"GEARCASE_DATA": "/"})
    assert "${GEARCASE_DAT}, which is not set" in found["message"]
    assert found["near"] == "GEARCASE_DATA"


def test_two_gives_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a/data").mkdir(parents=True)
    (tmp_path / "b/data").mkdir(parents=True)
    found = only_mistake(tmp_path, '[files]\ngive = ["a/data", "b/data"]\n')
    assert "same place inside" in found["message"]


def test_a_check_finds_the_files_that_its_command_names(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/validate.py").write_text("")
    (tmp_path / "truth.csv").write_text("")
    text = "[[check]]\nname = 'a'\nrun = 'python3 ./checks/validate.py truth.csv --strict ../outside /etc/passwd missing .'\n"
    loaded = load_box(write_box(tmp_path, text))
    assert loaded.box.checks[0].files == (tmp_path / "checks", tmp_path / "truth.csv")
    assert loaded.source("check[0].files") == "found in `run`"


def test_a_check_that_names_no_files_on_purpose_gets_none(tmp_path: Path) -> None:
    (tmp_path / "validate.py").write_text("")
    text = "[[check]]\nname = 'a'\nrun = 'python3 validate.py'\nfiles = []\n"
    assert load_box(write_box(tmp_path, text)).box.checks[0].files == ()


def test_file_upstreams_become_absolute_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text("")
    box = load_box(write_box(tmp_path, '[model]\nlead = "cassette:talk.jsonl"\nworker = "manual:later"\n')).box
    assert box.model.lead == f"cassette:{tmp_path}/talk.jsonl"
    assert box.model.worker == f"manual:{tmp_path}/later"
    assert only_mistake(tmp_path, '[model]\nlead = "cassette:tolk.jsonl"\n')["near"] == "talk.jsonl"


def test_the_person_who_plays_the_model_is_out_of_the_agents_sight(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    text = '[model]\nlead = "manual:data/talk"\n[files]\ngive = ["data"]\n'
    assert "which the agent sees" in only_mistake(tmp_path, text)["message"]


def test_key_files_must_exist(tmp_path: Path) -> None:
    found = only_mistake(tmp_path, "[model.providers.acme]\nkey_file = 'key'\n")
    assert (found["key"], found["line"]) == ("model.providers.acme.key_file", 2)


# --- options and sources ---------------------------------------------------------------------------------------------------


def loaded_with(folder: Path, text: str, *overrides: Override) -> LoadedBox:
    return load_box(write_box(folder, text), overrides)


def test_an_option_replaces_a_value_and_is_its_source(tmp_path: Path) -> None:
    text = '[limits]\nusd = 5\nwall = "1h"\n'
    loaded = loaded_with(tmp_path, text, Override(("limits", "usd"), "0.5", "--usd"))
    assert loaded.box.limits.usd == NANO // 2
    assert loaded.source("limits.usd") == "--usd"
    assert loaded.source("limits.wall") == "box.toml:3"
    assert loaded.source("limits.steps") == DEFAULT


def test_list_options_add_to_the_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    give = Override(("files", "give"), str(tmp_path / "b"), "--give")
    check = Override(("check",), {"name": "check-1", "run": "true"}, "--check")
    loaded = loaded_with(tmp_path, "[files]\ngive = ['a']\n[[check]]\nname = 'a'\nrun = 'true'\n", give, check)
    assert loaded.box.files.give == (tmp_path / "a", tmp_path / "b")
    assert [item.name for item in loaded.box.checks] == ["a", "check-1"]
    assert loaded.source("files.give") == "box.toml:2, --give"


def test_a_wrong_option_is_named_instead_of_a_line() -> None:
    with pytest.raises(UsageError) as caught:
        box_from_options([Override(("limits", "wall"), "soon", "--wall"), Override(("files", "give"), "/absent", "--give")])
    assert caught.value.message == "the box has 2 mistakes"
    assert "from --wall" in caught.value.cause
    assert "from --give" in caught.value.cause


def test_options_alone_make_a_box(tmp_path: Path) -> None:
    loaded = box_from_options([Override(("goal",), "count", "GOAL"), Override(("files", "take"), "out/**", "--take")], tmp_path)
    assert loaded.path is None
    assert (loaded.box.goal, loaded.box.files.take, loaded.folder) == ("count", ("out/**",), tmp_path)


def test_prices_are_exact(tmp_path: Path) -> None:
    text = "[model.prices.'acme/one']\ninput = 0.1\noutput = 3\nmax_output = 8192\n"
    prices = load_box(write_box(tmp_path, text)).box.model.price_overrides()
    assert {key: str(value) for key, value in prices["acme/one"].items()} == {"input": "0.1", "output": "3", "max_output": "8192"}
