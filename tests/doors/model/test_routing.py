"""Which model is meant, what it costs, and who answers for it."""

import asyncio
import json
import os
import sys

import pytest

from gearcase.box import Model
from gearcase.doors.model.routing import Routing
from gearcase.doors.model.upstreams.cassette import Cassette
from gearcase.doors.model.upstreams.http import Http
from gearcase.doors.model.upstreams.manual import Manual
from gearcase.doors.model.upstreams.scripted import Scripted
from gearcase.errors import Refused, UsageError

KEYS = {"ANTHROPIC_API_KEY": "sk-a", "OPENAI_API_KEY": "sk-o"}


def routing(environment=KEYS, **settings):
    return Routing(Model.model_validate(settings), environment=environment)


def endpoint(route):
    assert isinstance(route.upstream, Http)
    return route.upstream._endpoint


def test_the_lead_speaks_its_providers_own_protocol():
    told = {name: routing({**KEYS, "GEMINI_API_KEY": "g"}, lead=name).lead() for name in
            ("anthropic/claude-opus-5-5", "openai/gpt-6-sol", "google/gemini-2.5-pro")}  # fmt: skip
    assert [(route.name, route.protocol) for route in told.values()] == [
        ("claude-opus-5-5", "anthropic"),
        ("gpt-6-sol", "responses"),
        ("gemini-2.5-pro", "chat"),
    ]


def test_google_is_spoken_to_in_two_protocols_at_two_addresses_with_one_key():
    route = routing({"GEMINI_API_KEY": "g"}, allow=["google/*"]).inside("gemini-2.5-pro", "gemini")
    assert (route.provider, route.name, route.protocol) == ("google", "gemini-2.5-pro", "chat")
    assert route.speaks == {"chat", "gemini"}
    there = endpoint(route)
    assert (there.base, there.gemini, there.key) == (
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "https://generativelanguage.googleapis.com/v1beta",
        "g",
    )


@pytest.mark.parametrize(
    ("base", "gemini"),
    [
        ("http://h", "http://h/v1beta"),
        ("http://h/v1", "http://h/v1beta"),
        ("http://h/v1beta/openai/", "http://h/v1beta"),
        ("http://h/proxy/v1beta", "http://h/proxy/v1beta"),
    ],
)
def test_a_base_of_ones_own_serves_both(base, gemini):
    route = routing(allow=["google/*"], providers={"google": {"base": base, "key_env": "K"}}, environment={"K": "k"})
    assert endpoint(route.inside("gemini-2.5-pro", "gemini")).gemini == gemini


def test_googles_key_is_found_by_either_name_that_its_own_clients_know():
    def key(environment):
        return endpoint(routing(environment, allow=["google/*"]).inside("gemini-2.5-pro")).key

    assert key({"GOOGLE_API_KEY": "b"}) == "b"
    assert key({"GEMINI_API_KEY": "a", "GOOGLE_API_KEY": "b"}) == "a"
    with pytest.raises(UsageError, match="no key for google"):
        key({"OPENAI_API_KEY": "o"})


@pytest.mark.parametrize("name", ["gpt-5-mini", "claude-opus-5-5"])
def test_other_providers_are_not_spoken_to_in_gemini_and_the_refusal_says_in_what(name):
    with pytest.raises(Refused) as refused:
        routing(allow=["openai/*", "anthropic/*"]).inside(name, "gemini")
    assert "(gemini)" in refused.value.message
    assert refused.value.remedy in ("use chat or responses", "use anthropic")


def test_a_box_without_a_model_has_no_lead_and_no_worker():
    assert routing().lead() is None
    assert routing().worker() is None
    assert routing().names() == []


def test_the_worker_is_the_lead_where_none_is_named():
    one = routing(lead="anthropic/claude-opus-5-5")
    assert one.worker() is one.lead()
    two = routing(lead="anthropic/claude-opus-5-5", worker="openai/gpt-5-mini")
    assert two.worker().name == "gpt-5-mini"
    assert two.names() == ["claude-opus-5-5", "gpt-5-mini"]


