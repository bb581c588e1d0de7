"""What calls of a live account cost at least: an estimate from AWS's public prices per request in us-east-1, as published in 2025.

Storage, traffic, compute and what a resource costs while it stands are not in it; AWS's own bill is what counts.
"""

from __future__ import annotations

from gearcase.doors.aws.calls import Call

_PER_MILLION: dict[str, int] = {
    "s3:Get": 400_000_000,
    "s3:Head": 400_000_000,
    "s3:Delete": 0,
    "s3:": 5_000_000_000,
    "sqs:": 400_000_000,
    "sns:Publish": 500_000_000,
    "lambda:Invoke": 200_000_000,
    "dynamodb:Get": 125_000_000,
    "dynamodb:BatchGet": 125_000_000,
    "dynamodb:Query": 125_000_000,
    "dynamodb:Scan": 125_000_000,
    "dynamodb:Put": 625_000_000,
    "dynamodb:Update": 625_000_000,
    "dynamodb:BatchWrite": 625_000_000,
}
"""Beginnings of calls -> nano-dollars per million."""


def estimate(call: Call) -> int:
    """Nano-dollars that one call costs at least; 0 where no price per request is known."""
    known = [price for start, price in _PER_MILLION.items() if str(call).startswith(start)]
    return known[0] // 10**6 if known else 0
