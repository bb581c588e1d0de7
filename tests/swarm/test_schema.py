"""The part of JSON Schema that is checked agrees with the whole of it, and what is not checked is refused."""

import json
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearcase.errors import UsageError
from gearcase.swarm.schema import Schema

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.text("xyé", max_size=4))
VALUES = st.recursive(SCALARS, lambda more: st.lists(more, max_size=3) | st.dictionaries(NAMES, more, max_size=3), max_leaves=8)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])


def grown(more):
    keywords = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
        "enum": st.lists(SCALARS, min_size=1, max_size=3),
        "const": SCALARS,
        "minLength": st.integers(0, 3),
        "maxItems": st.integers(0, 2),
        "minProperties": st.integers(0, 2),
        "minimum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(-2, 2),
        "properties": st.dictionaries(NAMES, more, max_size=2),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "additionalProperties": more,
        "items": more,
        "anyOf": st.lists(more, min_size=1, max_size=2),
        "oneOf": st.lists(more, min_size=1, max_size=2),
        "allOf": st.lists(more, min_size=1, max_size=2),
    }
    return st.fixed_dictionaries({}, optional=keywords)


SCHEMAS = st.recursive(st.booleans() | st.just({}), grown, max_leaves=6)


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, VALUES)
def test_it_agrees_with_a_full_validator(part, value):
    source = {"type": "object", "properties": {"a": part}}
    ours = Schema.read(source).first_violation({"a": value})
    theirs = jsonschema.Draft202012Validator(source).is_valid({"a": value})
    assert (ours is None) == theirs, ours


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({}, "not an object"),
        ({"type": "array"}, "not an object"),
        ({"type": "object", "properties": {"a": {"$ref": "http://somewhere/x"}}}, "$ref is refused"),
        ({"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}}, "pattern is refused"),
        ({"type": "object", "patternProperties": {"(a+)+$": {}}}, "patternProperties is refused"),
        ({"type": "object", "if": {}}, "if is not checked"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "makes no sense"),
        ({"type": "object", "properties": {"a": {"enum": []}}}, "makes no sense"),
        ({"type": "object", "properties": {"a": {"minLength": -1}}}, "makes no sense"),
        ({"type": "object", "properties": {"a": 7}}, "a schema is"),
        ({"type": "object", "properties": {"a": {"enum": ["x" * 70_000]}}}, "over"),
    ],
)
def test_what_is_not_checked_is_refused_by_name(source, told):
    with pytest.raises(UsageError) as raised:
        Schema.read(source)
    assert raised.value.code == "bad_schema" and told in raised.value.message and raised.value.remedy


def test_nesting_is_bounded():
    source = {"type": "object"}
    for _ in range(50):
        source = {"type": "object", "properties": {"a": source}}
    with pytest.raises(UsageError, match="deep"):
        Schema.read(source)


def test_a_violation_names_place_and_keyword_and_not_the_position_in_a_list():
    source = {
        "type": "object",
        "properties": {"rows": {"type": "array", "items": {"type": "object", "required": ["level"]}}},
    }
    found = Schema.read(source).first_violation({"rows": [{"level": 1}, {}]})
    assert (found.path, found.keyword) == ("/rows/*/level", "required")


def test_what_is_hostile_to_a_validator_costs_little():
    part = {"anyOf": [{"type": "object"}, {"type": "string"}]}
    for _ in range(12):
        part = {"anyOf": [{"type": "object", "properties": {"a": part}}, {"type": "null"}]}
    value = {}
    for _ in range(12):
        value = {"a": value}
    rows = {"type": "object", "properties": {"rows": {"type": "array", "items": part}}}
    began = time.process_time()
    Schema.read(rows).first_violation({"rows": [value] * 500})
    assert time.process_time() - began < 2.0
    deep = json.loads('{"a":' * 500 + "1" + "}" * 500)
    assert Schema.read({"type": "object", "enum": [{"a": 1}]}).first_violation(deep).keyword == "enum"
