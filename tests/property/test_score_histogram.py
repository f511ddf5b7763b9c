"""Laws of the buckets of scores."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from scorer.score_histogram import INFINITE, bucket

NUMBER = st.floats(allow_nan=False, width=64)


@given(st.lists(NUMBER, min_size=2, max_size=20))
def test_buckets_rise_with_the_scores(scores: list[float]) -> None:
    for low, high in pairwise(sorted(scores)):
        assert bucket(low) <= bucket(high)


@given(NUMBER)
def test_buckets_are_symmetric_and_few(score: float) -> None:
    assert bucket(-score) == -bucket(score)
    assert abs(bucket(score)) <= 600 or abs(bucket(score)) == INFINITE


@given(st.floats(2**-10, 2**60), st.floats(0, 2))
def test_a_bucket_is_at_most_an_eighth_wide(score: float, factor: float) -> None:
    if bucket(score * factor) == bucket(score):
        assert 1 / 1.126 < factor < 1.126
