"""What is counted of a rollout, and which version a trial goes through."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import (
    InvalidFeaturesError,
    MessageTooLargeError,
    ModelUnusableError,
    OverloadedError,
    StoreUnavailableError,
)
from registry.model import ModelVersion, Rollout, Runtime
from scorer.rollout_tally import CAPACITY, ArmTally, Buckets, RolloutTally, ShadowTally, Tallies
from scorer.score_histogram import INFINITE, NAN, bucket
from scorer.shadow import difference
from scorer.trial import Trial


def version(name: str, rollout: Rollout | None = None) -> ModelVersion:
    return ModelVersion(name, f"package-{name}", "acme", "0" * 64, "0" * 64, Runtime.LIGHTGBM, 1, 1, rollout)


def counts(tally: RolloutTally) -> tuple[int, int, int, int]:
    """Requests and errors of the alias's version, then of the canary."""
    return (tally.stable.requests, tally.stable.errors, tally.canary.requests, tally.canary.errors)


def trial(percent: float, tally: RolloutTally) -> Trial:
    return Trial(version("1", Rollout("r", version("2"), percent)), tally, "customer")


def test_an_arm_counts_scores_errors_and_buckets() -> None:
    arm = ArmTally()
    arm.scored([0.25, 0.5])
    arm.scored([nan, -inf, 0.25])
    arm.failed()
    assert (arm.requests, arm.errors, arm.score_sum, arm.score_count) == (3, 1, 1.0, 3)
    assert arm.buckets.counts() == {bucket(0.25): 2, bucket(0.5): 1, NAN: 1, -INFINITE: 1}


def test_a_shadow_counts_differences() -> None:
    shadow = ShadowTally()
    shadow.compared(0.5, 0.25, 4)
    shadow.compared(1.0, 0.75, 2)
    shadow.compared(0.0, 0.0, 1)
    shadow.failed()
    assert (shadow.requests, shadow.errors, shadow.score_count) == (4, 1, 7)
    assert (shadow.abs_difference_sum, shadow.abs_difference_max) == (1.5, 0.75)


def test_tallies_are_bounded_and_the_least_recently_used_leaves() -> None:
    tallies = Tallies()
    first = tallies.of(version("1"), Rollout("0"))
    for number in range(CAPACITY):
        tallies.of(version("1"), Rollout(str(number)))
    assert tallies.of(version("1"), Rollout("0")) is first
    tallies.of(version("1"), Rollout("new"))
    assert len(tallies) == CAPACITY
    assert tallies.find("0") is first
    assert tallies.find("1") is None


def test_a_tally_goes_with_its_tenant_or_a_package() -> None:
    tallies = Tallies()
    for name in ("canary", "shadow", "alone"):
        beside = {name: version("2")} if name != "alone" else {}
        tallies.of(version("1"), Rollout(name, beside.get("canary"), 1.0, beside.get("shadow")))
    tallies.forget("", {"package-2"})
    tallies.forget("umbrella", set())
    assert [tallies.find(name) is None for name in ("canary", "shadow", "alone")] == [True, True, False]
    tallies.forget("acme", set())
    assert len(tallies) == 0


def test_a_tally_is_small() -> None:
    """Twenty thousand of them are held."""
    tracemalloc.start()
    try:
        tallies = Tallies()
        for number in range(20):
            tally = tallies.of(version("1"), Rollout(str(number), version("2")))
            for arm in (tally.stable, tally.canary):
                arm.scored(score / 1000 for score in range(1000))
        each = tracemalloc.get_traced_memory()[0] / 20
    finally:
        tracemalloc.stop()
    assert len(tally.canary.buckets.counts()) == 64
    assert each < 6000


@given(st.lists(st.floats()))
def test_buckets_count_as_a_counter_does(scores: list[float]) -> None:
    buckets = Buckets()
    for score in scores:
        buckets.add(score)
    assert buckets.counts() == Counter(map(bucket, scores))


def test_a_model_without_a_rollout_has_one_version_and_is_not_counted() -> None:
    alone = Trial(version("1"))
    alone.outputs = [np.array([1.0])]
    assert not alone.is_canary
    alone.answered()
    assert not alone.failed(ModelUnusableError("broken"))


