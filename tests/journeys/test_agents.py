"""Programs that people use, unmodified, inside a box: a whole agent and the providers' own SDKs, against a provider that keeps a log.

Outside is a real server with the real key; inside there is only a token. What the run says it spent is what the provider's log comes to.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import pytest

PINS = Path(__file__).with_name("agents.txt")
ANTHROPIC, OPENAI = "claude-haiku-4-5", "gpt-5-mini"

pytestmark = pytest.mark.timeout(600)  # the first test of a machine installs the packages


@pytest.fixture(scope="session")
def agents():
    """A folder with the pinned packages, installed once on this machine, with the python that a box has."""
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    folder = Path(__file__).parents[2] / ".cache" / f"agents-{pins}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", folder], check=True)
            python = folder / "bin/python"
            install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--requirement", PINS]
            subprocess.run(install, check=True)
            # Boxes see it read-only: what they load is compiled here.
            around = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            load = "import anthropic, openai, minisweagent.run.mini, minisweagent.models.litellm_model"
            quiet = {"MSWEA_SILENT_STARTUP": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(folder)}
            subprocess.run([python, "-c", load], check=True, env={**around, **quiet})
            (folder / "complete").touch()
    return folder


def box(user, agents, provider, name, model, usd="1"):
    file = user.folder / "box.toml"
    file.write_text(
        textwrap.dedent(f"""
        [model]
        lead = "{name}/{model}"
        [model.providers.{name}]
        base = "{provider.base}"
        [limits]
        usd = {usd}
        memory = "2GiB"
        [files]
        see = ["{agents}"]
        take = ["out/**"]
        """)
    )
    return file


def inside(user, agents, provider, program, *, name="anthropic", model=ANTHROPIC, usd="1", code=0):
    """Run a Python program in a box; returns its record and what it printed."""
    (user.folder / "program.py").write_text(textwrap.dedent(program))
    command = [f"/given/{agents.name}/bin/python", "program.py"]
    return executed(user, box(user, agents, provider, name, model, usd), "--give", "program.py", "--", *command, code=code)


def executed(user, file, *arguments, code=0):
    """`gearcase exec` with the real keys in the environment outside."""
    ended = user.types("exec", "-f", file, "--json", *arguments, code=code, **user.keys)
    return ended.record, ended.err


def assert_same_money(user, record, provider, name):
    """The record, the report, the journal and the provider's log come to the same, to the nano-dollar."""
    settled = sum(one["amounts"].get("usd", 0) for one in user.journal() if one["type"] == "settled")
    reported = user.types("report", "--json", code=0).record["spent"]
    assert record["spent"] == reported
    assert record["spent"]["usd"] == settled == provider.billed(name) > 0
    assert record["spent"]["calls"] == len(provider.calls())


def mini(agents, model, task):
    """mini-swe-agent on a task, told nothing but the name of its model: address and token are the box's own."""
    settings = ["MSWEA_CONFIGURED=true", "LITELLM_LOCAL_MODEL_COST_MAP=True"]
    settings += ["MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT=1"]  # else it tries again for minutes, whatever the error says
    program = [f"/given/{agents.name}/bin/python", "-m", "minisweagent.run.mini", "--yolo", "--exit-immediately"]
    return ["env", *settings, *program, "-o", "/workspace/out/trajectory.json", "-m", model, "-t", task]


