"""The GitHub Action, executed here: its steps in their order, with the files and variables that a runner sets.

Only what GitHub itself does is left out: uploading the artifact, of which the step and its folder are looked at.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
CAPITALS = {"commands": ["mkdir -p out; tr a-z A-Z < words.txt > out/words.txt; gear done"]}
BOX = """
goal = "Write words.txt in capitals to out/words.txt"
[model]
lead = "{model}"
{provider}
[limits]
memory = "256MiB"
disk = "64MiB"
[files]
give = ["words.txt"]
take = ["out/**"]
"""
CHECK = '[[check]]\nname = "capitals"\nrun = "grep -qx \'[A-Z]*\' $DELIVERED/out/words.txt"\n'

pytestmark = pytest.mark.timeout(400)


class Job:
    """A job on a runner that uses the action."""

    def __init__(self, user, path):
        self.user = user
        self.temp = user.home / "runner"
        self.temp.mkdir()
        self.summary, self.path = self.temp / "summary.md", [path]
        self.outputs = {}
        self.uploaded = None
        self.skipped = []

    def uses(self, environment=None, **inputs):
        """Run every step; exit code of the job."""
        known = {name: one.get("default", "") for name, one in ACTION["inputs"].items()}
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert set(given) <= set(known)
        self.inputs = known | given
        code = 0
        for step in ACTION["runs"]["steps"]:
            if not self.wanted(step.get("if", "success()"), code):
                self.skipped.append(step["name"])
            elif "uses" in step:
                assert step["uses"] == "actions/upload-artifact@v4"
                self.uploaded = {key: self.filled(value) for key, value in step["with"].items()}
            else:
                code = self.executes(step, environment or {}) or code
        return code

    def wanted(self, condition, code):
        """The conditions that the action uses, as a runner of one's own decides them."""
        always = "always()" in condition
        parts = {
            "success()": code == 0,
            "always()": True,
            "runner.environment == 'github-hosted'": False,
            "steps.run.outputs.folder != ''": bool(self.outputs.get("run", {}).get("folder")),
        }
        return (always or code == 0) and all(parts[part.strip()] for part in condition.split("&&"))

    def filled(self, text):
        def value(match):
            kind, *rest = match[1].split(".")
            return self.inputs[rest[0]] if kind == "inputs" else self.outputs.get(rest[0], {}).get(rest[2], "")

        return re.sub(r"\$\{\{ ([a-z.-]+) \}\}", value, str(text))

    def executes(self, step, environment):
        assert "${{" not in step["run"], "an input in a script would be executed by the shell"
        files = {name: self.temp / f"{name}-{step.get('id', 'step')}" for name in ("GITHUB_OUTPUT", "GITHUB_PATH")}
        for file in (*files.values(), self.summary):
            file.touch()
        around = {
            **self.user.environment,
            "PATH": ":".join([*self.path, "/usr/local/bin", "/usr/bin", "/bin"]),
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(self.temp),
            **{name: str(file) for name, file in files.items()},
            **environment,
            **{name: self.filled(value) for name, value in step.get("env", {}).items()},
        }
        script = self.temp / "script.sh"
        script.write_text(step["run"])
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script]
        ended = subprocess.run(command, cwd=self.user.folder, env=around, capture_output=True, text=True)
        self.told = ended.stdout + ended.stderr
        told = [line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines()]
        self.outputs.setdefault(step.get("id", ""), {}).update(told)
        self.path = [*files["GITHUB_PATH"].read_text().splitlines(), *self.path]
        return ended.returncode

    def output(self, name):
        return self.filled(ACTION["outputs"][name]["value"])

    def artifact(self, name):
        return (Path(self.uploaded["path"]) / name).read_text()


@pytest.fixture
def job(user):
    (user.folder / "words.txt").write_text("hello\n")
    return Job(user, str(Path(sys.executable).parent))


def box(user, *steps, check=CHECK, model=None, provider=""):
    (user.folder / "box.toml").write_text(BOX.format(model=model or user.script(*steps), provider=provider) + check)


