"""When a failed attempt is tried on another member."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.retry import RetryPolicy

_UNAVAILABLE = 14


@pytest.mark.parametrize(
    ("code", "attempts", "candidates", "left_s", "wanted"),
    [
        (_UNAVAILABLE, 1, 3, 1.0, True),
        (_UNAVAILABLE, 2, 3, 1.0, True),
        (_UNAVAILABLE, 3, 3, 1.0, False),
        (_UNAVAILABLE, 3, 9, 1.0, False),
        (_UNAVAILABLE, 1, 1, 1.0, False),
        (_UNAVAILABLE, 1, 3, 0.001, False),
        (_UNAVAILABLE, 1, 3, -1.0, False),
        (8, 1, 3, 1.0, False),
        (13, 1, 3, 1.0, False),
        (4, 1, 3, 1.0, False),
    ],
)
def test_table(code: int, attempts: int, candidates: int, left_s: float, wanted: bool) -> None:
    assert RetryPolicy().may_retry(code, attempts, candidates, 100.0, 100.0 + left_s) is wanted


@given(
    st.integers(1, 10),
    st.integers(0, 16),
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0, 1e6),
    st.floats(-10, 10),
)
def test_never_too_often_too_late_or_for_another_failure(
    max_attempts: int, code: int, attempts: int, candidates: int, now: float, left_s: float
) -> None:
    policy = RetryPolicy(max_attempts)
    if policy.may_retry(code, attempts, candidates, now, now + left_s):
        assert code == _UNAVAILABLE
        assert attempts < max_attempts
        assert attempts < candidates
        assert left_s > 0
        assert policy.left_s(now, now + left_s) > 0


@given(st.integers(1, 10), st.integers(0, 20))
def test_a_member_is_never_asked_more_often_than_allowed(max_attempts: int, candidates: int) -> None:
    policy, attempts = RetryPolicy(max_attempts), 1
    while policy.may_retry(_UNAVAILABLE, attempts, candidates, 0.0, 1e9):
        attempts += 1
    assert attempts == max(1, min(max_attempts, candidates))
