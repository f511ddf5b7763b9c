"""Which load begins next: fair between tenants by what loads cost, requests before background. Pure.

Start-time fair queueing (Goyal, Vin, Cheng 1996): each tenant has a tag, the work that was begun for it divided by its
weight; the lowest tag is next, and a tenant that had nothing to load begins at the tag of whoever is next. So a tenant
that asks for a thousand models waits behind itself, and one that asks for a single model waits for one load of each
other tenant at most. What a load really took replaces what it was thought to take when it ends.

Contract: `push`, `upgrade`, `finish`, `park` and `unpark` return the packages that begin now, in order. What began has
one of `at_once` places until `finish`; one that can't go on gives it back with `park`, and no other load of its tenant
begins until `unpark`, as it wouldn't fare better. Invariants:
* a tenant never holds the last place, unless there is only one: another tenant's load begins at once;
* a slowed tenant holds one place, and background loads hold half of the places, at most;
* no background load begins while a request's load can.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from registry.errors import LoadQueueFullError

LENGTH_PER_TENANT = 1_000
LENGTH = 20_000
_LEAST_COST_US = 1.0
_FLOWS_KEPT = 64


class _Job(NamedTuple):
    """A load that waits, or has begun."""

    tenant: str
    cost_us: float
    is_background: bool


class LoadQueue:
    """See the module. A tenant's weight is 1 unless `set_weight` says otherwise. `length_per_tenant`: so many of its
    requests' loads wait at most, and so many in the background; `length`: so many of all tenants, and one of each
    tenant that has none.
    """

    def __init__(self, at_once: int, length_per_tenant: int = LENGTH_PER_TENANT, length: int = LENGTH) -> None:
        self._at_once = at_once
        self._length_per_tenant, self._length = length_per_tenant, length
        self._weights: dict[str, float] = {}
        self._slowed: set[str] = set()
        self._queued: dict[str, _Job] = {}
        self._begun: dict[str, _Job] = {}
        self._parked: dict[str, _Job] = {}
        self._halted: Counter[str] = Counter()  # parked loads by tenant
        self._held: Counter[str] = Counter()  # places by tenant
        self._requests = _Line(self._weight)
        self._background = _Line(self._weight)

    def __contains__(self, package: str) -> bool:
        """Whether it waits."""
        return package in self._queued

    def has_begun(self, package: str) -> bool:
        """Whether it holds a place."""
        return package in self._begun

    def set_weight(self, tenant: str, weight: float) -> None:
        """From its next load on."""
        if weight == 1:
            self._weights.pop(tenant, None)
        else:
            self._weights[tenant] = weight

    def slow(self, tenant: str, slowed: bool) -> None:
        """Whether the tenant may hold one place only, from its next load on."""
        (self._slowed.add if slowed else self._slowed.discard)(tenant)

    def push(self, package: str, tenant: str, cost_us: float, *, background: bool = False) -> list[str]:
        """Add a load that neither waits nor has begun. `cost_us`: how long it's thought to hold others up.

        Raises:
            LoadQueueFullError: too many wait already.
        """
        line = self._background if background else self._requests
        self._check_length(line, tenant)
        job = self._queued[package] = _Job(tenant, max(cost_us, _LEAST_COST_US), background)
        line.push(package, job)
        return self._begin()

    def upgrade(self, package: str) -> list[str]:
        """A request waits for it now, wherever it is. Nothing where it isn't a background load."""
        for jobs in (self._queued, self._begun, self._parked):
            job = jobs.get(package)
            if job is not None and job.is_background:
                jobs[package] = asked = job._replace(is_background=False)
                if jobs is self._queued:
                    self._background.remove(package, job)
                    self._requests.push(package, asked)
                return self._begin()
        return []

    def finish(self, package: str, took_us: float = 0.0) -> list[str]:
        """A load has ended or is given up, whether it waits, has begun or is parked. `took_us`: how long one that had
        begun held others up.
        """
        if package in self._begun:
            self._leave_place(package, took_us)
        elif package in self._queued:
            job = self._queued.pop(package)
            self._line(job).remove(package, job)
        elif package in self._parked:
            self._leave_park(package)
        return self._begin()

    def park(self, package: str) -> list[str]:
        """A load that has begun can't go on."""
        job = self._parked[package] = self._leave_place(package, 0.0)
        self._halted[job.tenant] += 1
        return self._begin()

    def unpark(self, package: str) -> list[str]:
        """A load that is parked waits for a place again, before the others of its tenant."""
        job = self._queued[package] = self._leave_park(package)
        self._line(job).push(package, job, first=True)
        return self._begin()

    def is_parked(self, package: str) -> bool:
        """Whether it has begun once, and can't go on."""
        return package in self._parked

    def wait_us(self, package: str) -> float:
        """About how long it waits for its place, 0 for one that has begun: what its tenant has before it, at the
        tenant's share, and never more than all that waits. Rather too little: loads of other tenants that go before
        it at the same tag aren't counted.
        """
        job = self._queued.get(package)
        if job is None:
            return 0.0
        ahead_us = self._requests.queued_us if job.is_background else 0.0
        return ahead_us + self._line(job).wait_us(package, job)

    def _check_length(self, line: _Line, tenant: str) -> None:
        waiting = line.length_of(tenant)
        if waiting >= self._length_per_tenant or (waiting and len(self._queued) >= self._length):
            text = f"{waiting} loads of tenant {tenant} wait already, {len(self._queued)} of all"
            raise LoadQueueFullError(text, retry_after_ms=max(1, round(line.queued_us / 1000)))

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def _line(self, job: _Job) -> _Line:
        return self._background if job.is_background else self._requests

    def _leave_place(self, package: str, took_us: float) -> _Job:
        job = self._begun.pop(package)
        self._held[job.tenant] -= 1
        if not self._held[job.tenant]:
            del self._held[job.tenant]
        self._line(job).correct(job.tenant, max(took_us, 0.0) - job.cost_us)
        return job

    def _leave_park(self, package: str) -> _Job:
        job = self._parked.pop(package)
        self._halted[job.tenant] -= 1
        if not self._halted[job.tenant]:
            del self._halted[job.tenant]
        return job

    def _begin(self) -> list[str]:
        if not self._begun and not self._queued:
            self._requests, self._background = _Line(self._weight), _Line(self._weight)
        begun: list[str] = []
        while len(self._begun) < self._at_once:
            package = self._requests.pop(self._may_begin)
            if package is None and self._has_place_for_background():
                package = self._background.pop(self._may_begin)
            if package is None:
                break
            job = self._begun[package] = self._queued.pop(package)
            self._held[job.tenant] += 1
            begun.append(package)
        return begun

    def _may_begin(self, tenant: str) -> bool:
        limit = 1 if tenant in self._slowed else max(1, self._at_once - 1)
        return self._held[tenant] < limit and not self._halted[tenant]

    def _has_place_for_background(self) -> bool:
        return sum(job.is_background for job in self._begun.values()) < max(1, self._at_once // 2)


class _Flow:
    """What one tenant has in a line. `tag`: virtual time at which its next load may begin. `weight`: its weight since
    it began to wait.
    """

    __slots__ = ("jobs", "tag", "weight")

    def __init__(self, tag: float) -> None:
        self.tag = tag
        self.weight = 1.0
        self.jobs: OrderedDict[str, float] = OrderedDict()  # cost by package


class _Line:
    """The loads of one priority. `queued_us`: the cost of all that waits. O(log tenants) a call, but `wait_us`, which
    looks at what the tenant has.
    """

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        self._weight_of = weight_of
        self._flows: dict[str, _Flow] = {}
        self._heap: list[tuple[float, str]] = []  # Entries whose tag isn't the flow's any more are void.
        self._now = 0.0
        self._sweep_at = _FLOWS_KEPT
        self._waiting_weight = 0.0
        self.queued_us = 0.0

    def length_of(self, tenant: str) -> int:
        flow = self._flows.get(tenant)
        return len(flow.jobs) if flow is not None else 0

    def push(self, package: str, job: _Job, *, first: bool = False) -> None:
        flow = self._flows.get(job.tenant)
        if flow is None:
            self._sweep()
            flow = self._flows[job.tenant] = _Flow(self._now)
        if not flow.jobs:
            flow.tag, flow.weight = max(flow.tag, self._now), self._weight_of(job.tenant)
            self._waiting_weight += flow.weight
            heapq.heappush(self._heap, (flow.tag, job.tenant))
        flow.jobs[package] = job.cost_us
        flow.jobs.move_to_end(package, last=not first)
        self.queued_us += job.cost_us

    def remove(self, package: str, job: _Job) -> None:
        flow = self._flows[job.tenant]
        del flow.jobs[package]
        self._left(flow, job.cost_us)

    def pop(self, may_begin: Callable[[str], bool]) -> str | None:
        """The next load, of a tenant that may begin one. Those that may not hold a place each or are parked: few."""
        aside: list[tuple[float, str]] = []
        package: str | None = None
        while self._heap and package is None:
            entry = heapq.heappop(self._heap)
            if self._is_void(entry):
                continue
            if may_begin(entry[1]):
                package = self._take(entry[1])
            else:
                aside.append(entry)
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return package

    def correct(self, tenant: str, by_us: float) -> None:
        """A load of the tenant took so much longer than was thought."""
        flow = self._flows.get(tenant)
        if flow is not None and by_us:
            flow.tag += by_us / flow.weight
            if flow.jobs:
                heapq.heappush(self._heap, (flow.tag, tenant))

    def wait_us(self, package: str, job: _Job) -> float:
        flow = self._flows[job.tenant]
        ahead_us = sum(cost_us for _, cost_us in takewhile(lambda each: each[0] != package, flow.jobs.items()))
        return min(ahead_us * self._waiting_weight / flow.weight, self.queued_us - job.cost_us)

    def _take(self, tenant: str) -> str:
        flow = self._flows[tenant]
        package, cost_us = flow.jobs.popitem(last=False)
        self._now = max(self._now, flow.tag)
        flow.tag += cost_us / flow.weight
        self._left(flow, cost_us)
        if flow.jobs:
            heapq.heappush(self._heap, (flow.tag, tenant))
        return package

    def _left(self, flow: _Flow, cost_us: float) -> None:
        self.queued_us -= cost_us
        if not flow.jobs:
            self._waiting_weight -= flow.weight

    def _is_void(self, entry: tuple[float, str]) -> bool:
        flow = self._flows.get(entry[1])
        return flow is None or not flow.jobs or flow.tag != entry[0]

    def _sweep(self) -> None:
        """Forget tenants that would begin anew as well as they are."""
        if len(self._flows) >= self._sweep_at:
            self._flows = {name: flow for name, flow in self._flows.items() if flow.jobs or flow.tag > self._now}
            self._sweep_at = 2 * len(self._flows) + _FLOWS_KEPT
