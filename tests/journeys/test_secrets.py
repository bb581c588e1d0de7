"""Credentials in what leaves: marked in record, report, manifest and journal, or refused, as the box says."""

import json

from tests import postgres_server
from tests.postgres_server import PASSWORD
from tests.redis_server import live

GITHUB = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0cD3fG6"


def runs(user, command, files="", code=0, out="out", **more):
    box = user.folder / "box.toml"
    box.write_text(f'[files]\ntake = ["out/**"]\n{files}\n')
    model = user.script({"commands": [f"mkdir out; {command}", "gear done --as-is"]})
    return user.types("run", "work", "-f", box, "--model", model, "--out", out, "--json", code=code, **more).record


def scanned(user):
    (one,) = [one for one in user.journal() if one["type"] == "deliverables_scanned"]
    return one


def test_a_token_that_leaves_is_marked_everywhere_and_told_nowhere(user):
    record = runs(user, f"printf 'a\\ntoken: {GITHUB}\\n' > out/notes.txt; echo fine > out/clean.txt")
    assert {one["path"]: one["flags"] for one in record["delivered"]} == {
        "out/clean.txt": [],
        "out/notes.txt": ["GitHub Token, line 2"],
    }
    assert record["status"] == "unverified"
    assert record["warnings"] == ["what leaves holds what looks like a credential: out/notes.txt:2 (GitHub Token)"]
    assert scanned(user)["found"] == [{"path": "out/notes.txt", "line": 2, "kind": "GitHub Token"}]
    assert scanned(user)["unscanned"] == ""
    manifest = json.loads((user.folder / "out.manifest.json").read_text())
    assert manifest["files"][1]["flags"] == ["GitHub Token, line 2"]
    report = user.types("report").out
    assert "GitHub Token, line 2" in report
    facts = [one for one in user.journal() if one["type"] in ("deliverables_scanned", "delivered", "run_ended")]
    assert not any(GITHUB in text for text in (json.dumps(record), json.dumps(facts), report, json.dumps(manifest)))


def test_a_clean_delivery_is_not_marked(user):
    record = runs(user, "seq 1000 > out/numbers.txt")
    assert record["warnings"] == [] and record["delivered"][0]["flags"] == []
    assert scanned(user)["found"] == [] and scanned(user)["unscanned"] == ""


def test_a_box_may_keep_such_files_inside_or_not_look(user):
    command = f"echo {GITHUB} > out/notes.txt; echo fine > out/clean.txt"
    record = runs(user, command, 'secrets = "refuse"')
    assert [one["path"] for one in record["delivered"]] == ["out/clean.txt"]
    assert record["refused"] == [{"path": "out/notes.txt", "reason": "holds a credential (GitHub Token, line 1)"}]
    assert not (user.folder / "out/out/notes.txt").exists() and (user.folder / "out/out/clean.txt").exists()


def test_a_box_that_does_not_look_says_nothing(user):
    record = runs(user, f"echo {GITHUB} > out/notes.txt", 'secrets = "off"')
    assert record["delivered"][0]["flags"] == [] and record["warnings"] == []
    assert not [one for one in user.journal() if one["type"] == "deliverables_scanned"]


def test_the_credential_of_a_door_is_found_by_its_value(user):
    """An agent does not know it; an API that echoes it in a way that no mask sees tells it all the same: here it is planted."""
    value = "acme-4711-of-no-known-form"
    (user.folder / "leak.txt").write_text(f"x\n{value}\n")
    door = '[doors.api.acme]\nupstream = "https://api.example.org"\nheaders = { Authorization = "Bearer ${ACME}" }\nallow = ["GET /**"]\n'
    record = runs(user, "cp leak.txt out/", f'give = ["leak.txt"]\n{door}', ACME=value)
    assert record["delivered"][0]["flags"] == ["credential of api.acme, line 2"]
    assert value not in json.dumps(record)


def test_the_password_of_a_source_is_found_by_its_value(user, tmp_path):
    value = "of-the-operator-4711"
    (user.folder / "leak.txt").write_text(f"x\n{value}\n")
    with live(tmp_path, password=value) as (_, port):
        door = f'[doors.redis.cache]\nfrom = "redis://127.0.0.1:{port}"\npassword_env = "CACHE_PASSWORD"\n'
        record = runs(user, "cp leak.txt out/", f'give = ["leak.txt"]\n{door}', CACHE_PASSWORD=value)
    assert record["delivered"][0]["flags"] == ["credential of redis.cache, line 2"]
    assert value not in json.dumps(record)


def test_the_password_of_a_database_is_found_by_its_value(user):
    (user.folder / "leak.txt").write_text(PASSWORD)
    with postgres_server.live() as server:
        server.sql(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'", "postgres", "postgres")
        for mode, role in (("branch", "owner"), ("read_only", "reader")):
            dsn = server.dsn.replace("owner@", f"{role}@")
            door = f'[doors.postgres.shop]\nmode = "{mode}"\nfrom = "{dsn}"\npassword_env = "SHOP_PASSWORD"\n'
            record = runs(user, "cp leak.txt out/", f'give = ["leak.txt"]\n{door}', out=f"out-{mode}", SHOP_PASSWORD=PASSWORD)
            assert record["delivered"][0]["flags"] == ["credential of postgres.shop, line 1"]


def test_the_key_of_the_model_is_found_by_its_value(user):
    (user.folder / "leak.txt").write_text(user.key)
    box = user.folder / "box.toml"
    with user.provides({"commands": ["mkdir out; cp leak.txt out/", "gear done --as-is"]}) as provider:
        box.write_text(
            f'[files]\ngive = ["leak.txt"]\ntake = ["out/**"]\n[model.providers.openai]\nbase = "{provider.base}/v1"\n'
        )
        ended = user.types(
            "run", "work", "-f", box, "--model", "openai/gpt-5-mini", "--out", "out", "--json", code=0, **user.keys
        )
    assert ended.record["delivered"][0]["flags"] == ["credential of model, line 1"]
    assert user.key not in ended.out
