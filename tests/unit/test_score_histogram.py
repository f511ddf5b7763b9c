"""Buckets of scores, at their edges; what holds for every number is in tests/property/test_score_histogram.py."""

from __future__ import annotations

from math import inf, nan

import pytest

from scorer.score_histogram import INFINITE, NAN, bucket


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.0, 0),
        (-0.0, 0),
        (5e-324, 0),
        (2**-10 * 0.999, 0),
        (2**-10, 1),
        (2**-9 * 0.999, 8),
        (2**-9, 9),
        (0.5, 73),
        (0.5624, 73),
        (0.5625, 74),
        (0.999, 80),
        (1.0, 81),
        (-1.0, -81),
        (inf, INFINITE),
        (-inf, -INFINITE),
        (nan, NAN),
    ],
)
def test_edges(score: float, expected: int) -> None:
    assert bucket(score) == expected


def test_what_is_huge_shares_a_bucket() -> None:
    assert bucket(1.7e308) == bucket(2.0**64) > bucket(2.0**63)
    assert bucket(-1.7e308) == -bucket(1.7e308)


def test_a_shift_of_an_eighth_is_seen_in_any_unit() -> None:
    for unit in (0.01, 1.0, 37.0, 1e6, 1e12):
        assert bucket(unit * 1.13) != bucket(unit)
