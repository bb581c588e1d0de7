"""The model door alone: programs outside any box, with the providers' own SDKs, against a provider that keeps a log.

The provider is a real server with the real key; a program has the door's token only.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import anthropic
import openai
import pytest

from gearcase.doors.model import pricing

ANTHROPIC, OPENAI = "claude-haiku-4-5", "gpt-5-mini"
ASK = {"model": ANTHROPIC, "max_tokens": 200, "messages": [{"role": "user", "content": "hi"}]}

pytestmark = pytest.mark.timeout(180)


class Opened:
    def __init__(self, process, facts):
        self.process = process
        self.facts = facts
        self.clients = []
        self.url, self.token, self.name = facts["url"], facts["token"], facts["name"]

    def anthropic(self, key=None):
        return self._kept(anthropic.Anthropic(base_url=self.url, api_key=key or self.token, max_retries=0))

    def openai(self, key=None):
        return self._kept(openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.token, max_retries=0))

    def _kept(self, client):
        self.clients.append(client)
        return client

    def get(self, path="/", body=None, **headers):
        """Status and body of a bare request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ends(self, how=signal.SIGINT):
        """End it; exit code and what it said on stderr."""
        self.process.send_signal(how)
        _out, told = self.process.communicate(timeout=30)
        return self.process.returncode, told


@contextmanager
def opened(user, *arguments, **environment):
    process = user.starts("door", "--json", *arguments, **{**user.keys, **environment})
    try:
        line = process.stdout.readline()
        assert line, process.communicate(timeout=20)
        door = Opened(process, json.loads(line))
        yield door
        for client in door.clients:
            client.close()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def box(user, provider, more=""):
    file = user.folder / "box.toml"
    base = f'base = "{provider.base}"'
    models = (
        f'[model]\nallow = ["anthropic/*", "openai/*", "google/*"]\n[model.providers.anthropic]\n{base}\n'
        f"[model.providers.openai]\n{base}\n[model.providers.google]\n{base}\n"
    )
    file.write_text(models + more)
    return file


def bill(provider):
    """Nano-dollars of all calls, by the provider's log."""
    owner = {ANTHROPIC: "anthropic", OPENAI: "openai"}
    prices = {model: pricing.find(provider, model) for model, provider in owner.items()}
    return sum(prices[one["model"]].cost(pricing.TokenUsage(**one["billed"])) for one in provider.calls())


def test_the_sdks_of_anthropic_and_openai_call_and_stream_and_pay_what_the_provider_bills(user):
    with user.provides({"text": "hello there"}) as provider, opened(user, "-f", box(user, provider), "--usd", "2") as door:
        said = door.anthropic().messages.create(**ASK)
        assert said.content[0].text == "hello there"
        with door.anthropic().messages.stream(**ASK) as stream:
            assert "".join(stream.text_stream) == "hello there"
        client = door.openai()
        asked = [{"role": "user", "content": "hi"}]
        assert client.chat.completions.create(model=OPENAI, messages=asked).choices[0].message.content == "hello there"
        assert client.responses.create(model=OPENAI, input="hi").output_text == "hello there"
        parts = client.chat.completions.create(model=OPENAI, messages=asked, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "hello there"
        code, told = door.ends()
        assert code == 0 and "in 5 calls" in told and f"gearcase report {door.name}" in told
        reported = user.types("report", door.name, "--json", code=0).record
        assert reported["status"] == "unverified" and reported["spent"]["calls"] == len(provider.calls()) == 5
        assert reported["spent"]["usd"] == bill(provider) > 0
        assert user.types("journal", "verify", door.name, code=0)


def test_environment_lines_to_copy_are_printed_once_and_the_token_is_nowhere_on_disk(user):
    with user.provides({"text": "hello"}) as provider:
        process = user.starts("door", "-f", box(user, provider), **user.keys)
        lines = [process.stdout.readline().strip() for _ in range(6)]
        around = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        addresses = ["ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "OPENAI_BASE_URL"]
        assert sorted(around) == sorted(["ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY", *addresses])
        program = f"import anthropic; print(anthropic.Anthropic().messages.create(**{ASK!r}).content[0].text)"
        done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **around}, capture_output=True, text=True)
        assert done.stdout == "hello\n", done.stderr
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=30)
        assert rest == "" and process.returncode == 0 and around["OPENAI_API_KEY"] not in told
    files = [file for file in user.home.rglob("*") if file.is_file()]
    assert files and not [file for file in files if around["OPENAI_API_KEY"].encode() in file.read_bytes()]


