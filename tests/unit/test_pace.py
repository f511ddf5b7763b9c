"""When a slow shadow may be asked."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.pace import Pace

LIMIT_US = 5000.0


def pace(*seen: tuple[int, float]) -> Pace:
    """One that saw these calls, and has just tried a slow one."""
    made = Pace(LIMIT_US)
    for rows, took_us in seen:
        assert made.allows(rows, 0.0)
        made.saw(rows, took_us)
    if made.allows(10**9, 0.0):
        made.saw(10**9, 1e6)
    return made


@pytest.mark.parametrize(
    ("seen", "quick", "slow"),
    [
        ([(1, 100.0)], [1, 50], [51]),
        ([(1, 100.0), (40, 150.0)], [1333], [1334]),
        ([(1, 100.0), (40, 150.0), (2, 4000.0)], [2], [3, 40]),  # the model is slower than it was
        ([(1000, 6000.0)], [], [1, 1000]),
        ([(1000, 6000.0), (1000, 20.0)], [1, 1000], []),
    ],
)
def test_what_is_quick_is_told_from_what_was_seen(
    seen: list[tuple[int, float]], quick: list[int], slow: list[int]
) -> None:
    for rows in quick:
        assert pace(*seen).allows(rows, 1.0)
    for rows in slow:
        assert not pace(*seen).allows(rows, 1.0)


def test_a_slow_model_is_tried_less_and_less() -> None:
    slow = Pace(LIMIT_US)
    tries = []
    for now in range(400):
        if slow.allows(1, float(now)):
            tries.append(now)
            slow.saw(1, 300_000.0)
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses[:5] == [1, 5, 10, 20, 40]
    assert set(pauses[5:]) == {60}


def test_one_slow_call_of_a_quick_model_costs_nothing() -> None:
    quick = pace((1, 20.0))
    for now in range(100, 200):
        assert quick.allows(1, float(now))
        quick.saw(1, 8000.0 if now % 20 == 0 else 20.0)


@given(st.integers(0, 1000), st.integers(0, 1000), st.lists(st.integers(1, 5000), min_size=1))
def test_a_model_that_keeps_to_its_times_is_skipped_only_where_they_are_long_or_unknown(
    call_us: int, row_us: int, asked: list[int]
) -> None:
    steady = Pace(LIMIT_US)
    known: dict[int, int] = {}  # the last quick one of each order of magnitude
    for now, rows in enumerate(asked):
        took_us = call_us + row_us * rows
        allowed = steady.allows(rows, now / 1000)
        assert allowed or max(known.values(), default=0) < rows
        if allowed:
            steady.saw(rows, took_us)
            known[rows.bit_length()] = rows if took_us <= LIMIT_US else 0
