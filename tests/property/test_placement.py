"""Placement: the same everywhere, minimal movement, balance."""

from __future__ import annotations

from collections import Counter
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model import Member, MemberState, ModelRef
from registry.placement import Placement
from registry.rendezvous import apart_first, rank


def member(
    number: int, *, host: int | None = None, capacity_bytes: int = 1, state: MemberState = MemberState.READY
) -> Member:
    return Member(
        id=f"scorer-{number}",
        address=f"10.0.0.{number}:7200",
        host=f"host-{number if host is None else host}",
        zone="a",
        pool="default",
        capacity_bytes=capacity_bytes,
        incarnation="1",
        state=state,
    )


fleets = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 8), st.sampled_from([1, 2, 4])),
    min_size=1,
    max_size=20,
    unique_by=lambda m: m[0],
).map(lambda parts: [member(number, host=host, capacity_bytes=weight) for number, host, weight in parts])
refs = st.builds(ModelRef, st.sampled_from(["acme", "globex"]), st.text("abcdef", min_size=1, max_size=4))


@given(fleets, refs, st.randoms(use_true_random=False))
def test_order_of_members_does_not_matter(fleet: list[Member], ref: ModelRef, random: Random) -> None:
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert Placement(fleet).owners(ref) == Placement(shuffled).owners(ref)


@given(fleets, st.lists(refs, min_size=1, max_size=30), st.integers(1, 3))
def test_a_new_member_takes_keys_only_to_itself(fleet: list[Member], models: list[ModelRef], replicas: int) -> None:
    *others, newcomer = fleet
    before, after = Placement(others, replicas=replicas), Placement(fleet, replicas=replicas)
    for ref in models:
        gained = set(after.owners(ref)) - set(before.owners(ref))
        assert gained <= {newcomer}


@given(fleets, st.lists(refs, min_size=1, max_size=30), st.integers(1, 3))
def test_a_leaving_member_moves_only_its_own_keys(fleet: list[Member], models: list[ModelRef], replicas: int) -> None:
    *others, leaver = fleet
    before, after = Placement(fleet, replicas=replicas), Placement(others, replicas=replicas)
    for ref in models:
        if leaver in before.owners(ref):
            assert set(before.owners(ref)) - {leaver} <= set(after.owners(ref))
        else:
            assert before.owners(ref) == after.owners(ref)


@given(fleets, refs, st.integers(1, 4))
def test_replicas_are_on_distinct_hosts_where_there_are_enough(
    fleet: list[Member], ref: ModelRef, replicas: int
) -> None:
    owners = Placement(fleet, replicas=replicas).owners(ref)
    hosts = {member.host for member in fleet}
    assert len(owners) == min(replicas, len(fleet))
    assert len({owner.host for owner in owners}) == min(replicas, len(hosts))


@given(fleets, refs)
def test_candidates_are_all_members_once_owners_first(fleet: list[Member], ref: ModelRef) -> None:
    placement = Placement(fleet)
    candidates = placement.candidates(*ref)
    assert sorted(member.id for member in candidates) == sorted(member.id for member in fleet)
    assert candidates[: len(placement.owners(ref))] == placement.owners(ref)


@given(fleets, refs)
def test_draining_members_come_last(fleet: list[Member], ref: ModelRef) -> None:
    draining = [member(500 + number, state=MemberState.DRAINING) for number in range(3)]
    candidates = Placement([*draining, *fleet]).candidates(*ref)
    assert candidates[: len(fleet)] == Placement(fleet).candidates(*ref)
    assert set(candidates[len(fleet) :]) == set(draining)


@given(fleets, refs)
def test_members_that_warm_are_not_asked_and_those_that_leave_are(fleet: list[Member], ref: ModelRef) -> None:
    warming = [member(500 + number, state=MemberState.WARMING) for number in range(3)]
    assert Placement([*warming, *fleet]).candidates(*ref) == Placement(fleet).candidates(*ref)
    leaving = [msgspec.structs.replace(one, state=MemberState.LEAVING) for one in fleet]
    candidates = Placement(leaving).candidates(*ref)
    assert [one.id for one in candidates] == [one.id for one in Placement(fleet).candidates(*ref)]


@given(fleets, refs)
def test_hosts_first_keeps_the_rank_within_both_parts(fleet: list[Member], ref: ModelRef) -> None:
    ranked = rank(fleet, f"{ref}".encode())
    placed = apart_first(ranked)
    hosts = len({member.host for member in fleet})
    position = {member.id: place for place, member in enumerate(ranked)}
    for part in (placed[:hosts], placed[hosts:]):
        assert [position[m.id] for m in part] == sorted(position[m.id] for m in part)


@pytest.mark.parametrize("members", [3, 30, 300])
def test_balance(members: int) -> None:
    """First owners of K keys over N members are binomial. Each member's count lies within 5 standard deviations of its
    mean K/N: the chance that a right hash fails for one of 300 members is below 2 in 10,000, and the keys are fixed.
    """
    keys = 20_000
    placement = Placement([member(number) for number in range(members)])
    asked = range(keys if members < 300 else keys // 4)
    counts = Counter(placement.candidates("acme", f"model-{key}")[0].id for key in asked)
    total = sum(counts.values())
    mean = total / members
    bound = 5 * (mean * (1 - 1 / members)) ** 0.5
    assert all(abs(counts[f"scorer-{number}"] - mean) <= bound for number in range(members))


def test_a_member_wins_in_proportion_to_its_capacity() -> None:
    fleet = [member(0, capacity_bytes=3 << 30), member(1, capacity_bytes=1 << 30)]
    placement = Placement(fleet)
    wins = sum(placement.candidates("acme", f"model-{key}")[0].id == "scorer-0" for key in range(10_000))
    assert 7_300 <= wins <= 7_700  # 3/4 of 10,000; five standard deviations are 217


def test_known_answers_never_change() -> None:
    """A router of another version must place models on the same members."""
    placement = Placement([member(number) for number in range(10)])
    for name, known in KNOWN.items():
        assert [owner.id for owner in placement.owners(ModelRef("acme", name))] == known


KNOWN = {
    "lead": ["scorer-2", "scorer-8"],
    "churn": ["scorer-5", "scorer-7"],
    "fraud": ["scorer-6", "scorer-4"],
}
