"""Percentiles of latencies, against numpy's."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ops.load.percentiles import QUANTILES, figures, latency_of, moments, nearest_rank
from tests.unit.load_specs import outcomes_of

_latencies = st.lists(st.floats(0, 1e4, allow_nan=False), min_size=1, max_size=300)


@given(_latencies)
def test_percentiles_are_those_of_numpy(latency_s: list[float]) -> None:
    found = latency_of(np.array(latency_s))
    wanted = [np.percentile(np.array(latency_s) * 1000, 100 * q, method="inverted_cdf") for q in QUANTILES]
    assert np.array_equal(found.quantiles_ms, wanted)
    assert found.max_ms == max(latency_s) * 1000
    assert math.isclose(found.mean_ms, np.mean(latency_s) * 1000, rel_tol=1e-9, abs_tol=1e-12)


@given(st.integers(1, 100_000), st.sampled_from(QUANTILES))
def test_a_rank_leaves_the_right_share_above_it(count: int, quantile: float) -> None:
    rank = nearest_rank(quantile, count)
    assert 0 <= rank < count
    assert (rank + 1) / count >= quantile - 1e-9
    assert rank / count < quantile + 1e-9


@given(
    st.lists(
        st.tuples(st.floats(0, 9.99), st.floats(0, 100), st.sampled_from([-1, 0, 0, 5, 14]), st.integers(0, 3)),
        min_size=1,
        max_size=200,
    )
)
def test_every_request_is_counted_once(requests: list[tuple[float, float, int, int]]) -> None:
    requests.sort()
    due, taken, status, residency = (list(column) for column in zip(*requests, strict=True))
    group = [place % 2 for place in range(len(requests))]
    outcomes = outcomes_of(due, taken, status=status, residency=residency, group=group)
    every, *classes = figures(outcomes, ["a", "b"], 10.0)
    assert every.requests == len(requests) == sum(each.requests for each in classes)
    assert every.all.requests + sum(every.errors.values()) == len(requests)
    assert sum(kind.requests for kind in every.residency.values()) == every.all.requests
    seen = moments(outcomes, 0.0, 10.0)
    assert sum(each.requests for each in seen) == len(requests)
    assert sum(each.errors for each in seen) == sum(every.errors.values())
