"""The figures are worked out by hand from the published price: $1 per million is 1,000 nano-dollars a token."""

import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from genai_prices.data import providers as reference_providers
from genai_prices.data_snapshot import get_snapshot
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gearcase.doors.model import pricing
from gearcase.doors.model.pricing import TokenUsage
from gearcase.errors import Refused, UsageError

ROOT = Path(__file__).parents[3]

# (provider, model, usage, nano-dollars)
BY_HAND = [
    # Opus 5.5: $4 in, $20 out. 1,000 x 4,000 + 500 x 20,000 = 4,000,000 + 10,000,000
    ("anthropic", "claude-opus-5-5", TokenUsage(input=1_000, output=500), 14_000_000),
    # cache read $0.20: 120,000 x 200 = 24,000,000; + 12 x 4,000 = 48,000; + 650 x 20,000 = 13,000,000
    ("anthropic", "claude-opus-5-5", TokenUsage(input=12, cache_read=120_000, output=650), 37_048_000),
    # 5-minute write $5, 1-hour write $8: 3,000 x 5,000 + 2,000 x 8,000 + 7 x 4,000 + 1 x 20,000 = 15 M + 16 M + 48,000
    ("anthropic", "claude-opus-5-5", TokenUsage(input=7, cache_write_5m=3_000, cache_write_1h=2_000, output=1), 31_048_000),
    # batch is half of everything: 1,000 x 2,000 + 500 x 10,000 + 1,000 (1 h write) x 4,000
    ("anthropic", "claude-opus-5-5", TokenUsage(input=1_000, cache_write_1h=1_000, output=500, tier="batch"), 11_000_000),
    # fast: $8 in, $40 out
    ("anthropic", "claude-opus-5-5", TokenUsage(input=1_000, output=500, tier="fast"), 28_000_000),
    # Anthropic's "standard" and "priority" are the list price
    ("anthropic", "claude-opus-5-5", TokenUsage(input=1_000, output=500, tier="standard"), 14_000_000),
    ("anthropic", "claude-opus-5-5", TokenUsage(input=1_000, output=500, tier="priority"), 14_000_000),
    # two web searches at $10 per 1,000: 2 x 10,000,000; + 100 x 4,000 + 100 x 20,000
    ("anthropic", "claude-opus-5-5", TokenUsage(input=100, output=100, web_searches=2), 22_400_000),
    # Sonnet 4.5: $3 in up to 200,000 prompt tokens, $6 above; out $15, above $22.50; read $0.30, above $0.60
    # at exactly 200,000: 150,000 x 3,000 + 50,000 x 300 + 10 x 15,000 = 450,000,000 + 15,000,000 + 150,000
    ("anthropic", "claude-sonnet-4-5-20250929", TokenUsage(input=150_000, cache_read=50_000, output=10), 465_150_000),
    # one token more: 150,001 x 6,000 + 50,000 x 600 + 10 x 22,500 = 900,006,000 + 30,000,000 + 225,000
    ("anthropic", "claude-sonnet-4-5-20250929", TokenUsage(input=150_001, cache_read=50_000, output=10), 930_231_000),
    # GPT-5 mini: $0.25 in, $0.025 cached, $2 out; 320 of the 400 output tokens are reasoning, billed as output
    # 1,024 x 25 + 76 x 250 + 400 x 2,000 = 25,600 + 19,000 + 800,000
    ("openai", "gpt-5-mini", TokenUsage(input=76, cache_read=1_024, output=400, reasoning=320), 844_600),
    # priority: $0.45, $0.045, $3.60: 76 x 450 + 1,024 x 45 + 400 x 3,600 = 34,200 + 46,080 + 1,440,000
    ("openai", "gpt-5-mini", TokenUsage(input=76, cache_read=1_024, output=400, tier="priority"), 1_520_280),
    # flex: $0.125, $0.0125, $1: 76 x 125 + 1,024 x 12.5 + 400 x 1,000 = 9,500 + 12,800 + 400,000
    ("openai", "gpt-5-mini", TokenUsage(input=76, cache_read=1_024, output=400, tier="flex"), 422_300),
    # half nano-dollars are rounded up, once: 1 x 12.5 + 0 = 12.5 -> 13; 3 x 12.5 = 37.5 -> 38
    ("openai", "gpt-5-mini", TokenUsage(cache_read=1, tier="flex"), 13),
    ("openai", "gpt-5-mini", TokenUsage(cache_read=3, tier="flex"), 38),
    # a dated name; "default" is the standard tier
    ("openai", "gpt-5-mini-2025-08-07", TokenUsage(input=4, output=1, tier="default"), 3_000),
    # GPT-6 Sol: $2 in, $0.20 read, $2.50 written, $10 out; above 272,000: $4, $0.40, $5, $15
    # 1,000 x 2,000 + 2,000 x 2,500 + 3,000 x 200 + 10 x 10,000 = 2,000,000 + 5,000,000 + 600,000 + 100,000
    ("openai", "gpt-6-sol", TokenUsage(input=1_000, cache_write_5m=2_000, cache_read=3_000, output=10), 7_700_000),
    # 272,001 tokens in all: 72,001 x 4,000 + 200,000 x 400 + 10 x 15,000 = 288,004,000 + 80,000,000 + 150,000
    ("openai", "gpt-6-sol", TokenUsage(input=72_001, cache_read=200_000, output=10), 368_154_000),
    # batch below the threshold: $1 in, $5 out
    ("openai", "gpt-6-sol", TokenUsage(input=1_000, output=1_000, tier="batch"), 6_000_000),
    # DeepSeek V4 Flash at its dearest hour: $0.30 in, $0.006 read, $1.20 out: 10 x 300 + 1,000 x 6 + 10 x 1,200
    ("deepseek", "deepseek-v4-flash", TokenUsage(input=10, cache_read=1_000, output=10), 21_000),
    # a model that another provider offers: Azure's GPT-5 mini is OpenAI's price
    ("azure", "gpt-5-mini", TokenUsage(input=4, output=1), 3_000),
    # $1 and $1 per million and $12 per 1,000 requests: 12,000,000 + 10 x 1,000 + 10 x 1,000
    ("perplexity", "sonar", TokenUsage(input=10, output=10), 12_020_000),
]


