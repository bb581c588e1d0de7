"""A run as OpenTelemetry spans: sent to a receiver that speaks OTLP over HTTP, and as a file, through the installed command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gearcase import events as e
from gearcase.events import Event
from gearcase.journal import Journal

PROGRAM = str(Path(sys.executable).with_name("gearcase"))
SECRETS = (
    "the goal of the run",
    "the goal of a helper",
    "grep secret",
    "what it printed",
    "refused because",
    "said by the model",
)


def called(call: int, hold: int, ended: str = "complete", status: int = 200, billed: bool = True, **usage: int) -> Event:
    why = "refused because" if ended != "complete" else ""
    return e.ModelCalled(
        call, hold, "anthropic", "claude-haiku-4-5", "claude-haiku-4-5-1", status, ended, usage, 2.0, 0.5, billed=billed, why=why
    )


def held(number: int, billed_by: str = "anthropic/claude-haiku-4-5") -> Event:
    return e.Held(number, "lead", {"usd": 900, "calls": 1}, "", billed_by)


HAPPENED: tuple[tuple[str, Event], ...] = (
    ("", e.RunStarted("ab12cd34", "amber-fox", SECRETS[0], "b0", "0.1.0", "boot", {})),
    ("lead", e.AgentStarted("claude-haiku-4-5", SECRETS[0])),
    ("lead", held(1)),
    ("lead", e.Sent(1)),
    ("lead", e.Settled(1, "lead", {"usd": 410, "calls": 1})),
    ("lead", called(1, 1, input=10, cache_read=20, cache_write_5m=30, cache_write_1h=40, output=7, reasoning=5)),
    ("lead", e.AgentTurn(1, SECRETS[5], 1)),
    ("a1", e.AgentSpawned("lead", "helper", SECRETS[1], "claude-haiku-4-5", 1, {"usd": 500}, 0, 0)),
    ("a1", held(2, "google/gemini-3")),
    ("a1", e.Sent(2)),
    ("a1", e.Cut(2, "no usage")),
    ("a1", called(2, 2, "failed", 500)),
    ("a2", e.AgentSpawned("a1", "deeper", SECRETS[1], "claude-haiku-4-5", 2, {"usd": 100}, 0, 0)),
    ("a2", held(3, "")),
    ("a2", e.Settled(3, "a2", {"usd": 5, "calls": 1})),
    ("a2", called(3, 3, billed=False, input=1, output=1)),
    ("a2", e.AgentReturned("a1", "done", "", "", "", {"usd": 5}, 1, 1.0)),
    ("a1", e.AgentReturned("lead", "failed", "", SECRETS[4], "", {"usd": 905}, 1, 1.0)),
    ("lead", e.CommandStarted(1, SECRETS[2])),
    ("lead", e.CommandEnded(1, "exited", 0, 1.5, 1.25, 12, SECRETS[3], "")),
    ("lead", e.CommandStarted(2, SECRETS[2])),
    ("lead", e.CommandEnded(2, "deadline", 137, 1.5, 1.25, 12, SECRETS[3], "")),
    ("", e.RunEnded("accepted", {})),
)


def on_disk(state: Path, *happened: tuple[str, Event]) -> Path:
    folder = state / "gearcase/runs/ab12cd34"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "run.json").write_text(json.dumps({"id": "ab12cd34", "name": "amber-fox", "goal": "g", "created": 1.0}))
    journal = Journal.create(folder / "journal")
    for agent, event in happened:
        journal.append(event, agent)
    journal.close()
    return folder / "journal/000001.jsonl"


def export(state: Path, *arguments: str, program: tuple[str, ...] = (PROGRAM,), **more: str) -> subprocess.CompletedProcess[str]:
    around = {**os.environ, "XDG_STATE_HOME": str(state), "COLUMNS": "100", "NO_PROXY": "*", **more}
    command = [*program, "journal", "export", *arguments]
    return subprocess.run(command, env=around, capture_output=True, text=True, timeout=60)


class Receiver(ThreadingHTTPServer):
    """A receiver of OTLP over HTTP. `spans` are all that came, by their ids."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.spans: dict[bytes, Span] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status, self.answer = 200, ExportTraceServiceResponse()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans.values() if span.name == name]


