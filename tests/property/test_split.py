"""The split is sticky and monotone for entities, and even for requests that name none, whatever the numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.model import ModelVersion, Rollout, Runtime
from scorer.rollout_tally import RolloutTally
from scorer.split import position, turn_position
from scorer.trial import Trial

PERCENT = st.floats(0, 100)
NAME = st.text(max_size=40)


def version(name: str, rollout: Rollout | None = None) -> ModelVersion:
    return ModelVersion(name, f"package-{name}", "acme", "0" * 64, "0" * 64, Runtime.LIGHTGBM, 1, 1, rollout)


def is_canary(rollout_id: str, percent: float, key: str, tally: RolloutTally) -> bool:
    return Trial(version("1", Rollout(rollout_id, version("2"), percent)), tally, key).version.version == "2"


@given(NAME, NAME)
def test_a_place_is_one_of_the_hundred(rollout_id: str, key: str) -> None:
    assert 0 <= position(rollout_id, key) < 100
    assert position(rollout_id, key) == position(rollout_id, key)


@given(st.integers(0, 2**70))
def test_a_turns_place_is_one_of_the_hundred(turn: int) -> None:
    assert 0 <= turn_position(turn) < 100


@given(NAME, st.text(min_size=1, max_size=40), PERCENT, PERCENT, st.integers(0, 50))
def test_raising_the_percentage_only_adds(rollout_id: str, key: str, one: float, other: float, turns: int) -> None:
    tally = RolloutTally()
    low, high = sorted((one, other))
    before = is_canary(rollout_id, low, key, tally)
    for _ in range(turns):
        is_canary(rollout_id, low, "", tally)  # What others do moves nobody.
    assert is_canary(rollout_id, low, key, RolloutTally()) == before
    if before:
        assert is_canary(rollout_id, high, key, tally)


@given(NAME, st.text(max_size=40))
def test_none_at_zero_and_all_at_a_hundred(rollout_id: str, key: str) -> None:
    tally = RolloutTally()
    assert not is_canary(rollout_id, 0.0, key, tally)
    assert is_canary(rollout_id, 100.0, key, tally)


@given(PERCENT, st.integers(0, 10**9), st.integers(1, 3000))
def test_any_stretch_of_turns_has_its_share(percent: float, first: int, count: int) -> None:
    """Off by the order of log(n), where a coin would be off by the square root of n."""
    tally = RolloutTally()
    tally.turns = first
    found = sum(is_canary("r", percent, "", tally) for _ in range(count))
    assert abs(found - count * percent / 100) <= 3 + 2.1 * count.bit_length()
    assert tally.turns == first + count