def test_an_accepted_run_is_a_green_job_with_summary_outputs_and_artifact(user, job):
    box(user, CAPITALS)
    assert job.uses(args="--name nightly --out 'the result'") == 0, job.told
    assert job.output("status") == "accepted" and job.output("run") == "nightly" and float(job.output("spent")) > 0
    assert (user.folder / "the result/out/words.txt").read_text() == "HELLO\n" and job.output("out").endswith("the result")
    summary = job.summary.read_text()
    assert "`accepted`" in summary and "| `capitals` | `passed` |" in summary and "- `out/words.txt`" in summary
    assert "Left behind: nothing" in summary
    assert job.uploaded["name"] == "gearcase" and json.loads(job.artifact("record.json"))["status"] == "accepted"
    assert "ACCEPTED" in job.artifact("report.txt")
    assert "unbroken" in user.types("journal", "verify", f"{job.uploaded['path']}/journal", code=0).out


def test_a_rejected_run_is_a_red_job_that_says_which_check_failed_and_still_has_its_report(user, job):
    box(user, {"commands": ["mkdir out; cp words.txt out", "gear done --as-is"]})
    assert job.uses() == 10
    assert job.output("status") == "rejected" and "| `capitals` | `failed` |" in job.summary.read_text()
    assert json.loads(job.artifact("record.json"))["exit_code"] == 10 and "REJECTED" in job.artifact("report.txt")


def test_a_box_without_a_check_does_not_start_unless_it_is_allowed_to(user, job):
    box(user, CAPITALS, check="")
    assert job.uses() == 2
    assert job.output("status") == "" and "did not start" in job.summary.read_text() and "no_checks" in job.summary.read_text()
    assert job.uses(require_checks="false") == 0 and job.output("status") == "unverified"


def test_a_cassette_is_played_without_a_key_at_the_recorded_verdict(user, job):
    with user.provides(CAPITALS) as provider:
        box(user, model="openai/gpt-5-mini", provider=f'[model.providers.openai]\nbase = "{provider.base}"')
        assert job.uses(user.keys, args="--record run.cassette --out first") == 0, job.told
        paid = job.output("spent")
    assert job.uses(cassette="run.cassette", args="--strict --out again") == 0, job.told
    assert job.output("status") == "accepted" and job.output("spent") == paid
    assert (user.folder / "again/out/words.txt").read_text() == "HELLO\n"


def test_nothing_in_an_input_is_executed_and_quotes_that_do_not_end_are_told(user, job):
    box(user, CAPITALS)
    assert job.uses(args="--name $(touch planted) ; touch planted") == 2
    assert job.uses(box="box.toml; touch planted") == 2
    assert job.uses(args="--name 'never ends") == 2 and "bad_arguments" in job.summary.read_text()
    assert not (user.folder / "planted").exists()


def test_what_the_agent_names_its_files_and_says_formats_nothing_in_the_summary(user, job):
    name = "out/`|\\n<img src=x>[a](http:evil)"
    commands = [
        "mkdir -p out; echo HELLO > out/words.txt",
        f"touch $'{name}'",
        "gear done --note $'# big `x`\\n::set-output name=a::b'",
    ]
    box(user, {"commands": commands})
    assert job.uses() == 0, job.told
    lines = job.summary.read_text().splitlines()
    (shown,) = [line for line in lines if "evil" in line]
    assert shown.startswith("- `out/'") and shown.endswith("`") and shown.count("`") == 2
    assert not [line for line in lines if line.startswith(("# ", "::"))]
    assert "a" not in job.outputs["run"]


def test_where_gearcase_is_missing_the_action_installs_the_version_it_was_taken_from(user, job):
    box(user, CAPITALS)
    job.path = []
    around = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    assert job.uses(around) == 0, job.told
    assert job.output("status") == "accepted"
    assert (job.temp / "gearcase-venv/bin/gearcase").exists()
