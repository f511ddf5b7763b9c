from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.retry_budget import RetryBudget

steps = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60), st.floats(0, 4)), max_size=60)


@given(steps, st.floats(0.0, 1.0), st.integers(0, 10))
def test_attempts_are_a_share_of_the_traffic(history: list[tuple[int, int, float]], share: float, least: int) -> None:
    """With a question at least every 4 s nothing is guessed: where a window has attempts the share holds for it and
    the one before."""
    budget, now = RetryBudget(share, 0.0, least=least, window_s=5.0), 0.0
    windows: list[tuple[int, int]] = [(0, 0)]
    began_s = 0.0
    for requests, wanted, pause_s in history:
        now += pause_s
        budget.requests += requests
        windows[-1] = (windows[-1][0] + requests, windows[-1][1])
        granted = 0
        for attempt in range(wanted + 1):
            if attempt == 0 and now - began_s >= 5.0:
                began_s = now
                windows.append((0, 0))
            granted += budget.grant(now)
        windows[-1] = (windows[-1][0], windows[-1][1] + granted)
    for one, other in zip([(0, 0), *windows], windows, strict=False):
        assert not other[1] or one[1] + other[1] <= least + share * (one[0] + other[0]) + 1


def test_a_failure_after_hours_of_peace_has_the_budget_of_the_last_seconds() -> None:
    budget = RetryBudget(0.2, 0.0, window_s=5.0)
    budget.requests += 500 * 3600
    assert sum(budget.grant(3600.0) for _ in range(5000)) == 10 + 500
    budget = RetryBudget(0.2, 0.0, window_s=5.0)
    budget.requests += 500
    assert sum(budget.grant(1.0) for _ in range(5000)) == 10 + 100


def test_a_quiet_router_may_retry() -> None:
    budget = RetryBudget(0.2, 0.0)
    assert sum(budget.grant(0.0) for _ in range(100)) == 10
    assert sum(budget.grant(20.0) for _ in range(100)) == 10, "that was long ago"


def test_no_share_is_no_attempt() -> None:
    budget = RetryBudget(0.0, 0.0, least=0)
    budget.requests += 10_000
    assert not budget.grant(1.0)
