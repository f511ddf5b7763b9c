from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.choice import LinkLoad
from router.hedge import Percentile, hedge_at, hedge_place

DISTRIBUTIONS: dict[str, Callable[[Random], float]] = {
    "uniform": lambda random: random.uniform(0.001, 0.002),
    "exponential": lambda random: random.expovariate(1000),
    "long tail": lambda random: random.lognormvariate(-7, 1.5),
    "two kinds": lambda random: 0.05 if random.random() < 0.1 else random.uniform(0.001, 0.002),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_twentieth_is_above_the_percentile(name: str, seed: int) -> None:
    random, percentile, above = Random(seed), Percentile(), 0
    for answer in range(25_000):
        seconds = DISTRIBUTIONS[name](random)
        above += answer >= 5000 and seconds > percentile.seconds
        percentile.observe(seconds)
    assert 0.04 <= above / 20_000 <= 0.06


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_it_follows_a_change(factor: float) -> None:
    random, percentile = Random(1), Percentile()
    for _ in range(3000):
        percentile.observe(random.uniform(0.001, 0.002))
    for _ in range(3000):
        percentile.observe(factor * random.uniform(0.001, 0.002))
    assert 0.0017 * factor <= percentile.seconds <= 0.0023 * factor


@given(st.lists(st.floats(1e-6, 10), max_size=300))
def test_nothing_is_hedged_before_enough_is_known_or_too_late(latencies: list[float]) -> None:
    percentile = Percentile()
    for seconds in latencies:
        percentile.observe(seconds)
    at = hedge_at(percentile, 100.0, 100.5)
    if len(latencies) < 100:
        assert at is None
    elif at is None:
        assert 100.0 + 2 * percentile.seconds > 100.5 - 1e-9
    else:
        assert min(latencies) * 0.5 < percentile.seconds
        assert at == 100.0 + percentile.seconds
        assert at + percentile.seconds <= 100.5


def test_a_hedge_that_would_answer_too_late_is_none() -> None:
    percentile = Percentile()
    for _ in range(100):
        percentile.observe(0.3)
    assert hedge_at(percentile, 100.0, 100.61) == 100.3
    assert hedge_at(percentile, 100.0, 100.59) is None


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 5)), min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
)
def test_a_hedge_goes_to_another_one_that_is_warm_and_well(
    states: list[tuple[bool, float, int]], tried: set[int]
) -> None:
    links, warm = [], [is_warm for is_warm, _, _ in states]
    for _, weight, in_flight in states:
        links.append(LinkLoad())
        links[-1].weight, links[-1].in_flight = weight, in_flight
    good = [
        place
        for place, (is_warm, weight, in_flight) in enumerate(states)
        if is_warm and weight == 1.0 and in_flight < 3 and place not in tried
    ]
    assert hedge_place(links, warm, sorted(tried), 3) == (good[0] if good else None)
