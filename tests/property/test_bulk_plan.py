"""The plan of a bulk rollout: fixed by its id, whole, and staged."""

from __future__ import annotations

from collections import Counter
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidRequestError
from registry.manifest import AliasRecord, decode, encode
from registry.model import ModelRef
from registry.rollout.bulk_plan import (
    DEFAULT_STAGES,
    BulkMove,
    BulkPlan,
    Selection,
    Standing,
    check_selection,
    check_stages,
    in_order,
    is_over,
    parse_conditions,
    stage_slices,
    standing,
    usable,
)

names = st.text("abcdef", min_size=1, max_size=3)
moves = st.lists(st.builds(BulkMove, names, names, names, names), max_size=40, unique_by=lambda move: move.ref)
stages = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6, unique=True).map(sorted)


@given(names, moves, st.randoms(use_true_random=False))
def test_the_order_is_fixed_by_the_id(bulk_id: str, todo: list[BulkMove], random: Random) -> None:
    shuffled = list(todo)
    random.shuffle(shuffled)
    assert in_order(bulk_id, shuffled) == in_order(bulk_id, todo)
    assert sorted(in_order(bulk_id, todo), key=lambda m: m.ref) == sorted(todo, key=lambda m: m.ref)


def test_a_stage_is_a_fair_sample() -> None:
    todo = [BulkMove(f"t{number % 10}", f"m{number}", "1", "2") for number in range(10_000)]
    first = Counter(move.tenant for move in in_order("spring", todo)[:1000])
    assert all(70 <= count <= 130 for count in first.values())  # 100 wanted, a deviation of 9
    assert in_order("spring", todo)[:1000] != in_order("summer", todo)[:1000]


@given(st.integers(0, 5000), stages)
def test_stages_follow_each_other_and_reach_their_percentage(total: int, percents: list[float]) -> None:
    slices = stage_slices(total, check_stages(percents))
    assert len(slices) == len(percents)
    end = 0
    for part, percent in zip(slices, percents, strict=True):
        assert part.start == end
        end = part.stop
        assert total * percent / 100 <= end + 1e-6
        assert end < total * percent / 100 + 1 + 1e-6
    assert percents[-1] < 100 or end == total
    assert total == 0 or slices[0].stop >= 1


def test_default_stages() -> None:
    assert check_stages(()) == DEFAULT_STAGES
    assert [part.stop for part in stage_slices(1000, DEFAULT_STAGES)] == [10, 100, 500, 1000]


@pytest.mark.parametrize("wrong", [[0.0], [-1.0], [50.0, 10.0], [10.0, 10.0], [101.0], [float("nan")], [1.0, 200.0]])
def test_wrong_stages_are_refused(wrong: list[float]) -> None:
    with pytest.raises(InvalidRequestError, match="ascending percentages"):
        check_stages(wrong)


@given(names, moves)
def test_a_plan_is_what_was_stored(bulk_id: str, todo: list[BulkMove]) -> None:
    plan = BulkPlan(bulk_id=bulk_id, alias="live", moves=tuple(todo), created_at="now", nonce="n")
    assert decode(BulkPlan, encode(plan), "plan") == plan


@pytest.mark.parametrize(
    ("stored", "indexed", "wanted"),
    [
        ("1", "1", Standing.OPEN),
        ("2", "1", Standing.OPEN),
        ("2", "", Standing.OPEN),
        ("2", "2", Standing.DONE),
        ("3", "1", Standing.LOST),
        ("3", "2", Standing.LOST),
        ("", "1", Standing.LOST),
    ],
)
def test_standing(stored: str, indexed: str, wanted: Standing) -> None:
    assert standing(BulkMove("t", "m", "1", "2"), stored, indexed) is wanted


def test_a_new_alias_is_open_while_there_is_none() -> None:
    assert standing(BulkMove("t", "m", "", "2"), "", "") is Standing.OPEN


def test_what_is_barred_is_not_usable() -> None:
    record = AliasRecord(revision=1, aliases={}, retired=("2",), deleted=("4",), created_at="", nonce="")
    assert usable(record, ["5", "4", "3", "2"]) == ["5", "3"]


def test_conditions() -> None:
    assert parse_conditions("label", ["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}
    for wrong in (["a"], ["=b"], ["a=b", "a=c"]):
        with pytest.raises(InvalidRequestError, match="name=value"):
            parse_conditions("label", wrong)
    with pytest.raises(InvalidRequestError, match="say which models"):
        check_selection(Selection(version="3"))


def test_a_little_may_fail() -> None:
    assert not is_over(0, 10, 0.0)
    assert is_over(1, 10, 0.0)
    assert not is_over(1, 10, 0.1)
    assert is_over(2, 10, 0.1)


def test_refs_of_moves() -> None:
    move = BulkMove("acme", "fraud", "1", "2")
    assert move.ref == ModelRef("acme", "fraud")
    assert msgspec.json.decode(msgspec.json.encode(move), type=BulkMove) == move
