"""What is in memory against a plain record of it, through random histories of loads, requests, pins and limits."""

from __future__ import annotations

from collections import Counter
from math import inf
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scorer.eviction import demand as demand_module
from scorer.eviction.demand import Demand
from scorer.eviction.ring import Ring
from scorer.residents import JUST_LOADED_S, Residents

CAPACITY = 100
TENANTS = ["a", "b", "c"]
KEYS = [f"{tenant}{number}" for tenant in TENANTS for number in range(4)]


class History(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.residents: Residents[object] = Residents(CAPACITY)
        self.now = 0.0
        self.capacity = CAPACITY
        self.nbytes: dict[str, int] = {}
        self.values: dict[str, object] = {}
        self.loaded_at: dict[str, float] = {}
        self.pins: Counter[str] = Counter()
        self.limits: dict[str, tuple[int, int]] = {}
        self.asked: Counter[str] = Counter()
        self.given: list[object] = []
        self.left: list[object] = []

    # What the plain record says.

    def used(self, tenant: str = "") -> int:
        return sum(nbytes for key, nbytes in self.nbytes.items() if key.startswith(tenant))

    def guaranteed(self, tenant: str) -> int:
        return self.limits.get(tenant, (0, 0))[0]

    def may_leave(self, key: str, tenant: str, now: float) -> bool:
        if key not in self.values or self.pins[key] or now < self.loaded_at[key] + JUST_LOADED_S:
            return False
        return key[0] == tenant or self.used(key[0]) - self.nbytes[key] >= self.guaranteed(key[0])

    def is_possible(self, nbytes: int, tenant: str, now: float) -> bool:
        """Whether there is room for so much more once everything has left that may, the smallest of others first."""
        free, own_max = self.capacity - self.used(), self.limits.get(tenant, (0, 0))[1]
        spare = {each: self.used(each) - self.guaranteed(each) for each in TENANTS}
        own = sum(self.nbytes[key] for key in self.values if key[0] == tenant and self.may_leave(key, tenant, now))
        if own_max and self.used(tenant) + nbytes - own > own_max:
            return False
        free += own
        for key in sorted(self.values, key=lambda each: self.nbytes[each]):
            if key[0] != tenant and self.may_leave(key, tenant, now) and self.nbytes[key] <= spare[key[0]]:
                spare[key[0]] -= self.nbytes[key]
                free += self.nbytes[key]
        return free >= nbytes

    def forget(self, values: list[object]) -> list[str]:
        """Note what left."""
        keys = [key for key, value in self.values.items() if any(value is each for each in values)]
        assert len(keys) == len(values), "something left that wasn't here"
        self.left += values
        for key in keys:
            del self.values[key], self.nbytes[key], self.loaded_at[key]
        return keys

    # What happens.

    @rule(key=st.sampled_from(KEYS), nbytes=st.integers(1, 60), background=st.booleans())
    def reserve(self, key: str, nbytes: int, background: bool) -> None:
        tenant = key[0]
        if key in self.nbytes:
            with pytest.raises(ValueError, match="already"):
                self.residents.reserve(key, nbytes, tenant=tenant, now=self.now)
            return
        before = {each for each in self.values if self.may_leave(each, tenant, self.now)}
        had = {each: self.used(each) for each in TENANTS}
        fits = self.used() + nbytes <= self.capacity
        own_max = self.limits.get(tenant, (0, 0))[1]
        fits = fits and (not own_max or had[tenant] + nbytes <= own_max)
        asked = {each for each, demand in self.residents.hottest() if demand >= 0.1}
        in_s = self.residents.evictable_in_s(nbytes, tenant, self.now)
        found = self.residents.reserve(key, nbytes, tenant=tenant, now=self.now, background=background)
        if found is None:
            assert not fits, "there was room"
            are_exact = len({self.nbytes[each] for each in self.values}) <= 1 or not any(
                g for g, _ in self.limits.values()
            )
            if not background and are_exact:
                assert not self.is_possible(nbytes, tenant, self.now)
            return
        assert in_s == 0.0
        left = self.forget(found)
        assert set(left) <= before
        assert not (left and fits), "something left for nothing"
        assert not (background and asked & set(left))
        self.nbytes[key] = nbytes
        assert self.used() <= self.capacity
        assert not own_max or self.used(tenant) <= own_max
        for other in set(TENANTS) - {tenant}:
            assert self.used(other) >= min(had[other], self.guaranteed(other))

    @precondition(lambda self: self.nbytes.keys() - self.values.keys())
    @rule(data=st.data(), cost_us=st.integers(0, 1000), saved=st.integers(-1, 30))
    def fill(self, data: st.DataObject, cost_us: int, saved: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.nbytes.keys() - self.values.keys())))
        nbytes = max(0, self.nbytes[key] - saved)
        if saved < 0:
            with pytest.raises(ValueError, match="were reserved"):
                self.residents.fill(key, object(), nbytes, cost_us=cost_us, now=self.now)
            return
        value = object()
        self.residents.fill(key, value, nbytes, cost_us=cost_us, now=self.now)
        with pytest.raises(ValueError, match="loaded already"):
            self.residents.fill(key, value, nbytes, cost_us=cost_us, now=self.now)
        self.given.append(value)
        self.values[key], self.nbytes[key], self.loaded_at[key] = value, nbytes, self.now

    @rule(key=st.sampled_from(KEYS), times=st.integers(1, 5))
    def ask(self, key: str, times: int) -> None:
        for _ in range(times):
            assert self.residents.get(key) is self.values.get(key)
            if key not in self.values:
                self.residents.missed(key)

    @rule(seconds=st.sampled_from([0.1 * JUST_LOADED_S, 0.5 * JUST_LOADED_S, JUST_LOADED_S, 60.0, 1e5]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.nbytes)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.nbytes)))
        self.residents.pin(key)
        self.pins[key] += 1

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, pins in self.pins.items() if pins)))
        self.residents.unpin(key)
        self.pins[key] -= 1

    @precondition(lambda self: self.nbytes)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.nbytes)))
        if self.pins[key]:
            with pytest.raises(ValueError, match="pinned"):
                self.residents.remove(key)
            return
        value = self.residents.remove(key)
        assert value is self.values.get(key)
        if value is None:
            del self.nbytes[key]
        else:
            self.forget([value])

    @rule(tenant=st.sampled_from(TENANTS), guaranteed=st.sampled_from([0, 0, 20, 40]), most=st.sampled_from([0, 0, 50]))
    def set_limits(self, tenant: str, guaranteed: int, most: int) -> None:
        may_leave = {key for key in self.values if key[0] == tenant and not self.pins[key]}
        fits = not most or self.used(tenant) <= most
        left = self.forget(self.residents.set_limits(tenant, guaranteed_bytes=guaranteed, max_bytes=most))
        assert set(left) <= may_leave
        assert not (left and fits)
        self.limits[tenant] = (guaranteed, most)
        if most and self.used(tenant) > most:
            assert may_leave == set(left)

    @rule(capacity=st.sampled_from([40, 70, CAPACITY, 120]))
    def resize(self, capacity: int) -> None:
        may_leave = {key for key in self.values if self.may_leave(key, "", self.now)}
        had = {each: self.used(each) for each in TENANTS}
        left = self.forget(self.residents.resize(capacity, self.now))
        assert set(left) <= may_leave
        self.capacity = capacity
        for tenant in TENANTS:
            assert self.used(tenant) >= min(had[tenant], self.guaranteed(tenant))
        if self.used() > capacity:
            assert not any(self.may_leave(key, "", self.now) for key in self.values)

    @rule(nbytes=st.integers(1, 60), tenant=st.sampled_from(TENANTS))
    def foretell(self, nbytes: int, tenant: str) -> None:
        """There is no room before that time; and if bytes alone decide, there is then."""
        in_s = self.residents.evictable_in_s(nbytes, tenant, self.now)
        if in_s == inf:
            assert not self.is_possible(nbytes, tenant, self.now + JUST_LOADED_S)
            return
        assert 0.0 <= in_s <= JUST_LOADED_S + 1e-6  # it is a difference of two late times
        if in_s > 0:
            assert not self.is_possible(nbytes, tenant, self.now)
        if not any(guaranteed for guaranteed, _most in self.limits.values()):
            assert self.is_possible(nbytes, tenant, self.now + in_s + 1e-6)

    # What is always so.

    @invariant()
    def bytes_are_the_sums(self) -> None:
        residents = self.residents
        assert residents.used_bytes == self.used()
        assert [residents.used_by(tenant) for tenant in TENANTS] == [self.used(tenant) for tenant in TENANTS]
        assert residents.capacity_bytes == self.capacity
        assert len(residents) == len(self.values)
        assert dict(residents.items()) == self.values
        assert {key for key in KEYS if key in residents} == set(self.nbytes)

    @invariant()
    def sums_of_tenants_are_right(self) -> None:
        shares = self.residents._shares
        for tenant in TENANTS:
            idle = [key for key in self.values if key[0] == tenant and not self.pins[key]]
            assert shares.of(tenant).idle_bytes == sum(self.nbytes[key] for key in idle)
        assert shares.loose_bytes == sum(share.loose_bytes for share in shares._shares.values())
        assert set(shares._shares) <= {key[0] for key in self.nbytes} | {
            t for t, (g, m) in self.limits.items() if g or m
        }
        segments = self.residents._segments
        assert segments._window_bytes == sum(entry.nbytes for entry in segments._window.values())
        assert len(segments._window) + len(segments._main) == len(self.values)

    @invariant()
    def what_left_was_given_and_left_once(self) -> None:
        assert len(set(map(id, self.left))) == len(self.left)
        assert {id(value) for value in self.given} == {id(v) for v in self.left} | {id(v) for v in self.values.values()}

    @invariant()
    def the_hottest_are_all_in_order(self) -> None:
        found = self.residents.hottest()
        assert {key for key, _demand in found} == set(self.values)
        assert [demand for _key, demand in found] == sorted((demand for _key, demand in found), reverse=True)
        assert self.residents.hottest(2) == found[:2]

    def teardown(self) -> None:
        assert {id(value) for value in self.residents.clear()} == {id(value) for value in self.values.values()}
        assert self.residents.used_bytes == len(self.residents) == 0