@pytest.mark.parametrize(("provider", "model", "usage", "nano"), BY_HAND)
def test_a_recorded_usage_costs_what_it_costs_by_hand(provider: str, model: str, usage: TokenUsage, nano: int) -> None:
    assert pricing.find(provider, model, day=date(2026, 11, 20)).cost(usage) == nano


def test_an_announced_change_counts_from_its_day() -> None:
    usage = TokenUsage(input=1_000, output=1_000)
    # Gemini 4 Argon: $2 and $10, from 1 December $4 and $20
    assert pricing.find("google", "gemini-4-argon", day=date(2026, 11, 30)).cost(usage) == 12_000_000
    assert pricing.find("google", "gemini-4-argon", day=date(2026, 12, 1)).cost(usage) == 24_000_000


def test_a_clock_that_is_wrong_still_finds_a_price() -> None:
    assert pricing.find("google", "gemini-4-argon", day=date(1970, 1, 1)).cost(TokenUsage(input=1)) == 2_000


def test_an_unknown_service_tier_in_an_answer_costs_the_dearest() -> None:
    price = pricing.find("anthropic", "claude-opus-5-5")
    assert price.cost(TokenUsage(output=1, tier="express")) == price.cost(TokenUsage(output=1, tier="fast")) == 40_000


def test_a_tier_without_a_price_is_refused_before_it_is_sent() -> None:
    with pytest.raises(Refused) as caught:
        pricing.find("anthropic", "claude-opus-5-5").worst(1, 1, tier="express")
    assert caught.value.code == "unknown_tier"
    assert "standard" in caught.value.remedy


def test_a_tier_that_the_account_chooses_is_bounded_by_the_dearest() -> None:
    price = pricing.find("openai", "gpt-5-mini")
    assert price.worst(10, 10, tier="auto") == price.worst(10, 10, tier="priority") > price.worst(10, 10)


def test_a_request_for_a_cheap_tier_is_bounded_by_the_standard_one_that_may_serve_it() -> None:
    price = pricing.find("openai", "gpt-5-mini")
    assert price.worst(10, 10, tier="flex") == price.worst(10, 10)


def test_a_worst_case_contains_cache_writes_where_they_are_not_asked_for() -> None:
    # GPT-6 Sol writes its cache unasked at $2.50: 1,000 x 2,500; Opus 5.5 only when asked: 1,000 x 4,000, 5,000 or 8,000
    assert pricing.find("openai", "gpt-6-sol").worst(1_000, 0) == 2_500_000
    opus = pricing.find("anthropic", "claude-opus-5-5")
    worst = [opus.worst(1_000, 0, cache_write=kind) for kind in ("none", "5m", "1h")]
    assert worst == [4_000_000, 5_000_000, 8_000_000]