def test_when_the_money_is_spent_every_client_gets_402_and_nothing_more_is_billed(user):
    step = {"text": "On and on and on. " * 800}
    with user.provides(step) as provider, opened(user, "-f", box(user, provider), "--usd", "0.05") as door:
        greedy = {**ASK, "max_tokens": 4000}
        with pytest.raises(anthropic.APIStatusError) as refused:
            for _ in range(50):
                door.anthropic().messages.create(**greedy)
        assert refused.value.status_code == 402 and "is left" in refused.value.message
        billed = len(provider.calls())
        with pytest.raises(openai.APIStatusError) as refused:
            for _ in range(200):
                door.openai().chat.completions.create(model=OPENAI, messages=ASK["messages"])
        assert refused.value.status_code == 402
        code, told = door.ends()
        assert code == 0 and "limit reached: budget" in told
        spent = user.types("report", door.name, "--json", code=0).record["spent"]["usd"]
        assert billed <= len(provider.calls()) and spent == bill(provider) <= 50_000_000


def test_who_has_no_token_is_refused_in_the_protocols_own_words_and_reaches_no_provider(user):
    with user.provides({"text": "hello"}) as provider, opened(user, "-f", box(user, provider)) as door:
        for key in ("wrong", "only-a-token", user.key, door.token[:-1], door.token + "x"):
            with pytest.raises(anthropic.AuthenticationError) as refused:
                door.anthropic(key).messages.create(**ASK)
            assert refused.value.body["error"]["type"] and "gearcase door" in refused.value.message
            with pytest.raises(openai.AuthenticationError):
                door.openai(key).responses.create(model=OPENAI, input="hi")
        assert door.get()[0] == door.get("/v1/models")[0] == door.get("/v1/messages", ASK)[0] == 401
        large = {**ASK, "messages": [{"role": "user", "content": "x" * 8_000_000}]}
        assert door.get("/v1/messages", large)[0] == 401
        assert door.get("/v1/models", authorization=f"Bearer {door.token}")[0] == 200
        assert provider.calls() == []
    refusals = [one["code"] for one in user.journal(door.name) if one["type"] == "door_refused"]
    assert refusals.count("token") == len(refusals) == 14


def test_clients_of_gemini_show_the_token_as_they_show_their_key(user):
    ask = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    path = "/v1beta/models/gemini-2.5-flash:generateContent"
    with user.provides({"text": "hello"}) as provider, opened(user, "-f", box(user, provider)) as door:
        for key in ("wrong", user.key, ""):
            for status, told in (door.get(path, ask, x_goog_api_key=key), door.get(f"{path}?key={key}", ask)):
                assert status == 401 and json.loads(told)["error"]["status"] == "UNAUTHENTICATED"
        assert provider.calls() == []
        for status, told in (door.get(path, ask, x_goog_api_key=door.token), door.get(f"{path}?key={door.token}", ask)):
            assert status == 200 and json.loads(told)["candidates"][0]["content"]["parts"] == [{"text": "hello"}]
        assert len(provider.calls()) == 2
    assert not [one for one in user.journal(door.name) if door.token in json.dumps(one)]


