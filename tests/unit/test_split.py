"""Places in the split: fixed for ever, and what they mean for a share; the laws are in tests/property/test_split.py."""

from __future__ import annotations

import pytest

from scorer.split import position, turn_position

PLACES = (80.52224729010628, 73.56685229148354, 36.30161023974531, 93.36077595047566)


def test_a_place_is_the_same_on_every_machine_and_in_every_release() -> None:
    """Were it to change, an update in the middle of a rollout would move entities from one version to the other."""
    assert position("r1", "customer-1") == pytest.approx(PLACES[0], abs=1e-9)
    assert position("r1", "customer-2") == pytest.approx(PLACES[1], abs=1e-9)
    assert position("r2", "customer-1") == pytest.approx(PLACES[2], abs=1e-9)
    assert position("", "é\0") == pytest.approx(PLACES[3], abs=1e-9)


def test_entities_spread_evenly() -> None:
    count = 20_000
    tenths = [0] * 10
    for number in range(count):
        tenths[int(position("rollout", f"customer-{number}") / 10)] += 1
    # Chi-square with 9 degrees of freedom: above 27.9 once in a thousand; the keys are always these.
    assert sum((found - count / 10) ** 2 / (count / 10) for found in tenths) < 27.9


def test_two_rollouts_draw_independently() -> None:
    keys = [f"customer-{number}" for number in range(10_000)]
    both = sum(position("a", key) < 30 and position("b", key) < 30 for key in keys)
    assert abs(both / len(keys) - 0.09) < 4 * (0.09 * 0.91 / len(keys)) ** 0.5


def test_turns_are_spread_so_that_no_period_meets_one_version_only() -> None:
    for period in range(1, 40):
        for first in range(period):
            turns = range(first, first + 2000 * period, period)
            share = sum(turn_position(turn) < 30 for turn in turns) / 2000
            assert abs(share - 0.3) < 0.02, (period, first)