def test_each_version_counts_its_own_answers() -> None:
    tally = RolloutTally()
    for percent, scores in ((0.0, [[9.0, 0.25], [9.0, 0.75]]), (100.0, [[9.0, 0.5]])):
        one = trial(percent, tally)
        assert one.is_canary == bool(percent)
        one.outputs = [np.array(scores)]
        one.answered()
    assert counts(tally) == (1, 0, 1, 0)
    assert (tally.stable.score_sum, tally.stable.score_count) == (1.0, 2)  # the last column
    assert (tally.canary.score_sum, tally.canary.score_count) == (0.5, 1)


def test_of_many_rows_some_are_counted() -> None:
    tally = RolloutTally()
    one = trial(0.0, tally)
    one.outputs = [np.linspace(0.0, 1.0, 10_001)]
    one.answered()
    assert 32 <= tally.stable.score_count <= 64
    assert tally.stable.score_sum / tally.stable.score_count == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("error", [ModelUnusableError("broken"), RuntimeError("bug")])
def test_what_breaks_in_the_canary_is_counted_and_the_other_version_answers(error: Exception) -> None:
    tally = RolloutTally()
    one = trial(100.0, tally)
    assert one.failed(error)
    assert not one.is_canary
    one.outputs = [np.array([0.5])]
    one.answered()
    assert counts(tally) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    "error",
    [OverloadedError("full"), StoreUnavailableError("away"), TimeoutError(), MessageTooLargeError("large")],
)
def test_what_another_try_may_do_better_counts_for_nobody(error: Exception) -> None:
    tally = RolloutTally()
    one = trial(100.0, tally)
    assert one.failed(error)
    one.outputs = [np.array([0.5])]
    one.answered()
    assert not one.is_stable
    stable = trial(0.0, tally)
    assert not stable.failed(error)
    assert counts(tally) == (0, 0, 0, 0)


def test_features_that_only_the_canary_refuses_are_its_error() -> None:
    tally = RolloutTally()
    one = trial(100.0, tally)
    assert one.failed(InvalidFeaturesError("three features"))
    one.outputs = [np.array([0.5])]
    one.answered()
    assert counts(tally) == (0, 0, 1, 1)


def test_features_that_both_refuse_are_the_callers_fault() -> None:
    tally = RolloutTally()
    one = trial(100.0, tally)
    assert one.failed(InvalidFeaturesError("three features"))
    assert not one.failed(InvalidFeaturesError("three features"))
    assert counts(tally) == (0, 0, 0, 0)


@pytest.mark.parametrize("error", [ModelUnusableError("it refuses a NaN"), RuntimeError("bug")])
def test_what_breaks_in_both_is_the_callers_fault(error: Exception) -> None:
    tally = RolloutTally()
    one = trial(100.0, tally)
    assert one.failed(error)
    assert not one.failed(error)
    assert counts(tally) == (0, 0, 0, 0)


@pytest.mark.parametrize("broken", [True, False])
def test_a_canary_that_steps_aside_is_at_fault_only_when_it_is_broken(broken: bool) -> None:
    tally = RolloutTally()
    one = trial(100.0, tally)
    one.step_aside(broken=broken)
    assert not one.is_canary
    one.outputs = [np.array([0.5])]
    one.answered()
    assert counts(tally) == (0, 0, broken, broken)


def test_an_error_of_the_aliass_version_is_counted() -> None:
    tally = RolloutTally()
    assert not trial(0.0, tally).failed(ModelUnusableError("broken"))
    assert counts(tally) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("ours", "others", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0, 2)),
        ([1.0, 2.0, 3.0], [1.5, 2.0, 2.0], (1.5, 1.0, 3)),
        ([nan, inf, 1.0], [nan, inf, 1.25], (0.25, 0.25, 3)),
        ([nan], [1.0], None),
        ([1.0], [inf], None),
        ([inf], [-inf], None),
        ([1.0, 2.0], [1.0], None),
    ],
)
def test_difference(ours: list[float], others: list[float], expected: tuple[float, float, int] | None) -> None:
    assert difference(np.array(ours), np.array(others)) == expected