def test_web_pages_are_refused_even_with_the_token(user):
    with user.provides({"text": "hello"}) as provider, opened(user, "-f", box(user, provider)) as door:
        port = door.url.rpartition(":")[2]
        for headers in (
            {"host": "evil.example"},
            {"host": f"evil.example:{port}"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
        ):
            status, told = door.get("/v1/messages", ASK, x_api_key=door.token, **headers)
            assert status == 403 and "this door" in told, headers
        assert provider.calls() == []
        for host in (f"localhost:{port}", "127.0.0.1", f"LOCALHOST:{port}", f"[::1]:{port}"):
            assert door.get("/v1/messages", ASK, x_api_key=door.token, host=host)[0] == 200


def asks_in_vain(door):
    with pytest.raises((OSError, http.client.HTTPException)):
        door.get("/v1/messages", ASK, x_api_key=door.token)


def test_a_door_that_was_killed_is_put_in_order_by_the_next_report(user):
    slow = {"text": "late", "fault": "slow", "delay": 30}
    with user.provides({"text": "hello"}, slow) as provider, opened(user, "-f", box(user, provider)) as door:
        door.anthropic().messages.create(**ASK)
        asking = threading.Thread(target=asks_in_vain, args=(door,))
        asking.start()
        deadline = time.monotonic() + 20
        while len(provider.calls()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        door.process.kill()
        door.process.wait()
        asking.join()
        reported = user.types("report", door.name, "--json").record
        assert reported["status"] == "failed" and reported["error"]["code"] == "supervisor_died"
        assert reported["spent"]["calls"] == 2 and reported["spent"]["usd"] > bill(provider) / 2
        assert [one["type"] for one in user.journal(door.name) if one["type"] in ("settled", "cut")] == [
            "settled",
            "cut",
            "settled",
        ]
        user.types("journal", "verify", door.name, code=0)
        user.types("report", door.name)


def test_what_is_told_of_a_door_is_true_of_a_door(user):
    with user.provides({"text": "hello"}) as provider, opened(user, "-f", box(user, provider), "--name", "alone") as door:
        door.anthropic().messages.create(**ASK)
        assert " OPEN " in user.types("report", "alone", code=0).out
        assert " open " in user.types("ps", code=0).out
        assert door.ends()[0] == 0
    told = user.types("report", "alone", code=0).out
    assert " CLOSED " in told and "each call is settled and on record" in told and "no limit" in told
    for of_a_run in ("check", "deliver", "steps", "command", "sandbox", "8784"):
        assert of_a_run not in told.replace(str(user.home), ""), told
    assert " closed " in user.types("ps", code=0).out
    log = user.types("logs", "alone", code=0).out
    assert "door" in log and "closed" in log and "unverified" not in log
    facts = user.types("report", "alone", "--json", code=0).record
    assert facts["kind"] == "door" and not {"wall", "steps"} & facts["limits"].keys()
    asked = user.types("door", "--help", code=0).out
    assert "May be called" in asked and "agent" not in asked and "gear ask" not in asked


def test_a_door_with_a_time_tells_it(user):
    arguments = ("--wall", "10m", "--name", "timed")
    with user.provides({"text": "hello"}) as provider, opened(user, "-f", box(user, provider), *arguments) as door:
        assert door.ends()[0] == 0
    assert "of 10m" in user.types("report", "timed", code=0).out


def test_two_doors_at_once_have_a_token_a_ledger_and_a_journal_each(user):
    with user.provides({"text": "hello"}) as provider:
        file = box(user, provider)
        with opened(user, "-f", file, "--name", "one") as one, opened(user, "-f", file, "--name", "two") as two:
            one.anthropic().messages.create(**ASK)
            two.anthropic().messages.create(**ASK)
            two.anthropic().messages.create(**ASK)
            with pytest.raises(anthropic.AuthenticationError):
                one.anthropic(two.token).messages.create(**ASK)
            seen = {run["name"]: run for run in json.loads(user.types("ps", "--json", code=0).out)}
            assert seen["one"]["pid"] == one.facts["pid"] and seen["two"]["state"] == "running"
            assert one.ends()[0] == two.ends()[0] == 0
        spent = [user.types("report", name, "--json", code=0).record["spent"]["calls"] for name in ("one", "two")]
        assert spent == [1, 2]


def test_a_token_is_worth_nothing_once_its_door_was_killed(user):
    """Hostile 36: what was captured is sent again, to the door that has the place of the old one. Control: the same token, given anew."""
    with user.provides({"text": "hello"}) as provider:
        file = box(user, provider)
        with opened(user, "-f", file, "--name", "first") as first:
            port, token = first.url.rpartition(":")[2], first.token
            assert first.get("/v1/messages", ASK, x_api_key=token)[0] == 200
            user.types("kill", "first", code=0)
            assert first.process.wait(timeout=20) == 12
        with opened(user, "-f", file, "--port", port, "--name", "second") as second:
            for name in ("x_api_key", "authorization"):
                key = token if name == "x_api_key" else f"Bearer {token}"
                assert second.get("/v1/messages", ASK, **{name: key})[0] == 401
            assert second.get("/v1/messages", ASK, x_api_key=second.token)[0] == 200
        assert len(provider.calls()) == 2
        with opened(user, "-f", file, "--port", port, "--token-env", "MINE", MINE=token) as third:
            assert third.get("/v1/messages", ASK, x_api_key=token)[0] == 200


def test_the_brake_stops_a_door_lets_it_go_on_and_ends_it_from_another_terminal(user):
    with user.provides({"text": "hello"}) as provider, opened(user, "-f", box(user, provider), "--name", "braked") as door:
        user.types("freeze", "braked", code=0)
        assert door.get("/v1/messages", ASK, x_api_key=door.token)[0] == 503
        user.types("resume", "braked", code=0)
        assert door.get("/v1/messages", ASK, x_api_key=door.token)[0] == 200
        user.types("kill", "braked", code=0)
        assert door.process.wait(timeout=20) == 12
        assert len(provider.calls()) == 1
        assert user.types("report", "braked", "--json").record["status"] == "stopped"
        assert "model_called" in user.types("logs", "braked", "--json", code=0).out


def test_a_door_ends_at_its_time_and_says_so(user):
    with user.provides({"text": "hello"}) as provider, opened(user, "-f", box(user, provider), "--wall", "2s") as door:
        assert door.process.wait(timeout=20) == 11
        assert "limit reached: wall" in door.process.stderr.read()


def test_dollars_in_a_minute_slow_the_callers_of_a_door_down(user):
    step = {"text": "On and on and on. " * 800}
    with user.provides(step) as provider:
        with opened(user, "-f", box(user, provider), "--usd", "5", "--usd-per-minute", "0.05") as door:
            statuses = [door.get("/v1/messages", {**ASK, "max_tokens": 4000}, x_api_key=door.token)[0] for _ in range(4)]
        assert statuses[0] == 200 and statuses[-1] == 429
        assert len(provider.calls()) == statuses.count(200) < 4


def test_a_door_that_cannot_open_says_why_and_leaves_no_run(user):
    with user.provides({"text": "hello"}) as provider:
        file = box(user, provider)
        assert "leads to no model" in user.types("door", code=2).err
        assert "is no token" in user.types("door", "-f", file, "--token-env", "T", code=2, T="short", **user.keys).err
        assert "is empty" in user.types("door", "-f", file, "--token-env", "T", code=2, **user.keys).err
        assert "no key for anthropic" in user.types("door", "-m", "anthropic/claude-haiku-4-5", code=2).err
        with opened(user, "-f", file, "--token-env", "T", T="a-token-of-my-own") as door:
            assert door.token == "a-token-of-my-own"
            port = door.url.rpartition(":")[2]
            assert f"port {port} of 127.0.0.1" in user.types("door", "-f", file, "--port", port, code=2, **user.keys).err
        assert len(json.loads(user.types("ps", "--all", "--json", code=0).out)) == 1
