"""How long a supervisor waits before it starts a worker again. What it does with processes is in tests/chaos."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scorer.supervisor import pause_s


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer() -> None:
    assert [pause_s(ends) for ends in range(8)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]


@given(st.integers(0, 10**6))
def test_pauses_never_shrink_and_are_bounded(ends: int) -> None:
    assert 0.0 <= pause_s(ends) <= pause_s(ends + 1) <= 30.0
