from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.blast_radius import blast_radius, could_lose, loss_chance, neighbours, overlap_chance, overlaps
from registry.model import Member, ModelRef
from registry.placement import Placement
from registry.shards import ShardRule


def member(number: int, zone: str = "z") -> Member:
    return Member(f"s{number}", "h:1", f"h{number}", zone, "default", 1, "1")


TENANTS = [f"t{number}" for number in range(4000)]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_chances_are_what_counting_says(members: int, size: int, other: int) -> None:
    size, other = min(size, members), min(other, members)
    own = set(range(size))
    counted = [len(own & set(shard)) for shard in combinations(range(members), other)]
    for shared in range(members + 1):
        assert overlap_chance(members, size, shared, other) == pytest.approx(counted.count(shared) / len(counted))
    whole = sum(set(replicas) <= own for replicas in combinations(range(members), other))
    if other <= size:
        assert loss_chance(members, size, other) == pytest.approx(whole / len(counted))


def test_the_published_figures() -> None:
    """Grafana Mimir's page on shuffle sharding: of 50 ingesters and shards of 4."""
    shares = [100 * overlap_chance(50, 4, shared, 4) for shared in range(5)]
    assert shares == pytest.approx([71, 26, 2.7, 0.08, 0.0004], rel=0.09)
    assert round(100 * loss_chance(16, 4, 2), 2) == 5.0


@pytest.mark.parametrize(("members", "size", "replicas"), [(8, 3, 2), (16, 4, 2), (50, 5, 1), (100, 5, 3)])
def test_real_shards_are_as_the_formula_says(members: int, size: int, replicas: int) -> None:
    """4,000 tenants, 1 abuser, fixed names: each count lies within 5 standard deviations."""
    placement = Placement([member(n) for n in range(members)], replicas=replicas, shard_size=size)
    among = neighbours(placement, "t0", TENANTS)
    assert len(among) == 3999
    for one in overlaps(placement, "t0", among):
        deviation = math.sqrt(one.expected_share * (1 - one.expected_share) / 3999)
        assert abs(one.share - one.expected_share) <= 5 * deviation
    radius = blast_radius(placement, "t0", among)
    assert radius.lose_all + radius.lose_part == pytest.approx(1 - overlaps(placement, "t0", among)[0].share)
    expected = loss_chance(members, size, replicas)
    assert radius.expected_models_lost == expected
    lost = sum(
        {one.id for one in placement.owners(ModelRef(other, "m"))} <= {one.id for one in placement.shard("t0")}
        for other in TENANTS[1:]
    )
    assert abs(lost / 3999 - expected) <= 5 * math.sqrt(expected * (1 - expected) / 3999)
    assert abs(radius.models_lost - expected) <= 5 * math.sqrt(expected * (1 - expected) / 3999)


def test_who_could_take_all_replicas_of_a_model() -> None:
    placement = Placement([member(n) for n in range(12)], replicas=2, shard_size=4)
    ref = ModelRef("t0", "m")
    found = could_lose(placement, ref, TENANTS)
    assert "t0" not in found
    for other in TENANTS[1:]:
        assert (other in found) == ({*placement.owners(ref)} <= {*placement.shard(other)})
    assert abs(len(found) / 3999 - loss_chance(12, 4, 2)) < 0.03


def test_shards_of_several_sizes() -> None:
    rules = {"big": ShardRule(size=6), "one": ShardRule(size=1)}
    placement = Placement([member(n) for n in range(6)], replicas=2, shard_size=3, rules=rules)
    [everyone] = neighbours(placement, "one", ["big", "one"])
    assert (everyone.tenant, len(everyone.shared), everyone.shard_size) == ("big", 1, 6)
    radius = blast_radius(placement, "big", neighbours(placement, "big", ["one", *TENANTS[:10]]))
    assert (radius.lose_all, radius.lose_part, radius.models_lost, radius.expected_models_lost) == (1, 0, 1, 1)
    assert blast_radius(placement, "one", [everyone]).models_lost == 0


def test_nobody_is_there() -> None:
    placement = Placement([], shard_size=3)
    assert could_lose(placement, ModelRef("a", "m"), ["b"]) == []
    radius = blast_radius(placement, "a", neighbours(placement, "a", ["b"]))
    assert (radius.others, radius.lose_all, radius.lose_part, radius.models_lost) == (1, 0, 0, 0)
    assert radius.expected_models_lost == 0
    assert [one.tenants for one in overlaps(placement, "a", neighbours(placement, "a", []))] == [0]