@pytest.mark.parametrize("name", ["claude-opus-5-5", "anthropic/claude-opus-5-5"])
def test_a_model_may_be_called_with_or_without_its_provider(name):
    assert routing(lead="anthropic/claude-opus-5-5").inside(name, "anthropic").name == "claude-opus-5-5"


def test_what_allow_names_may_be_called_and_nothing_else():
    box = routing(lead="anthropic/claude-opus-5-5", allow=["openai/gpt-5*"])
    assert box.inside("gpt-5-mini", "chat").provider == "openai"
    assert box.inside("openai/gpt-5-mini", "responses").provider == "openai"
    for name in ("gpt-4.1", "claude-haiku-4-5", "../gpt-5", "", "*", "openai/*", "google/gpt-5-mini"):
        with pytest.raises(Refused) as raised:
            box.inside(name)
        assert raised.value.code == "unknown_model"


def test_a_name_is_looked_for_at_every_provider_that_is_allowed():
    box = routing(allow=["anthropic/*", "openai/*"])
    assert box.inside("gpt-5-mini").provider == "openai"
    assert box.inside("claude-opus-5-5").provider == "anthropic"
    with pytest.raises(Refused, match="gpt-0"):
        box.inside("gpt-0")


def test_a_model_is_not_spoken_to_in_a_protocol_that_it_does_not_know():
    box = routing(allow=["anthropic/*", "openai/*"])
    with pytest.raises(Refused, match="not spoken to in this protocol") as raised:
        box.inside("claude-opus-5-5", "chat")
    assert "use anthropic" in raised.value.remedy
    with pytest.raises(Refused):
        box.inside("gpt-5-mini", "anthropic")


def test_an_unknown_model_is_refused_before_anything_is_made():
    with pytest.raises(UsageError) as raised:
        routing(lead="openai/gpt-0").lead()
    assert raised.value.code == "unknown_model"


def test_a_model_with_a_price_of_the_operators_need_not_be_in_the_table():
    prices = {"openai/my-own": {"input": 1, "output": 2, "context": 9_000, "max_output": 500}}
    route = routing(lead="openai/my-own", prices=prices).lead()
    assert (route.price.context_window, route.price.max_output) == (9_000, 500)


# --- keys -------------------------------------------------------------------------------------------------------------------


def test_a_missing_key_names_its_variable():
    with pytest.raises(UsageError) as raised:
        routing({}, lead="anthropic/claude-opus-5-5").lead()
    assert raised.value.code == "missing_key"
    assert "set ANTHROPIC_API_KEY" in raised.value.remedy


def test_an_empty_key_is_a_missing_key():
    with pytest.raises(UsageError, match="no key"):
        routing({"OPENAI_API_KEY": " \n"}, lead="openai/gpt-5-mini").lead()


def test_a_key_comes_from_the_environment_or_a_file_and_is_sent_as_its_provider_wants_it(tmp_path):
    (tmp_path / "key").write_text("sk-file\n")
    from_file = {"openai": {"key_file": str(tmp_path / "key")}}
    assert endpoint(routing(lead="anthropic/claude-opus-5-5").lead()).key == "sk-a"
    assert endpoint(routing(lead="anthropic/claude-opus-5-5").lead()).key_header == "x-api-key"
    assert endpoint(routing(lead="openai/gpt-5-mini").lead()).key_header == "authorization"
    assert endpoint(routing(lead="openai/gpt-5-mini", providers=from_file).lead()).key == "sk-file"
    other = {"openai": {"key_env": "MINE"}}
    assert endpoint(routing({**KEYS, "MINE": "sk-m"}, lead="openai/gpt-5-mini", providers=other).lead()).key == "sk-m"


