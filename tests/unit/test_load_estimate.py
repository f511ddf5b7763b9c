"""What loads are thought to take, and whom that refuses."""

from __future__ import annotations

import pytest

from registry.errors import LoadQueueFullError, TooSlowError
from registry.model import ModelVersion, Runtime
from scorer.load_estimate import Forecast, LoadEstimate, refusal


def version(nbytes: int, runtime: Runtime = Runtime.LIGHTGBM) -> ModelVersion:
    return ModelVersion("1", "p", "acme", "", "", runtime, nbytes, nbytes)


def teach(estimate: LoadEstimate, count: int, *, slow: float = 1.0, from_disk: bool = False) -> None:
    """Loads of 10 to 90 kB: a fetch takes 5 ms and 0.1 us a byte, the engine 1 ms and 0.05 us a byte."""
    for number in range(count):
        nbytes = 10_000 + 20_000 * (number % 5)
        fetch_us, engine_us = slow * (5000 + 0.1 * nbytes), slow * (1000 + 0.05 * nbytes)
        estimate.learn(version(nbytes), from_disk=from_disk, fetch_us=fetch_us, engine_us=engine_us)


def test_it_learns_what_a_load_and_a_byte_take() -> None:
    estimate = LoadEstimate(4)
    teach(estimate, 20)
    for nbytes in (10_000, 50_000, 200_000):
        forecast = estimate.forecast(version(nbytes), on_disk=False)
        assert forecast is not None
        assert forecast.fetch_us == pytest.approx(5000 + 0.1 * nbytes)
        assert forecast.engine_us == pytest.approx(1000 + 0.05 * nbytes)
        assert estimate.cost_us(forecast) == pytest.approx(forecast.fetch_us / 4 + forecast.engine_us)


def test_nothing_is_known_before_some_loads_of_the_kind() -> None:
    estimate = LoadEstimate(4)
    teach(estimate, 4)
    assert estimate.forecast(version(10_000), on_disk=False) is None
    teach(estimate, 1)
    assert estimate.forecast(version(10_000), on_disk=False) is not None
    assert estimate.forecast(version(10_000), on_disk=True) is None
    assert estimate.forecast(version(10_000, Runtime.ONNX), on_disk=False) is None
    assert estimate.cost_us(None) > 0


def test_loads_of_one_size_are_no_line_but_a_mean() -> None:
    estimate = LoadEstimate(4)
    for took in (1000.0, 3000.0) * 10:
        estimate.learn(version(100), from_disk=True, fetch_us=took, engine_us=took)
    forecast = estimate.forecast(version(100), on_disk=True)
    assert forecast is not None
    assert 1800 < forecast.fetch_us < 2200


def test_it_never_says_less_than_nothing() -> None:
    """Larger ones that happened to be quicker, and ones with no latency to speak of."""
    estimate = LoadEstimate(4)
    for nbytes, took in [(1000, 5000.0), (100_000, 10.0)] * 5:
        estimate.learn(version(nbytes), from_disk=True, fetch_us=took, engine_us=nbytes * nbytes / 1000)
    for nbytes in (0, 1, 1000, 10_000_000):
        forecast = estimate.forecast(version(nbytes), on_disk=True)
        assert forecast is not None
        assert min(forecast) >= 0


def test_one_load_that_hung_does_not_make_all_look_hopeless_but_a_slow_store_is_believed() -> None:
    estimate = LoadEstimate(4)
    teach(estimate, 20)
    estimate.learn(version(50_000), from_disk=False, fetch_us=60e6, engine_us=3500)
    after = estimate.forecast(version(50_000), on_disk=False)
    assert after is not None
    assert after.fetch_us < 20_000
    teach(estimate, 40, slow=20.0)
    slow = estimate.forecast(version(50_000), on_disk=False)
    assert slow is not None
    assert slow.fetch_us > 15 * 10_000
    teach(estimate, 60)
    again = estimate.forecast(version(50_000), on_disk=False)
    assert again is not None
    assert again.fetch_us < 15_000, "it doesn't stay pessimistic"


FORECAST = Forecast(8_000.0, 2_000.0)


@pytest.mark.parametrize(
    ("left_us", "wait_us", "begun_us", "kind", "retry_after_ms"),
    [
        (11_000.0, 0.0, 0.0, None, 0),
        (9_000.0, 0.0, 0.0, TooSlowError, 10),
        (9_000.0, 5_000.0, 0.0, TooSlowError, 15),
        (11_000.0, 5_000.0, 0.0, LoadQueueFullError, 15),
        (16_000.0, 5_000.0, 0.0, None, 0),
        (9_000.0, 0.0, 2_000.0, None, 0),
        (7_000.0, 0.0, 2_000.0, TooSlowError, 8),
        (1.0, 0.0, 50_000.0, None, 0),
    ],
)
def test_who_can_not_be_served_in_time_is_told_why_and_when(
    left_us: float, wait_us: float, begun_us: float, kind: type[Exception] | None, retry_after_ms: int
) -> None:
    error = refusal(left_us, wait_us, begun_us, FORECAST)
    assert (type(error) if error else None) is kind
    assert (error.retry_after_ms if error else 0) == retry_after_ms
    assert refusal(left_us, wait_us, begun_us, None) is None, "without experience nobody is refused"
