"""Shuffle sharding: the same everywhere, spread over zones and hosts, minimal movement, bounds on overlap."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from random import Random

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.model import Member, MemberState, ModelRef, TenantRecord
from registry.placement import Placement
from registry.shards import NO_RULE, ShardRule, rule_of

replace = msgspec.structs.replace
GIB = 1 << 30


def member(number: int, *, zones: int = 1, hosts: int = 10**6, weight: int = 1, pool: str = "default") -> Member:
    """A host is in one zone."""
    host = number % hosts
    return Member(
        id=f"scorer-{number}",
        address=f"10.0.0.1:{number}",
        host=f"host-{host}",
        zone=f"zone-{host % zones}",
        pool=pool,
        capacity_bytes=weight * GIB,
        incarnation="1",
    )


def fleet_of(count: int, zones: int = 1) -> list[Member]:
    return [member(number, zones=zones) for number in range(count)]


fleets = st.builds(
    lambda numbers, zones, hosts: [member(n, zones=zones, hosts=hosts, weight=1 + n % 3) for n in numbers],
    st.lists(st.integers(0, 300), min_size=1, max_size=24, unique=True),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3, 5, 8, 40]),
)
tenants = st.sampled_from([f"tenant-{number}" for number in range(50)])
sizes = st.integers(1, 6)
premium_rules = st.dictionaries(
    tenants, st.builds(ShardRule, size=sizes, premium=st.just(True), since=st.sampled_from("abc")), max_size=12
)


def ids(shard: tuple[Member, ...]) -> set[str]:
    return {one.id for one in shard}


@given(fleets, tenants, sizes, premium_rules, st.randoms(use_true_random=False))
def test_order_does_not_matter(
    fleet: list[Member], tenant: str, size: int, rules: dict[str, ShardRule], random: Random
) -> None:
    shuffled = list(fleet)
    random.shuffle(shuffled)
    entries = list(rules.items())
    random.shuffle(entries)
    one = Placement(fleet, shard_size=size, rules=rules)
    other = Placement(shuffled, shard_size=size, rules=dict(entries))
    assert one.shard(tenant) == other.shard(tenant)
    assert one.candidates(tenant, "m") == other.candidates(tenant, "m")


@given(fleets, tenants, sizes, premium_rules)
def test_a_shard_is_full_and_has_each_member_once(
    fleet: list[Member], tenant: str, size: int, rules: dict[str, ShardRule]
) -> None:
    wanted = rules[tenant].size if tenant in rules else size
    shard = Placement(fleet, shard_size=size, rules=rules).shard(tenant)
    assert len(shard) == len(ids(shard)) == min(wanted, len(fleet))


@given(fleets, tenants, sizes)
def test_zones_have_as_even_a_part_as_can_be(fleet: list[Member], tenant: str, size: int) -> None:
    parts = Counter(one.zone for one in Placement(fleet, shard_size=size).shard(tenant))
    there = Counter(one.zone for one in fleet)
    for poorer, richer in combinations(there, 2):
        low, high = sorted((poorer, richer), key=lambda zone: parts[zone])
        assert parts[high] - parts[low] <= 1 or parts[low] == there[low]


@given(fleets, tenants, sizes)
@example(fleet=[member(number, hosts=3) for number in range(20)], tenant="tenant-1", size=6)
def test_in_a_zone_hosts_have_as_even_a_part_as_can_be(fleet: list[Member], tenant: str, size: int) -> None:
    parts = Counter(one.host for one in Placement(fleet, shard_size=size).shard(tenant))
    there = Counter(one.host for one in fleet)
    zone_of = {one.host: one.zone for one in fleet}
    for one, other in combinations(there, 2):
        low, high = sorted((one, other), key=lambda host: parts[host])
        assert zone_of[low] != zone_of[high] or parts[high] - parts[low] <= 1 or parts[low] == there[low]


@given(fleets, st.lists(tenants, min_size=1, max_size=20), sizes)
def test_one_member_more_or_less_changes_one_place(fleet: list[Member], of: list[str], size: int) -> None:
    *others, newcomer = fleet
    before, after = Placement(others, shard_size=size), Placement(fleet, shard_size=size)
    for tenant in of:
        gone, come = ids(before.shard(tenant)) - ids(after.shard(tenant)), ids(after.shard(tenant))
        assert len(gone) <= 1
        assert come - ids(before.shard(tenant)) <= {newcomer.id}
        assert (newcomer.id in come) or not gone


@given(fleets, st.lists(tenants, min_size=1, max_size=20), st.integers(2, 6))
def test_models_move_only_with_what_changed_in_the_shard(fleet: list[Member], of: list[str], size: int) -> None:
    *others, newcomer = fleet
    before, after = Placement(others, shard_size=size), Placement(fleet, shard_size=size)
    for tenant in of:
        if ids(before.shard(tenant)) == ids(after.shard(tenant)):
            assert before.candidates(tenant, "m") == after.candidates(tenant, "m")
        gone = ids(before.shard(tenant)) - ids(after.shard(tenant))
        held, holds = ids(before.owners(ModelRef(tenant, "m"))), ids(after.owners(ModelRef(tenant, "m")))
        assert held == holds or newcomer.id in holds or held & gone


@given(fleets, tenants, sizes, st.integers(1, 3))
def test_owners_are_in_the_shard_and_apart(fleet: list[Member], tenant: str, size: int, replicas: int) -> None:
    placement = Placement(fleet, replicas=replicas, shard_size=size)
    shard, owners = placement.shard(tenant), placement.owners(ModelRef(tenant, "m"))
    assert ids(owners) <= ids(shard)
    assert ids(placement.candidates(tenant, "m")) == ids(shard)
    assert len({one.zone for one in owners}) == min(replicas, len({one.zone for one in shard}))
    assert len({one.host for one in owners}) == min(replicas, len({one.host for one in shard}))


@given(fleets, tenants, sizes, st.data())
def test_a_member_that_is_down_keeps_its_place_and_is_not_asked(
    fleet: list[Member], tenant: str, size: int, data: st.DataObject
) -> None:
    dead = data.draw(st.sets(st.sampled_from([one.id for one in fleet])))
    shown = [replace(one, state=MemberState.DOWN) if one.id in dead else one for one in fleet]
    alive, now = Placement(fleet, shard_size=size), Placement(shown, shard_size=size)
    assert ids(now.shard(tenant)) == ids(alive.shard(tenant))
    owners = now.owners(ModelRef(tenant, "m"))
    assert [one.id for one in owners] == [one.id for one in alive.owners(ModelRef(tenant, "m"))]
    wanted = [one for one in alive.candidates(tenant, "m") if one.id not in dead]
    assert list(now.candidates(tenant, "m")) == wanted


@given(fleets, tenants, sizes, premium_rules, st.data())
def test_who_drains_has_no_place_and_is_asked_last_by_those_it_was_of(
    fleet: list[Member], tenant: str, size: int, rules: dict[str, ShardRule], data: st.DataObject
) -> None:
    going = data.draw(st.sets(st.sampled_from([one.id for one in fleet])))
    shown = [replace(one, state=MemberState.DRAINING) if one.id in going else one for one in fleet]
    rest = Placement([one for one in fleet if one.id not in going], shard_size=size, rules=rules)
    candidates = Placement(shown, shard_size=size, rules=rules).candidates(tenant, "m")
    assert candidates[: len(rest.shard(tenant))] == rest.candidates(tenant, "m")
    before = ids(Placement(fleet, shard_size=size, rules=rules).shard(tenant))
    assert ids(candidates[len(rest.shard(tenant)) :]) == going & before


@given(fleets, tenants, sizes)
def test_a_size_larger_by_one_adds_one_place(fleet: list[Member], tenant: str, size: int) -> None:
    shard, larger = (Placement(fleet, shard_size=k).shard(tenant) for k in (size, size + 1))
    assert ids(shard) <= ids(larger)


def test_a_restart_with_the_same_id_changes_nothing() -> None:
    fleet = fleet_of(20, zones=3)
    again = [replace(one, incarnation="2", address="10.9.9.9:1") for one in fleet]
    before, after = Placement(fleet, shard_size=4), Placement(again, shard_size=4)
    assert all(ids(before.shard(f"t{n}")) == ids(after.shard(f"t{n}")) for n in range(100))


def test_a_member_is_in_shards_in_proportion_to_its_capacity() -> None:
    """Exact for shards of one. 10,000 tenants: five standard deviations are 218."""
    fleet = [member(0, weight=3), *(member(number) for number in range(1, 10))]
    placement = Placement(fleet, shard_size=1)
    wins = sum(placement.shard(f"tenant-{n}")[0].id == "scorer-0" for n in range(10_000))
    assert abs(wins - 2_500) <= 218


def test_known_shards_never_change() -> None:
    """A process of another version must choose the same members."""
    placement = Placement(fleet_of(12, zones=3), shard_size=4)
    assert {name: [one.id for one in placement.shard(name)] for name in KNOWN} == KNOWN


KNOWN = {
    "acme": ["scorer-3", "scorer-1", "scorer-11", "scorer-9"],
    "globex": ["scorer-0", "scorer-1", "scorer-2", "scorer-3"],
    "initech": ["scorer-0", "scorer-10", "scorer-8", "scorer-6"],
}


# Dedicated pools


@given(fleets, st.lists(tenants, min_size=1, max_size=20), sizes, st.integers(1, 5))
def test_a_dedicated_pool_is_its_tenants_alone(fleet: list[Member], of: list[str], size: int, own: int) -> None:
    bought = [member(1000 + number, pool="acme") for number in range(own)]
    rules = {"acme": ShardRule(pool="acme"), "small": ShardRule(size=1, pool="acme")}
    placement = Placement([*fleet, *bought], shard_size=size, rules=rules)
    assert ids(placement.shard("acme")) == ids(placement.eligible("acme")) == ids(tuple(bought))
    assert ids(placement.shard("small")) < ids(tuple(bought)) or own == 1
    for tenant in of:
        assert placement.shard(tenant) == Placement(fleet, shard_size=size).shard(tenant)


def test_a_dedicated_pool_without_members_serves_nobody_else_either() -> None:
    fleet = fleet_of(9)
    placement = Placement(fleet, shard_size=4, rules={"acme": ShardRule(pool="acme")})
    assert placement.shard("acme") == Placement(fleet, shard_size=4).shard("acme")
    only_bought = Placement([member(1, pool="acme")], shard_size=4, rules={"acme": ShardRule(pool="acme")})
    assert only_bought.candidates("other", "m") == ()


# Premium tenants


def overlaps(placement: Placement, rules: dict[str, ShardRule]) -> list[int]:
    premium = [tenant for tenant, rule in rules.items() if rule.premium]
    return [len(ids(placement.shard(a)) & ids(placement.shard(b))) for a, b in combinations(premium, 2)]


@pytest.mark.parametrize(
    ("members", "zones", "size", "replicas", "premium"),
    [(16, 1, 4, 2, 6), (24, 3, 4, 2, 12), (100, 3, 5, 2, 60), (100, 1, 5, 1, 20), (64, 4, 4, 3, 100)],
)
def test_premium_tenants_share_less_than_the_replicas_of_a_model(
    members: int, zones: int, size: int, replicas: int, premium: int
) -> None:
    rules = {f"p{n}": ShardRule(size, premium=True, since=f"{n:03}") for n in range(premium)}
    placement = Placement(fleet_of(members, zones=zones), replicas=replicas, shard_size=4, rules=rules)
    assert max(overlaps(placement, rules)) <= replicas - 1
    assert any(
        overlap > replicas - 1
        for overlap in overlaps(Placement(fleet_of(members, zones=zones), shard_size=size), rules)
    )


def test_where_there_are_too_many_premium_tenants_they_share_one_more() -> None:
    """Of 8 members at most 2 blocks of 4 are disjoint, and 14 share at most 2 two by two."""
    rules = {f"p{n}": ShardRule(4, premium=True, since=f"{n:03}") for n in range(10)}
    placement = Placement(fleet_of(8), replicas=1, rules=rules)
    assert not ids(placement.shard("p0")) & ids(placement.shard("p1"))
    assert 1 <= max(overlaps(placement, rules)) <= 3
    unbounded = overlaps(Placement(fleet_of(8), shard_size=4), rules)
    assert sum(overlaps(placement, rules)) <= sum(unbounded)


def test_premium_tenants_share_as_little_as_is_left() -> None:
    """Three take all of 12 members; a fourth one takes one of each, and then a second one of somebody."""
    first = {f"p{n}": ShardRule(4, premium=True, since="a") for n in range(3)}
    for n in range(20):
        placement = Placement(fleet_of(12), replicas=1, rules={**first, f"q{n}": ShardRule(4, True, "", "b")})
        own = ids(placement.shard(f"q{n}"))
        assert sorted(len(own & ids(placement.shard(other))) for other in first) == [1, 1, 2]


def test_of_a_premium_tenant_those_that_drain_are_known_too() -> None:
    rules = {f"p{n}": ShardRule(4, premium=True, since=f"{n:03}") for n in range(12)}
    fleet = fleet_of(16)
    before = Placement(fleet, rules=rules)
    for gone in before.shard("p11"):
        shown = [replace(one, state=MemberState.DRAINING) if one == gone else one for one in fleet]
        assert Placement(shown, rules=rules).candidates("p11", "m")[-1].id == gone.id


@given(fleets, premium_rules, tenants)
def test_a_later_premium_tenant_moves_no_earlier_one(
    fleet: list[Member], rules: dict[str, ShardRule], tenant: str
) -> None:
    before, after = (
        Placement(fleet, rules=rules),
        Placement(fleet, rules={**rules, "late": ShardRule(4, True, "", "d")}),
    )
    assert all(before.shard(name) == after.shard(name) for name in rules)
    assert tenant in rules or before.shard(tenant) == after.shard(tenant)


def test_few_premium_places_move_with_a_member() -> None:
    """No bound holds for each tenant, since one that moves may move later ones; together they move little."""
    rules = {f"p{n}": ShardRule(5, premium=True, since=f"{n:03}") for n in range(40)}
    fleet = fleet_of(60, zones=3)
    whole = Placement(fleet, rules=rules)
    moved = 0
    for gone in range(0, 60, 5):
        less = Placement([one for one in fleet if one.id != f"scorer-{gone}"], rules=rules)
        moved += sum(len(ids(whole.shard(name)) - ids(less.shard(name)) - {f"scorer-{gone}"}) for name in rules)
    places_lost = 12 * 40 * 5 / 60
    assert moved <= 2 * places_lost


def test_rules_of_records() -> None:
    assert rule_of(TenantRecord(tenant="t", requests_per_s=5, created_at="then")) == NO_RULE
    record = TenantRecord(tenant="t", shard_size=3, premium=True, dedicated_pool="p", created_at="then")
    assert rule_of(record) == ShardRule(3, True, "p", "then")
