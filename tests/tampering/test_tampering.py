"""A journal that was tampered with: it is found, at the very record. More of the same is `scripts/tamper`."""

import json

import pytest

from gearcase.journal import Verification, verify
from tests.tampering import harness
from tests.tampering.harness import EACH, KINDS, SEED, Bench, Original


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cut"])
def test_what_was_touched_before_a_head_that_one_holds_is_found_at_that_record(bench, kind):
    print(f"seed {SEED}")
    done = bench.attempt(kind)
    assert (done.injected, done.found, done.exact, done.wrong) == (EACH, EACH, EACH, "")


def test_what_was_cut_off_after_that_head_is_not_found(bench):
    print(f"seed {SEED}")
    done = bench.attempt("cut")
    assert (done.injected, done.found, done.exact, done.wrong) == (EACH, 0, EACH, "")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cut"])
def test_the_command_names_the_record_and_exits_with_1(bench, kind):
    for number in range(3):
        original, first_bad = bench.draw(kind, number)
        done = bench.ask(original)
        assert (done.returncode, done.stdout.split(":")[0]) == (1, f"✗ record {first_bad}"), done.stdout + done.stderr
        done = bench.ask(original, "--json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["ok"], told["first_bad"], told["records"]) == (1, False, first_bad, first_bad - 1)


def test_the_command_says_that_a_cut_after_the_head_cannot_be_seen(bench):
    seen = set()
    for number in range(8):
        original, _ = bench.draw("cut", number)
        done = bench.ask(original)
        said = " ".join(done.stdout.split())
        assert done.returncode == 0, done.stdout + done.stderr
        if original.held:
            assert f"the head that you hold is record {original.held}'s; what was cut off the end after it" in said
        else:
            assert "what was cut off its end, or rewritten whole, cannot be seen without a head that you hold" in said
        assert "cannot be seen" in said
        seen.add(bool(original.held))
    assert seen == {True, False}


def test_without_the_sequence_of_the_head_only_its_own_record_at_the_very_end_is_told_as_the_next(bench):
    last = sum(len(segment) for segment in bench.segments)
    next_one = 0
    for number in range(EACH):
        original, first_bad = bench.draw("flip", number)
        proof = verify(bench.journal, original.head)
        at_the_end = first_bad == original.held == last and proof.first_bad == last + 1
        next_one += at_the_end
        assert proof.first_bad == first_bad or at_the_end, number
    assert next_one < EACH / 10


@pytest.mark.parametrize("behind", [1, 2])
def test_a_change_of_the_record_whose_head_is_held_is_told_from_one_of_the_link_after_it(bench, behind):
    """Near the end, where no later record vouches for the one that has the link."""
    last = sum(len(segment) for segment in bench.segments)
    original = Original(bench.segments, last - behind)
    for seq, word in ((original.held, b'"seq":'), (original.held + 1, b'"prev":"')):
        lines = original.lines
        place = lines[seq - 1].rindex(b'"time":') + 10 if word == b'"seq":' else lines[seq - 1].rindex(word) + 20
        lines[seq - 1] = lines[seq - 1][:place] + bytes([lines[seq - 1][place] ^ 1]) + lines[seq - 1][place + 1 :]
        bench.write(original.shared_out(lines))
        for at in (0, original.held):
            assert verify(bench.journal, original.head, at).first_bad == seq


def test_as_it_was_written_it_verifies_with_every_head(bench):
    for held in (0, 1, 200, 422, 423):
        original = Original(bench.segments, held)
        proof = verify(bench.journal, original.head, held)
        assert (proof.ok, proof.records, proof.held) == (True, 423, held)
    assert bench.ask(original).returncode == 0, "its accounts and commands add up"


def test_a_verifier_that_finds_nothing_would_be_seen(bench, monkeypatch):
    """A positive control."""
    monkeypatch.setattr(harness, "verify", lambda *_: Verification(True, 423, "", 0, "", 0))
    done = bench.attempt("flip")
    assert (done.injected, done.found, done.exact) == (EACH, 0, 0) and done.wrong