def test_mini_swe_agent_does_a_task_and_pays_what_the_provider_bills(user, agents):
    steps = [
        {"text": "I look.", "commands": ["cat words.txt"], "cached": 0.5},
        {"text": "I write.", "commands": ["mkdir -p out; tr a-z A-Z < words.txt > out/words.txt"], "cached": 0.5},
        {
            "text": "I compare, and look again.",
            "commands": ["diff -i words.txt out/words.txt", "cat out/words.txt"],
            "cached": 0.5,
        },
        {"text": "Done.", "commands": ["echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"]},
    ]
    (user.folder / "words.txt").write_text("hello\n")
    check = 'test "$(cat $DELIVERED/out/words.txt)" = HELLO'
    with user.provides(*steps) as provider:
        file = box(user, agents, provider, "openai", OPENAI)
        program = mini(agents, f"openai/{OPENAI}", "Write words.txt in capitals to out/words.txt")
        record, _ = executed(user, file, "--give", "words.txt", "--check", check, "--out", "result", "--", *program)
        assert record["status"] == "accepted" and record["residue"] == []
        assert (user.folder / "result/out/words.txt").read_text() == "HELLO\n"
        assert json.loads((user.folder / "result/out/trajectory.json").read_text())["info"]["exit_status"] == "Submitted"
        assert len(provider.calls()) == 4
        assert_same_money(user, record, provider, "openai")


def test_mini_swe_agent_that_is_out_of_money_ends_and_says_why(user, agents):
    with user.provides({"text": "On and on.", "commands": ["true"], "usage": {"input": 900, "output": 4000}}) as provider:
        file = box(user, agents, provider, "anthropic", ANTHROPIC, usd="0.06")
        program = mini(agents, f"anthropic/{ANTHROPIC}", "Go on for ever")
        record, _ = executed(user, file, "--out", "result", "--", *program, code=1)
        assert record["exit"] == 1 and record["residue"] == []
        info = json.loads((user.folder / "result/out/trajectory.json").read_text())["messages"][-1]
        assert "is left" in info["content"] and "[limits]" in info["content"]
        assert 0 < record["spent"]["usd"] <= 60_000_000
        assert_same_money(user, record, provider, "anthropic")
    refused = [one for one in user.journal() if one["type"] == "door_refused"]
    assert {one["code"] for one in refused} == {"budget"}


def test_the_sdk_of_anthropic_calls_streams_counts_and_uses_tools(user, agents):
    program = f"""
        import anthropic
        client = anthropic.Anthropic()
        ask = dict(model="{ANTHROPIC}", max_tokens=500, messages=[dict(role="user", content="hi")])
        print("plain", client.messages.create(**ask).content[0].text)
        with client.messages.stream(**ask) as stream:
            print("stream", "".join(stream.text_stream), stream.get_final_message().stop_reason)
        counted = client.messages.count_tokens(model=ask["model"], messages=ask["messages"])
        print("counted", counted.input_tokens > 0)
        tool = dict(name="bash", description="run", input_schema=dict(type="object", properties=dict(command=dict(type="string"))))
        used = client.messages.create(tools=[tool], **ask)
        print("tool", [one.input for one in used.content if one.type == "tool_use"])
    """
    steps = [{"text": "one"}, {"text": "two words", "pieces": 4}, {"text": "three", "commands": ["true"]}]
    with user.provides(*steps) as provider:
        record, told = inside(user, agents, provider, program)
        assert "plain one" in told and "stream two words end_turn" in told and "counted True" in told
        assert "tool [{'command': 'true'}]" in told
        assert_same_money(user, record, provider, "anthropic")