class Keyring:
    """The package of that name, with one entry."""

    @staticmethod
    def get_password(service, user):
        if service == "locked":
            raise RuntimeError("no backend")
        return {("gearcase", "openai"): "sk-ring"}.get((service, user))


def test_a_key_comes_from_the_keyring_and_a_keyring_that_gives_none_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", Keyring)
    entries = {"openai": {"keyring": "gearcase/openai"}}
    assert endpoint(routing({}, lead="openai/gpt-5-mini", providers=entries).lead()).key == "sk-ring"
    for entry, cause in (("gearcase/none", ""), ("locked/openai", "no backend")):
        with pytest.raises(UsageError) as raised:
            routing({}, lead="openai/gpt-5-mini", providers={"openai": {"keyring": entry}}).lead()
        assert raised.value.code == "missing_key" and cause in raised.value.cause
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(UsageError) as raised:
        routing({}, lead="openai/gpt-5-mini", providers=entries).lead()
    assert "gearcase[keyring]" in raised.value.remedy


def test_a_file_without_certificates_is_found_before_anything_is_sent(tmp_path):
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(UsageError) as raised:
        routing(lead="openai/gpt-5-mini", providers={"openai": {"ca": str(tmp_path / "ca.pem")}}).lead()
    assert raised.value.code == "bad_ca" and "ca.pem" in raised.value.message


def test_a_key_file_that_cannot_be_read_says_which(tmp_path):
    providers = {"openai": {"key_file": str(tmp_path / "none")}}
    with pytest.raises(UsageError) as raised:
        routing(lead="openai/gpt-5-mini", providers=providers).lead()
    assert raised.value.code == "missing_key"
    assert str(tmp_path / "none") in raised.value.remedy


def test_a_key_is_not_shown(tmp_path):
    route = routing(lead="openai/gpt-5-mini").lead()
    assert "sk-o" not in repr(endpoint(route))
    assert "sk-o" not in repr(route)


@pytest.mark.parametrize("base", ["http://127.0.0.1:8000", "http://localhost:8000/v1", "http://[::1]:8000/v1/"])
def test_a_server_of_this_machine_needs_no_key_and_a_base_without_path_means_v1(base):
    told = endpoint(routing({}, lead="openai/gpt-5-mini", providers={"openai": {"base": base}}).lead())
    assert told.key == ""
    assert told.base == base.rstrip("/").removesuffix("/v1") + "/v1"


@pytest.mark.parametrize("base", ["http://127.evil.example/v1", "http://localhost.evil.example/v1", "http://10.0.0.1/v1"])
def test_a_host_that_only_looks_like_this_machine_needs_a_key(base):
    with pytest.raises(UsageError, match="no key"):
        routing({}, lead="openai/gpt-5-mini", providers={"openai": {"base": base}}).lead()


def test_a_provider_without_a_known_address_must_be_described():
    with pytest.raises(UsageError) as raised:
        routing(lead="acme/model").lead()
    assert raised.value.code == "unknown_provider"
    described = {"acme": {"base": "https://acme.example/api", "protocol": "chat", "key_env": "ACME"}}
    prices = {"acme/model": {"input": 1, "output": 2}}
    route = routing({"ACME": "k"}, lead="acme/model", providers=described, prices=prices).lead()
    assert (route.protocol, endpoint(route).base) == ("chat", "https://acme.example/api")


# --- other upstreams --------------------------------------------------------------------------------------------------------


def test_a_compatible_server_is_named_by_its_address():
    route = routing({}, lead="http://127.0.0.1:8080/v1#qwen").lead()
    assert (route.name, route.protocol, endpoint(route).base) == ("qwen", "chat", "http://127.0.0.1:8080/v1")
    assert route.price.snapshot == "nominal"


