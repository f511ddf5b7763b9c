"""Cost curves: what is joined is cheaper, what is long is over the limit, and estimates come near what is seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scorer.cost_curve import LONG_US, MOST_ROWS, UNKNOWN, CostCurve, fit

_us = st.floats(0.05, 5000.0)
_curves = st.builds(CostCurve, _us, _us, st.floats(0.02, 500.0))


@given(_us, st.floats(0.02, 500.0), st.floats(0.05, 5000.0))
def test_a_curve_goes_through_what_was_measured(call_us: float, row_us: float, one_us: float) -> None:
    taken = {1: one_us, 2: call_us + 2 * row_us, 16: call_us + 16 * row_us}
    curve = fit(taken)
    for rows, us in taken.items():
        assert abs(curve.estimate_us(rows) - us) <= 1e-6 * us + 0.02


@given(st.lists(st.floats(0.0, 1e6), min_size=3, max_size=3))
def test_any_measurement_gives_a_curve(taken: list[float]) -> None:
    curve = fit(dict(zip((1, 2, 16), taken, strict=True)))
    assert 0 <= curve.batch_from <= 64
    assert 0 <= curve.short_rows <= MOST_ROWS
    assert fit({1: taken[0]}).batch_from == 0, "with one figure nothing is known of several rows"


@given(_curves)
def test_joining_pays_from_the_first_number_of_rows_at_which_it_is_cheaper(curve: CostCurve) -> None:
    saved = [rows * curve.one_us - curve.estimate_us(rows) for rows in range(2, 65)]
    if curve.batch_from:
        assert saved[curve.batch_from - 2] > 0
        assert all(more > 0 for more in saved[curve.batch_from - 2 :]), "and so with more"
    else:
        assert all(each < 0.1 * rows * curve.one_us + 2.0001 for rows, each in enumerate(saved, 2))


@given(_curves)
def test_short_is_what_is_thought_to_take_at_most_the_limit(curve: CostCurve) -> None:
    rows = curve.short_rows
    assert rows == 0 or curve.estimate_us(rows) <= LONG_US * 1.000001
    if rows < MOST_ROWS:
        assert curve.estimate_us(rows + 1) > LONG_US * 0.999999


@given(_curves, st.integers(1, 5000), st.floats(0.02, 50.0))
def test_an_estimate_comes_near_what_is_seen_again_and_again(curve: CostCurve, rows: int, times: float) -> None:
    took_us = max(curve.estimate_us(rows) * times, LONG_US)
    distances = []
    for _ in range(60):
        curve.learn(rows, took_us)
        distances.append(abs(curve.estimate_us(rows) - took_us))
    assert distances == sorted(distances, reverse=True) or distances[-1] < 1e-6 * took_us
    assert distances[-1] < 0.02 * took_us


@given(_curves, st.integers(1, 100), st.floats(0.0, LONG_US))
def test_what_turns_out_to_be_short_changes_nothing(curve: CostCurve, rows: int, took_us: float) -> None:
    before = curve.estimate_us(rows)
    curve.is_doubtful = True
    curve.check(rows, took_us)
    assert curve.estimate_us(rows) == before
    assert not curve.is_doubtful


def test_what_is_unknown_is_never_joined_and_never_long() -> None:
    for _ in range(100):
        UNKNOWN.check(1, 1e9)
        UNKNOWN.learn(10, 1e9)
    assert (UNKNOWN.batch_from, UNKNOWN.short_rows) == (0, MOST_ROWS)