# --- bounds ----------------------------------------------------------------------------------------------------------------


ALL_PRICES = [price for provider in pricing.providers() for price in pricing.models(provider)]


@st.composite
def prices_of_the_table(draw: st.DrawFn) -> pricing.Price:
    return draw(st.sampled_from(ALL_PRICES))


INPUTS = st.one_of(st.integers(0, 3_000), st.integers(199_990, 200_010), st.integers(0, 2_000_000))


def writes(kind: str, price: pricing.Price, five: int, hour: int) -> tuple[int, int]:
    """The cache writes that can happen when `kind` was asked for."""
    if kind == "1h":
        return five, hour
    return (five, 0) if kind == "5m" or not price.asks_to_cache else (0, 0)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), price=prices_of_the_table(), kind=st.sampled_from(["none", "5m", "1h"]))
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(
    data: st.DataObject, price: pricing.Price, kind: pricing.CacheWrite
) -> None:
    five, hour = writes(kind, price, data.draw(INPUTS), data.draw(INPUTS))
    usage = TokenUsage(
        input=data.draw(INPUTS),
        cache_read=data.draw(INPUTS),
        cache_write_5m=five,
        cache_write_1h=hour,
        output=data.draw(INPUTS),
        reasoning=data.draw(INPUTS),
        web_searches=data.draw(st.integers(0, 3)),
    )
    asked = data.draw(st.sampled_from(["", "auto", *sorted(price.tiers)]))
    served = data.draw(st.sampled_from(["", asked] if asked != "auto" else ["", "express", *sorted(price.tiers)]))
    slack = data.draw(st.integers(0, 1_000_000))
    bound = price.worst(
        usage.total_input + slack, usage.output + slack, cache_write=kind, tier=asked, web_searches=usage.web_searches
    )
    assert price.cost(replace(usage, tier=served)) <= bound


@settings(max_examples=300, deadline=None)
@given(
    price=prices_of_the_table(),
    nano=st.integers(0, 10**12),
    input_tokens=INPUTS,
    kind=st.sampled_from(["none", "5m", "1h"]),
)
def test_the_output_that_money_can_pay_fits_and_one_token_more_does_not(
    price: pricing.Price, nano: int, input_tokens: int, kind: pricing.CacheWrite
) -> None:
    output = price.output_for(nano, input_tokens, cache_write=kind)
    if price.worst(input_tokens, 0, cache_write=kind) > nano:
        assert output == 0
        return
    assert price.worst(input_tokens, output, cache_write=kind) <= nano
    assume(price.worst(0, 10**9) > price.worst(0, 0))  # output that is free has no end
    assert price.worst(input_tokens, output + 1, cache_write=kind) > nano


def test_free_output_is_bounded_by_the_models_limit() -> None:
    free = pricing.find("house", "llama-x", {"llama-x": {"input": 0, "output": 0, "max_output": 2_000}})
    assert free.output_for(0, 1_000) == free.max_output == 2_000


# --- names -----------------------------------------------------------------------------------------------------------------


def names_to_try() -> list[tuple[str, str]]:
    """Every id of the reference, and of the well-known providers the dressings in which names come."""
    tails = ("-latest", "-20260901", "-2026-09-01", ":free", "@20260901", "-preview")
    dressed = ("anthropic", "openai", "google", "mistral", "deepseek", "groq", "x-ai", "azure")
    return [
        (one.id, model.id + tail)
        for one in reference_providers
        for model in one.models
        for tail in ("", *(tails if one.id in dressed else ()))
    ]


def test_names_resolve_as_in_the_reference() -> None:
    snapshot, different, known = get_snapshot(), [], 0
    priced = {(id, one.model) for id in pricing.providers() for one in pricing.models(id)}
    for provider, name in names_to_try():
        if provider not in pricing.providers():
            continue
        try:
            owner, model = snapshot.find_provider_model(name, None, provider, None)
            home = owner.id if model in owner.models else next(one.id for one in reference_providers if model in one.models)
            expected = model.id if (home, model.id) in priced else ""
        except LookupError:
            expected = ""
        try:
            found = pricing.find(provider, name).model
        except Refused:
            found = ""
        known += bool(found)
        if found != expected:
            different.append((provider, name, expected, found))
    assert different == []
    assert known > 2_000


def test_other_names_of_a_provider_are_understood() -> None:
    assert pricing.find("xai", "grok-4.3").id == "x-ai/grok-4.3"
    assert pricing.find("Anthropic", "Claude-Opus-5-5").id == "anthropic/claude-opus-5-5"
    assert pricing.find("openai", "gpt-5.2-20251211").id == "openai/gpt-5.2"