def test_a_person_a_script_and_a_cassette_speak_every_protocol_at_a_nominal_price(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps([{"text": "hello"}]))
    script = routing(lead=f"scripted:{tmp_path / 's.json'}").lead()
    manual = routing(lead=f"manual:{tmp_path / 'm'}").lead()
    assert isinstance(script.upstream, Scripted)
    assert isinstance(manual.upstream, Manual)
    assert script.speaks == manual.speaks == {"anthropic", "chat", "responses", "gemini"}


def test_a_person_answers_where_nothing_is_given_to_the_box(tmp_path):
    (tmp_path / "given").mkdir()
    box = Routing(Model(lead=f"manual:{tmp_path / 'given' / 'm'}"), forbidden=[tmp_path / "given"])
    with pytest.raises(UsageError):
        box.lead()


def test_one_upstream_serves_all_models_of_a_provider():
    box = routing(allow=["openai/*"])
    assert box.inside("gpt-5-mini").upstream is box.inside("gpt-4.1").upstream
    asyncio.run(box.close())


def test_a_model_that_was_served_instead_has_its_own_price_or_none():
    box = routing(lead="openai/gpt-5-mini")
    assert box.price_of(box.lead(), "gpt-4.1").model == "gpt-4.1"
    assert box.price_of(box.lead(), "no such model") is None


def test_the_environment_is_looked_at_when_a_model_is_first_needed(tmp_path):
    environment = {}
    box = routing(environment, lead="openai/gpt-5-mini")
    environment["OPENAI_API_KEY"] = "sk-late"
    assert endpoint(box.lead()).key == "sk-late"
    assert "sk-late" not in os.environ.values()


# --- replays ----------------------------------------------------------------------------------------------------------------


def recorded(tmp_path, lead, model="gpt-5-mini", protocol="responses", path="/v1/responses"):
    about = {"key": "lead lead 0", "order": 0, "protocol": protocol, "path": path, "model": model, "of": "lead lead", "same": 0}
    call = {**about, "messages": [], "texts": {}, "status": 200, "headers": {}, "chunks": []}
    file = tmp_path / "a.cassette"
    file.write_text("".join(json.dumps(line) + "\n" for line in ({"cassette": "1.0", **lead}, call)))
    return Cassette(file)


def test_a_replay_has_the_recorded_models_with_their_price_and_window_and_needs_no_key(tmp_path):
    played = recorded(tmp_path, {"lead": "openai/gpt-5-mini", "worker": "anthropic/claude-haiku-4-5"})
    box = Routing(Model(lead="anthropic/claude-opus-5-5", allow=["openai/gpt-4.1"]), environment={}, played=played)
    direct = routing(lead="openai/gpt-5-mini").lead()
    assert (box.lead().name, box.lead().protocol, box.lead().price) == ("gpt-5-mini", "responses", direct.price)
    assert box.worker().name == "claude-haiku-4-5"
    others = [box.inside("gpt-4.1"), box.inside("claude-haiku-4-5"), box.lead()]
    assert {id(route.upstream) for route in others} == {id(played)}
    with pytest.raises(Refused):
        box.inside("claude-opus-5-5")


def test_a_replay_of_what_was_no_providers_speaks_as_recorded_at_a_nominal_price(tmp_path):
    played = recorded(tmp_path, {}, "manual", "anthropic", "/v1/messages")
    lead = Routing(Model(), environment={}, played=played).lead()
    assert (lead.name, lead.protocol, lead.price.snapshot, lead.upstream) == ("manual", "anthropic", "nominal", played)


def test_what_a_cassette_keeps_of_its_models_are_names_that_mean_the_same_elsewhere(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps([{"text": "hello"}]))
    box = routing(lead=f"scripted:{tmp_path / 's.json'}", worker="openai/gpt-5-mini")
    box.record(tmp_path / "b.cassette")
    box.lead()
    asyncio.run(box.close())
    assert json.loads((tmp_path / "b.cassette").read_text()) == {"cassette": "1.0", "worker": "openai/gpt-5-mini"}