def test_the_sdk_of_openai_calls_streams_and_uses_tools_in_both_of_its_protocols(user, agents):
    program = f"""
        import openai
        client = openai.OpenAI()
        ask = dict(model="{OPENAI}", max_completion_tokens=2000, messages=[dict(role="user", content="hi")])
        print("chat", client.chat.completions.create(**ask).choices[0].message.content)
        chunks = client.chat.completions.create(stream=True, **ask)
        print("stream", "".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
        tool = dict(name="bash", description="run", parameters=dict(type="object", properties=dict(command=dict(type="string"))))
        used = client.chat.completions.create(tools=[dict(type="function", function=tool)], **ask)
        print("tool", used.choices[0].message.tool_calls[0].function.arguments)
        print("response", client.responses.create(model=ask["model"], input="hi", max_output_tokens=2000).output_text)
        with client.responses.stream(model=ask["model"], input="hi", max_output_tokens=2000) as stream:
            for event in stream:
                pass
            print("streamed", stream.get_final_response().output_text)
        used = client.responses.create(model=ask["model"], input="hi", tools=[dict(type="function", **tool)], max_output_tokens=2000)
        print("called", [(one.name, one.arguments) for one in used.output if one.type == "function_call"])
    """
    steps = [
        {"text": "one"},
        {"text": "two words", "pieces": 4},
        {"text": "three", "commands": ["true"]},
        {"text": "four"},
        {"text": "five words", "pieces": 3},
        {"text": "six", "commands": ["false"]},
    ]
    with user.provides(*steps) as provider:
        record, told = inside(user, agents, provider, program, name="openai", model=OPENAI)
        for said in (
            "chat one",
            "stream two words",
            'tool {"command":',
            "response four",
            "streamed five words",
            "called [('bash', ",
        ):
            assert said in told
        assert_same_money(user, record, provider, "openai")


def test_an_sdk_that_is_out_of_money_gets_402_and_the_provider_is_not_asked(user, agents):
    program = f"""
        import anthropic
        client = anthropic.Anthropic()
        while True:
            try:
                client.messages.create(model="{ANTHROPIC}", max_tokens=5000, messages=[dict(role="user", content="hi")])
            except anthropic.APIStatusError as error:
                print("refused", error.status_code, error.body["error"]["message"])
                break
    """
    with user.provides({"text": "ok", "usage": {"input": 20, "output": 4000}}) as provider:
        record, told = inside(user, agents, provider, program, usd="0.10")
        assert "refused 402" in told and "left" in told
        assert 0 < record["spent"]["usd"] <= 100_000_000
        assert_same_money(user, record, provider, "anthropic")
    assert [one["code"] for one in user.journal() if one["type"] == "door_refused"] == ["budget"], "it did not try again"


def test_the_key_is_nowhere_inside_and_any_token_will_do(user, agents):
    program = f"""
        import os, pathlib, subprocess, anthropic
        for token in ("token", "{"x" * 40}"):
            client = anthropic.Anthropic(api_key=token)
            client.messages.create(model="{ANTHROPIC}", max_tokens=50, messages=[dict(role="user", content="hi")])
        canary, found = "sk-canary" + "-4711", []
        pathlib.Path("/tmp/control").write_text(canary)
        control = subprocess.Popen(["sleep", "60"], env={{"CONTROL": canary}})
        places = [*pathlib.Path("/proc").glob("[0-9]*/environ"), *pathlib.Path("/proc").glob("[0-9]*/cmdline")]
        for top in ("/box", "/etc", "/home", "/tmp", "/workspace", "/run", "/var", "/dev/shm"):
            places += [pathlib.Path(folder, name) for folder, _, names in os.walk(top) for name in names]
        for place in places:
            try:
                if canary.encode() in place.read_bytes():
                    found.append(str(place).replace(str(control.pid), "PID"))
            except OSError:
                continue
        control.kill()
        print("found", sorted(found))
    """
    with user.provides() as provider:
        record, told = inside(user, agents, provider, program)
        assert "found ['/proc/PID/environ', '/tmp/control']" in told  # what the program itself has put there, and nothing else
        assert_same_money(user, record, provider, "anthropic")
        for key, status in (("only-a-token", 401), (user.key, 200)):  # outside, the token is worth nothing and the key is
            assert asked_outside(provider, key) == status
    kept = [file for file in (user.home / "state").rglob("*") if file.is_file()]
    assert kept and not [file for file in kept if user.key.encode() in file.read_bytes()]


def asked_outside(provider, key):
    """The status of a call that goes past the door."""
    body = json.dumps({"model": ANTHROPIC, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{provider.base}/v1/messages", body, {"x-api-key": key})) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
