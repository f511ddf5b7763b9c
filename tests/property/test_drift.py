"""Drift: chance alone is never taken for it, a shift always is, and who counted what doesn't matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.rollout.drift import BINS, Drift, bin_counts, compare

_SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda random, size: random.normal(size=size),
    "probabilities near 0": lambda random, size: random.beta(0.3, 20.0, size),
    "long tail": lambda random, size: random.lognormal(0.0, 2.0, size),
    "two values": lambda random, size: random.integers(0, 2, size).astype(float),
    "one value": lambda _random, size: np.full(size, 3.0),
    "mass at one value": lambda random, size: np.where(random.random(size) < 0.7, 0.0, random.normal(size=size)),
}
histograms = st.dictionaries(st.integers(-50, 50), st.integers(1, 1000), min_size=1, max_size=40)


def histogram(values: np.ndarray) -> dict[int, int]:
    """Eight buckets an octave of the distance from 0, a sign each."""
    numbers = np.where(values == 0, 0, np.sign(values) * np.maximum(1, np.round(8 * np.log2(1 + 1024 * abs(values)))))
    return dict(Counter(numbers.astype(int).tolist()))


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("stable", "canary"), [(50, 50), (200, 200), (5000, 200), (200, 5000)])
def test_equal_distributions_do_not_drift(shape: str, stable: int, canary: int) -> None:
    draw, found = _SHAPES[shape], 0
    for seed in range(500):
        random = np.random.default_rng([seed, stable, canary])
        found += compare(histogram(draw(random, stable)), histogram(draw(random, canary))).significant
    assert found == 0  # less than 1 in 1000 over all shapes and sizes: 12,000 pairs


@pytest.mark.parametrize(("stable", "canary"), [(300, 300), (20_000, 300), (300, 20_000)])
@pytest.mark.parametrize("shift", [-1.0, 1.0, 3.0])
def test_a_shift_is_found(stable: int, canary: int, shift: float) -> None:
    for seed in range(200):
        random = np.random.default_rng([seed, stable, canary])
        drift = compare(histogram(random.normal(size=stable)), histogram(random.normal(shift, size=canary)))
        assert drift.significant
        assert drift.psi > 0.25


def test_a_constant_answer_is_found() -> None:
    random = np.random.default_rng(1)
    drift = compare(histogram(random.normal(size=50_000)), histogram(np.zeros(200)))
    assert drift.significant
    assert drift.psi > 1


@given(histograms, histograms)
def test_the_bins_hold_everything_in_order(stable: dict[int, int], canary: dict[int, int]) -> None:
    bins = bin_counts(stable, canary)
    assert [sum(side) for side in zip(*bins, strict=True)] == [sum(stable.values()), sum(canary.values())]
    assert 1 <= len(bins) <= BINS
    n, m = sum(stable.values()), sum(canary.values())
    assert all((a / n + b / m) / 2 >= 0.4999 / BINS for a, b in bins)


@given(histograms, histograms, st.integers(-20, 20))
def test_only_the_order_of_the_buckets_counts(stable: dict[int, int], canary: dict[int, int], shift: int) -> None:
    moved = [{3 * bucket + shift: count for bucket, count in side.items()} for side in (stable, canary)]
    assert compare(*moved) == compare(stable, canary)


@given(histograms)
def test_nothing_drifts_from_itself(same: dict[int, int]) -> None:
    assert compare(same, same) == Drift(0.0, significant=False)
    assert compare(same, {}) == compare({}, same) == Drift(0.0, significant=False)
