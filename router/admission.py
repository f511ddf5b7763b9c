"""Whether a request may go on: the tenant's rate, its concurrency, and its share of what the router can do. Pure.

Contract: `admit` says yes with a gate, to be given back by `release` exactly once, or no with a Refusal. A tenant's
quota is for the whole cluster; each of the live routers enforces its part of it. Changes of records and of the number
of routers hold from the next request on. A tenant without settings has no quota, but a share.

Every `window_s` the limit is judged anew by what gates saw (`answered`, `dropped`), at the next `admit`. Memory is
bounded: gates of tenants without settings that have nothing in flight are dropped when there are too many.

Cost of a request: two looks into dicts and some sums; nothing is allocated for one that is let through.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil
from typing import NamedTuple

from registry.model import TenantRecord
from router.adaptive_limit import AdaptiveLimit, Experience
from router.concurrency import Partition, SharedLimit
from router.token_bucket import TokenBucket

PREMIUM_WEIGHT = 4
_MOST_GATES = 50_000
_BURST_S = 1.0
_WAIT_BUSY_S = 0.1


class Limit(StrEnum):
    """Which limit a request ran into."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    OVERLOAD = "overload"


class Refusal(NamedTuple):
    """Why not, and when to ask again."""

    limit: Limit
    retry_after_ms: int


class Gate(Partition):
    """A tenant's door. `answered`, `stretched` and `dropped` are of the window; count on them directly:
    an answer from memory adds 1 and its stretch, one that ran out of time or of a scorer's room adds to `dropped`.
    """

    __slots__ = ("answered", "bucket", "concurrency", "dropped", "is_seen", "stretched")

    def __init__(self) -> None:
        super().__init__()
        self.bucket: TokenBucket | None = None
        self.concurrency = 0
        self.answered = self.dropped = 0
        self.stretched = 0.0
        self.is_seen = False


class Admission:
    """See the module. `routers`: how many are alive, this one among them."""

    def __init__(self, limit: AdaptiveLimit, *, routers: int = 1, window_s: float = 0.25) -> None:
        self._limit, self._routers, self._window_s = limit, routers, window_s
        self._shared = SharedLimit(limit.value)
        self._gates: dict[str, Gate] = {}
        self._records: dict[str, TenantRecord] = {}
        self._seen: list[Gate] = []
        self._judge_at_s = 0.0

    @property
    def in_flight(self) -> int:
        """Requests that were let through and have not ended."""
        return self._shared.in_flight

    @property
    def limit(self) -> int:
        """How many may be."""
        return self._shared.limit

    def admit(self, tenant: str, now: float) -> Gate | Refusal:
        """Let a request through, or say why not."""
        if now >= self._judge_at_s:
            self._judge(now)
        gate = self._gates.get(tenant)
        if gate is None:
            gate = self._open(tenant, now)
        if gate.concurrency and gate.in_flight >= gate.concurrency:
            return Refusal(Limit.CONCURRENCY, _ms(_WAIT_BUSY_S))
        shared = self._shared
        if shared.in_flight >= shared.limit and not shared.has_room(gate):
            return Refusal(Limit.OVERLOAD, _ms(_WAIT_BUSY_S))
        if gate.bucket is not None and not gate.bucket.take(now):
            return Refusal(Limit.RATE, _ms(gate.bucket.wait_s))
        if not gate.is_seen:
            gate.is_seen = True
            self._seen.append(gate)
        shared.start(gate)
        return gate

    def release(self, gate: Gate) -> None:
        """The request has ended, however it did."""
        self._shared.end(gate)

    def set_tenant(self, record: TenantRecord, now: float) -> None:
        """A tenant's settings are these from now on; a record of defaults where it has none any more."""
        if record == TenantRecord(tenant=record.tenant):
            self._records.pop(record.tenant, None)
        else:
            self._records[record.tenant] = record
        gate = self._gates.get(record.tenant)
        if gate is not None:
            self._set(gate, record, now)

    def set_routers(self, routers: int, now: float) -> None:
        """So many routers share each quota from now on; at least this one."""
        self._routers = max(routers, 1)
        for tenant, record in self._records.items():
            gate = self._gates.get(tenant)
            if gate is not None:
                self._set(gate, record, now)

    def _open(self, tenant: str, now: float) -> Gate:
        if len(self._gates) >= _MOST_GATES:
            self._gates = {name: gate for name, gate in self._gates.items() if gate.in_flight or name in self._records}
        gate = self._gates[tenant] = Gate()
        record = self._records.get(tenant)
        if record is not None:
            self._set(gate, record, now)
        return gate

    def _set(self, gate: Gate, record: TenantRecord, now: float) -> None:
        self._shared.change_weight(gate, PREMIUM_WEIGHT if record.premium else 1)
        gate.concurrency = ceil(record.concurrency / self._routers)
        rate = record.requests_per_s / self._routers
        if not rate:
            gate.bucket = None
        elif gate.bucket is None:
            gate.bucket = TokenBucket(rate, rate * _BURST_S, now)
        else:
            gate.bucket.change(rate, rate * _BURST_S, now)

    def _judge(self, now: float) -> None:
        """What is still in flight of a gate is heard of in a later window."""
        self._judge_at_s = now + self._window_s
        shared, seen = self._shared, self._seen
        experiences = [Experience(gate.answered, gate.stretched, gate.dropped) for gate in seen]
        shared.limit = self._limit.judge(experiences, shared.most_in_flight)
        shared.most_in_flight = shared.in_flight
        for gate in seen:
            gate.answered = gate.dropped = 0
            gate.stretched = 0.0
            gate.is_seen = gate.in_flight > 0
        self._seen = [gate for gate in seen if gate.is_seen]


def _ms(seconds: float) -> int:
    return max(1, ceil(seconds * 1000))