class _Taking(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans |= {span.span_id: span for span in scope.spans}
        answer = self.server.answer.SerializeToString()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def told(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def test_a_receiver_gets_the_tree_of_agents_with_their_calls_and_commands(tmp_path: Path, receiver: Receiver) -> None:
    on_disk(tmp_path, *HAPPENED)
    ended = export(tmp_path, "amber", "--otel", receiver.address)
    assert ended.returncode == 0, ended.stderr
    assert "8 spans" in ended.stdout
    assert [path for path, _ in receiver.asked] == ["/v1/traces"]
    assert len({span.trace_id for span in receiver.spans.values()}) == 1
    (run,) = receiver.named("invoke_agent amber-fox")
    (helper,) = receiver.named("invoke_agent helper")
    (deeper,) = receiver.named("invoke_agent deeper")
    assert (run.parent_span_id, helper.parent_span_id, deeper.parent_span_id) == (b"", run.span_id, helper.span_id)
    calls = {told(span)["gearcase.call"]: span for span in receiver.named("chat claude-haiku-4-5")}
    parents = {number: call.parent_span_id for number, call in calls.items()}
    assert parents == {1: run.span_id, 2: helper.span_id, 3: deeper.span_id}
    assert {span.parent_span_id for span in receiver.named("execute_tool shell")} == {run.span_id}
    assert all(run.start_time_unix_nano <= span.end_time_unix_nano <= run.end_time_unix_nano for span in receiver.spans.values())
    assert calls[1].end_time_unix_nano - calls[1].start_time_unix_nano == 2_000_000_000


def test_spans_have_the_names_of_the_conventions_and_money_is_ours(tmp_path: Path, receiver: Receiver) -> None:
    on_disk(tmp_path, *HAPPENED)
    assert export(tmp_path, "--otel", f"{receiver.address}/v1/traces").returncode == 0
    calls = {told(span)["gearcase.call"]: span for span in receiver.named("chat claude-haiku-4-5")}
    first = told(calls[1])
    assert (
        first.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-haiku-4-5",
            "gen_ai.response.model": "claude-haiku-4-5-1",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.cache_read.input_tokens": 20,
            "gen_ai.usage.cache_write.input_tokens": 70,
            "gen_ai.usage.output_tokens": 7,
            "gen_ai.usage.reasoning.output_tokens": 5,
            "gearcase.cost.nano_usd": 410,
            "gearcase.cost.certain": True,
            "gearcase.billed": True,
        }.items()
    )
    assert calls[1].kind == Span.SPAN_KIND_CLIENT and calls[1].status.code == Status.STATUS_CODE_UNSET
    failed = told(calls[2])
    assert (failed["gen_ai.provider.name"], failed["error.type"]) == ("gcp.gemini", "500")
    assert (failed["gearcase.cost.nano_usd"], failed["gearcase.cost.certain"]) == (900, False), "it counts at its worst case"
    assert "gen_ai.usage.input_tokens" not in failed and calls[2].status.code == Status.STATUS_CODE_ERROR
    assert told(calls[3])["gen_ai.provider.name"] == "gearcase", "nobody bills it"
    commands = [told(span) for span in receiver.named("execute_tool shell")]
    assert [(one["gen_ai.operation.name"], one["gen_ai.tool.name"], one["gen_ai.tool.call.id"]) for one in commands] == [
        ("execute_tool", "shell", "1"),
        ("execute_tool", "shell", "2"),
    ]
    assert [(one["process.exit.code"], one.get("error.type")) for one in commands] == [(0, None), (137, "deadline")]
    run, helper = (told(receiver.named(f"invoke_agent {name}")[0]) for name in ("amber-fox", "helper"))
    assert (run["gen_ai.agent.name"], run["gen_ai.request.model"]) == ("amber-fox", "claude-haiku-4-5")
    assert (run["gearcase.status"], run["gearcase.cost.nano_usd"]) == ("accepted", 410 + 900 + 5)
    assert (helper["error.type"], helper["gearcase.cost.nano_usd"]) == ("failed", 905)


def test_no_text_of_the_run_leaves(tmp_path: Path, receiver: Receiver) -> None:
    segment = on_disk(tmp_path, *HAPPENED)
    assert all(text in segment.read_text() for text in SECRETS)
    assert export(tmp_path, "--otel", receiver.address).returncode == 0
    assert export(tmp_path, "--otel", str(tmp_path / "spans.json")).returncode == 0
    sent = "".join(map(str, receiver.spans.values())) + (tmp_path / "spans.json").read_text()
    assert "amber-fox" in sent and not [text for text in SECRETS if text in sent]


def test_exported_again_a_run_gives_the_same_spans(tmp_path: Path, receiver: Receiver) -> None:
    on_disk(tmp_path, *HAPPENED)
    for _ in range(2):
        assert export(tmp_path, "--otel", receiver.address).returncode == 0
    assert (len(receiver.asked), len(receiver.spans)) == (2, 8)


def test_a_file_holds_the_same_spans_in_otlps_json_and_needs_no_extra(tmp_path: Path, receiver: Receiver) -> None:
    on_disk(tmp_path, *HAPPENED)
    without = "import sys; sys.modules['google.protobuf'] = None; from gearcase.cli import main; sys.exit(main())"
    bare = (sys.executable, "-c", without)
    ended = export(tmp_path, "--otel", str(tmp_path / "spans.json"), "--json", program=bare)
    assert json.loads(ended.stdout) == {"spans": 8, "to": str(tmp_path / "spans.json")}, ended.stderr
    (line,) = (tmp_path / "spans.json").read_text().splitlines()
    (resource,) = json.loads(line)["resourceSpans"]
    spans = resource["scopeSpans"][0]["spans"]
    assert export(tmp_path, "--otel", receiver.address).returncode == 0
    assert {(one["spanId"], one.get("parentSpanId", ""), one["name"], one["endTimeUnixNano"]) for one in spans} == {
        (one.span_id.hex(), one.parent_span_id.hex(), one.name, str(one.end_time_unix_nano)) for one in receiver.spans.values()
    }
    assert "cannot write" in export(tmp_path, "--otel", str(tmp_path / "spans.json")).stderr, "what is there stays"
    missing = export(tmp_path, "--otel", receiver.address, program=bare)
    assert missing.returncode == 2 and "pip install 'gearcase[otel]'" in missing.stderr


def test_many_spans_are_sent_in_batches_and_headers_are_read_as_every_exporter_reads_them(
    tmp_path: Path, receiver: Receiver
) -> None:
    many = [("lead", event) for n in range(1, 700) for event in (e.CommandStarted(n, ""), HAPPENED[19][1].but(command=n))]
    on_disk(tmp_path, HAPPENED[0], *many)
    ended = export(tmp_path, "--otel", receiver.address, OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20b,authorization=Basic%20eA==")
    assert ended.returncode == 0, ended.stderr
    assert (len(receiver.asked), len(receiver.spans)) == (2, 700)
    assert (receiver.asked[0][1]["x-key"], receiver.asked[0][1]["authorization"]) == ("a b", "Basic eA==")
    assert export(tmp_path, "--otel", receiver.address, OTEL_EXPORTER_OTLP_HEADERS="nothing").returncode == 2


def test_a_receiver_that_does_not_take_them_is_told_with_what_to_do(tmp_path: Path, receiver: Receiver) -> None:
    on_disk(tmp_path, *HAPPENED)
    receiver.status = 401
    ended = export(tmp_path, "--otel", receiver.address, "--json")
    error = json.loads(ended.stdout)["error"]
    assert (ended.returncode, error["code"]) == (13, "export")
    assert "status 401" in error["cause"] and error["remedy"]
    receiver.status = 200
    receiver.answer.partial_success.rejected_spans = 3
    receiver.answer.partial_success.error_message = "too old"
    assert "3 spans were rejected: too old" in export(tmp_path, "--otel", receiver.address).stderr
    receiver.shutdown()
    receiver.server_close()
    assert "did not take the spans" in export(tmp_path, "--otel", receiver.address).stderr
    assert "--otel" in export(tmp_path).stderr


def test_a_run_that_died_ends_where_it_died_and_a_damaged_one_is_not_exported(tmp_path: Path) -> None:
    died = (*HAPPENED[:13], ("", e.RunResumed("boot")), ("", e.RunEnded("failed", {})))
    segment = on_disk(tmp_path, *died)
    assert export(tmp_path, "--otel", str(tmp_path / "a.json")).returncode == 0
    records = [json.loads(line) for line in segment.read_text().splitlines()]
    spans = json.loads((tmp_path / "a.json").read_text())["resourceSpans"][0]["scopeSpans"][0]["spans"]
    ends = {one["name"]: int(one["endTimeUnixNano"]) for one in spans if one["name"].startswith("invoke")}
    assert set(ends) == {"invoke_agent amber-fox", "invoke_agent helper", "invoke_agent deeper"}
    assert {round(end / 1000) for end in ends.values()} == {round(records[12]["time"] * 1_000_000)}
    segment.write_text(segment.read_text() + "nothing\n")
    assert "journal_damaged" in export(tmp_path, "--otel", str(tmp_path / "b.json")).stderr
    assert not (tmp_path / "b.json").exists()


def test_every_command_of_the_page_works(tmp_path: Path, receiver: Receiver) -> None:
    segment = on_disk(tmp_path, *HAPPENED[:-1], ("", e.RunEnded("accepted", {"spent": {"usd": 1315}})))
    head = json.loads(segment.read_text().splitlines()[4])["prev"]
    page = (Path(__file__).parents[2] / "docs/journal.md").read_text()
    blocks = re.findall(r"^```sh\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    around = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path),
        "NO_PROXY": "*",
        "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}",
    }
    printed = ""
    for block in blocks:
        script = block.replace("http://localhost:4318", receiver.address).replace("0123456789abcdef", head)
        ran = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=around, capture_output=True, text=True, timeout=100)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        printed += ran.stdout
    assert "0.00000041" in printed and "deadline" not in printed and '"hold": 1' in printed
    assert len(receiver.spans) == 8 and (tmp_path / "spans.json").exists()