def test_an_unknown_model_is_refused_and_near_names_are_given() -> None:
    with pytest.raises(Refused) as caught:
        pricing.find("openai", "gpt-5-minni")
    assert caught.value.code == "unknown_model"
    assert "openai/gpt-5-mini" in caught.value.context["near"]
    assert "openai/gpt-5-mini" in caught.value.remedy


@pytest.mark.parametrize(("provider", "model"), [("opneai", "gpt-5-mini"), ("openai", ""), ("openai", "x" * 100_000), ("", "")])
def test_whatever_is_no_model_is_refused(provider: str, model: str) -> None:
    with pytest.raises(Refused) as caught:
        pricing.find(provider, model)
    assert caught.value.code == "unknown_model"
    assert len(str(caught.value)) < 500


def test_models_that_do_not_answer_in_text_are_not_in_the_table() -> None:
    for provider, model in [
        ("openai", "gpt-image-1.5"),
        ("openai", "gpt-realtime"),
        ("openai", "text-embedding-3-small"),
        ("openai", "whisper-1"),
    ]:
        with pytest.raises(Refused):
            pricing.find(provider, model)


def test_input_with_rates_of_its_own_is_named() -> None:
    assert "audio" in pricing.find("google", "gemini-2.5-flash").unpriced
    assert pricing.find("anthropic", "claude-opus-5-5").unpriced == ()


def test_every_model_has_an_output_limit_within_its_window() -> None:
    for price in ALL_PRICES:
        assert 0 < price.max_output <= (price.context_window or 1 << 30), price.id


# --- the operator's prices -------------------------------------------------------------------------------------------------


def test_the_operators_price_wins_for_dated_names_too() -> None:
    overrides = {"anthropic/claude-opus-5-5": {"input": 1, "output": "2.5", "cache_read": 0.1, "context": 50_000}}
    for name in ("claude-opus-5-5", "claude-opus-5-5-20260901"):
        price = pricing.find("anthropic", name, overrides)
        # 10 x 1,000 + 100 x 100 + 10 x 2,500
        assert price.cost(TokenUsage(input=10, cache_read=100, output=10)) == 45_000
        assert (price.context_window, price.snapshot) == (50_000, "operator")


def test_an_operator_can_price_a_model_that_nobody_knows() -> None:
    price = pricing.find("house", "llama-x", {"llama-x": {"input": 0.5, "output": 1}})
    # a cache write is taken at twice the input: 4 x 1,000 + 2 x 1,000
    assert price.cost(TokenUsage(cache_write_5m=4, output=2)) == 6_000
    assert price.max_output == 4_096


def test_a_limit_alone_keeps_the_tables_rates() -> None:
    price = pricing.find("openai", "gpt-5-mini", {"gpt-5-mini": {"max_output": 1_000}})
    assert price.max_output == 1_000
    assert price.cost(TokenUsage(input=4)) == 1_000
    assert "priority" in price.tiers


@pytest.mark.parametrize(
    "values",
    [
        {"input": 1},
        {"input": -1, "output": 1},
        {"input": "cheap", "output": 1},
        {"input": float("nan"), "output": 1},
        {"input": "1e-13", "output": 1},
        {"input": 1, "output": 1, "cashe_read": 1},
        {"context": 0},
        {"context": True},
        {"max_output": 1.5},
    ],
)
def test_an_override_that_is_no_price_says_what_to_write(values: dict[str, int | float | str]) -> None:
    with pytest.raises(UsageError) as caught:
        pricing.find("openai", "gpt-5-mini", {"gpt-5-mini": values})
    assert caught.value.code == "bad_price"
    assert "dollars per million" in caught.value.remedy


def test_a_limit_is_no_price_for_an_unknown_model() -> None:
    with pytest.raises(UsageError):
        pricing.find("house", "llama-x", {"llama-x": {"context": 1_000}})


def test_the_nominal_price_is_one_dollar_in_and_five_out() -> None:
    assert pricing.nominal("anything").cost(TokenUsage(input=1_000, output=1_000)) == 6_000_000


# --- the data --------------------------------------------------------------------------------------------------------------


def test_the_committed_table_is_what_the_pinned_packages_give() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "prices", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_snapshot_id_names_the_bytes_of_the_table() -> None:
    assert len(pricing.snapshot_id()) == 16
    assert pricing.find("openai", "gpt-5-mini").snapshot == pricing.snapshot_id()
