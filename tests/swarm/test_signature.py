"""Failures that are alike have one signature, whatever differs between their items."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearcase.swarm.signature import MOST_CLUSTERS, Clusters, masked, signature_of
from gearcase.swarm.worker import Fault


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("line 12 of /srv/a/b.txt", "line 7 of /srv/c.log"),
        ("it begins 'It is 5'", 'it begins "Well, no"'),
        ("id 0xdeadbeef is gone", "id 0x12 is gone"),
        ("job 4f3a2b1c9d failed", "job 00aa11bb22 failed"),
        ("it begins 'cut", "it begins 'cut elsewhere"),
    ],
)
def test_what_differs_from_item_to_item_is_masked(left, right):
    assert masked(left) == masked(right)


def test_what_does_not_differ_is_kept():
    assert masked("the answer is not JSON") != masked("the answer is empty")
    level = Fault("content", "schema", "'x' is none of", path="/level", keyword="enum")
    other = Fault("content", "schema", "'y' is none of", path="/level", keyword="enum")
    assert signature_of(level) == signature_of(other)
    assert signature_of(level) != signature_of(Fault("content", "schema", "'x'", path="/time", keyword="enum"))


def test_the_stage_says_where_it_failed():
    stages = [
        signature_of(Fault("content", "unreadable", "x")).stage,
        signature_of(Fault("transient", "status_503", "x")).stage,
        signature_of(Fault("content", "not_json", "x")).stage,
        signature_of(Fault("content", "schema", "x")).stage,
    ]
    assert stages == ["input", "call", "answer", "schema"]


@given(st.text("'\"/0a.x \\", max_size=3000))
def test_masking_takes_little_time_whatever_it_is_given(text):
    began = time.process_time()
    masked(text)
    assert time.process_time() - began < 0.05


def test_clusters_are_the_largest_first_and_bounded():
    clusters = Clusters()
    for number in range(200):
        clusters.add(Fault("content", f"code_{'x' * number}", "m"), f"f:{number}")
    for _ in range(5):
        clusters.add(Fault("content", "code_", "m"), "f:late")
    largest = clusters.largest(1000)
    assert len(largest) == MOST_CLUSTERS + 1 and sum(cluster.count for cluster in largest) == 205
    assert largest[0].signature.code == "other" and largest[1].count == 6 and largest[1].shard == "f:0"
    assert largest[1].as_json() == {"count": 6, "first": "f:0", "stage": "answer", "code": "code_", "message": "m"}
