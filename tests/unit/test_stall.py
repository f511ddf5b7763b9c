"""When a link takes its scorer for stalled."""

from __future__ import annotations

import pytest

from router.hedge import Percentile
from router.stall import LEAST_PATIENCE_S, MOST_PATIENCE_S, StallWatch


def test_silence_is_answered_by_a_ping_and_then_it_is_a_stall() -> None:
    watch = StallWatch(Percentile())
    watch.expect(10.0)
    looks = [(now, watch.look(now, 9.9), watch.stalled) for now in (10.05, 10.13, 10.2, 10.24, 10.26, 10.5)]
    assert looks == [
        (10.05, False, False),
        (10.13, True, False),
        (10.2, False, False),
        (10.24, False, False),
        (10.26, True, True),
        (10.5, True, True),
    ]


def test_a_sign_of_life_ends_a_stall_and_new_items_do_not() -> None:
    watch = StallWatch(Percentile())
    watch.expect(10.0)
    watch.look(11.0, 9.0)
    watch.expect(11.0)
    watch.look(11.01, 9.0)
    assert watch.stalled
    watch.look(11.05, 11.02)
    assert not watch.stalled


def test_whoever_speaks_is_never_stalled() -> None:
    watch = StallWatch(Percentile())
    watch.expect(0.0)
    for step in range(1, 200):
        watch.look(step * 0.05, step * 0.05 - 0.1)
        assert not watch.stalled


@pytest.mark.parametrize(("batch_s", "patience_s"), [(0.001, LEAST_PATIENCE_S), (0.15, 0.6), (5.0, MOST_PATIENCE_S)])
def test_patience_follows_the_times_of_batches(batch_s: float, patience_s: float) -> None:
    p95 = Percentile()
    for _ in range(200):
        p95.observe(batch_s)
    assert StallWatch(p95).patience_s == pytest.approx(patience_s, rel=0.15)