TestHistory = History.TestCase


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 10), st.sampled_from("abc")), max_size=60),
    st.sampled_from([2.0, 400.0]),
)
def test_demand_is_what_ageing_says_and_stays_bounded(steps: list[tuple[float, float, str]], most: float) -> None:
    """However often it's scaled down."""
    plain: dict[str, float] = dict.fromkeys("abc", 0.0)
    with mock.patch.object(demand_module, "_MOST_DOUBLINGS", most):
        demand, now, passed = Demand(), 0.0, 0.0
        demand.advance(now, 0.0)
        for seconds, turnover, key in steps:
            now += seconds
            passed = min(1.0, passed + seconds / demand_module.HALF_LIFE_S)
            step = min(passed, turnover / demand_module.TURNOVERS)
            passed -= step
            demand.advance(now, turnover)
            plain = {each: count * 2**-step for each, count in plain.items()}
            demand.remember(key, demand.weight, 0)
            plain[key] += 1.0
            assert 1.0 <= demand.weight <= 2.0 ** (most + 1)
    for key, count in plain.items():
        assert demand.recall(key) / demand.weight == pytest.approx(count, rel=1e-6, abs=1e-9)


@given(st.lists(st.integers(0, 5000), max_size=3), st.integers(0, 500))
def test_what_is_remembered_is_bounded(seeds: list[int], residents: int) -> None:
    demand = Demand()
    for seed in seeds:
        for number in range(1500):
            demand.remember(str(seed + number), 1.0, residents)
    assert len(demand) <= max(1024, 4 * residents)


class Thing:
    def __init__(self) -> None:
        self.value: object | None = self


@given(st.lists(st.one_of(st.just(0), st.integers(-40, -1), st.integers(1, 9)), max_size=120))
def test_a_ring_shows_each_entry_once_a_round(steps: list[int]) -> None:
    """0: one comes in. Less: one leaves. More: so many are looked at."""
    ring: Ring[Thing] = Ring()
    things: list[Thing] = []
    for step in steps:
        if step == 0:
            things.append(Thing())
            ring.add(things[-1])
        elif step < 0 and things:
            things.pop(step % len(things)).value = None
            ring.discard()
        elif step > 0:
            assert len(ring.look(step)) == min(step, len(things))
        assert len(ring) == len(things)
        assert len(ring._entries) <= 2 * len(things) + 16
    found = [each for _ in range(len(things)) for each in ring.look(1)]
    assert sorted(map(id, found)) == sorted(map(id, things))
