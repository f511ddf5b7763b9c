"""The load queue through random histories: its bounds, and how far apart tenants that always want more can get."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scorer.load_queue import LoadQueue

TENANTS = "abcd"


class QueueHistory(RuleBasedStateMachine):
    """`waiting`, `running`, `parked`: tenant and whether it's in the background, by package."""

    @initialize(at_once=st.integers(1, 5))
    def start(self, at_once: int) -> None:
        self.at_once = at_once
        self.queue = LoadQueue(at_once)
        self.waiting: dict[str, tuple[str, bool]] = {}
        self.running: dict[str, tuple[str, bool]] = {}
        self.parked: dict[str, tuple[str, bool]] = {}
        self.slowed: set[str] = set()
        self.number = 0

    def begin(self, packages: list[str]) -> None:
        for package in packages:
            self.running[package] = self.waiting.pop(package)
            tenant = self.running[package][0]
            held = sum(each[0] == tenant for each in self.running.values())
            assert held <= (1 if tenant in self.slowed else max(1, self.at_once - 1))
            if self.running[package][1]:
                assert not [each for each in self.waiting.values() if not each[1] and self.may_begin(each[0])]
        assert len(set(packages)) == len(packages)

    def may_begin(self, tenant: str) -> bool:
        if any(each[0] == tenant for each in self.parked.values()):
            return False
        held = sum(each[0] == tenant for each in self.running.values())
        return held < (1 if tenant in self.slowed else max(1, self.at_once - 1))

    @rule(tenant=st.sampled_from(TENANTS), cost=st.floats(0, 1e6), background=st.booleans())
    def push(self, tenant: str, cost: float, background: bool) -> None:
        self.number += 1
        package = f"p{self.number}"
        self.waiting[package] = (tenant, background)
        self.begin(self.queue.push(package, tenant, cost, background=background))

    @precondition(lambda self: self.waiting or self.running or self.parked)
    @rule(data=st.data())
    def upgrade(self, data: st.DataObject) -> None:
        package = data.draw(st.sampled_from(sorted([*self.waiting, *self.running, *self.parked])))
        for loads in (self.waiting, self.running, self.parked):
            if package in loads:
                loads[package] = (loads[package][0], False)
        self.begin(self.queue.upgrade(package))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        package = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[package]
        self.begin(self.queue.finish(package))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        package = data.draw(st.sampled_from(sorted(self.running)))
        self.parked[package] = self.running.pop(package)
        self.begin(self.queue.park(package))

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), given_up=st.booleans())
    def unpark(self, data: st.DataObject, given_up: bool) -> None:
        package = data.draw(st.sampled_from(sorted(self.parked)))
        job = self.parked.pop(package)
        if not given_up:
            self.waiting[package] = job
        self.begin(self.queue.finish(package) if given_up else self.queue.unpark(package))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), took=st.floats(0, 1e6))
    def finish(self, data: st.DataObject, took: float) -> None:
        package = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[package]
        self.begin(self.queue.finish(package, took))

    @rule(tenant=st.sampled_from(TENANTS), slowed=st.booleans())
    def slow(self, tenant: str, slowed: bool) -> None:
        self.queue.slow(tenant, slowed)
        (self.slowed.add if slowed else self.slowed.discard)(tenant)

    @rule(tenant=st.sampled_from(TENANTS), weight=st.sampled_from([1.0, 4.0]))
    def set_weight(self, tenant: str, weight: float) -> None:
        self.queue.set_weight(tenant, weight)

    @invariant()
    def places_and_waits_are_bounded(self) -> None:
        assert len(self.running) <= self.at_once
        assert sum(background for _tenant, background in self.running.values()) <= max(1, self.at_once // 2)
        waits = [self.queue.wait_us(package) for package in self.waiting]
        assert all(wait >= -1e-3 for wait in waits)

    def teardown(self) -> None:
        """Nothing waits for ever."""
        for package in list(self.parked):
            self.waiting[package] = self.parked.pop(package)
            self.begin(self.queue.unpark(package))
        while self.running:
            package = next(iter(self.running))
            del self.running[package]
            self.begin(self.queue.finish(package, 1.0))
        assert not self.waiting


TestQueueHistory = QueueHistory.TestCase


@settings(max_examples=50)
@given(
    costs=st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 20), min_size=2),
    wrong=st.floats(0.25, 4.0),
    premium=st.booleans(),
)
def test_tenants_that_always_want_more_get_alike(costs: dict[str, int], wrong: float, premium: bool) -> None:
    """However unlike their loads, and however wrong the estimates: never more than two loads apart (that bound is the
    algorithm's own), by weight.
    """
    queue = LoadQueue(1)
    queue.set_weight("a", 4.0 if premium else 1.0)
    weight = {"a": 4.0 if premium else 1.0}
    order = [each for t in costs for i in range(400) for each in queue.push(f"{t}{i}", t, costs[t] * wrong)]
    got: Counter[str] = Counter()
    while max(got.values(), default=0) < 400 - 1 and not any(got[t] / costs[t] >= 399 for t in costs):
        package = order.pop()
        tenant = package[0]
        got[tenant] += costs[tenant]
        order += queue.finish(package, float(costs[tenant]))
    shares = [got[tenant] / weight.get(tenant, 1.0) for tenant in costs]
    assert max(shares) - min(shares) <= 2 * max(costs.values()) * max(1.0, wrong)
