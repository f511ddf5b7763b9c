"""Which members are a tenant's: shuffle sharding. Pure.

Contract: the same members and rules, in any order, give the same shards in every process. A shard has as many members
as its rule says, fewer where there are fewer; they are spread over zones as evenly as can be, and inside a zone over
hosts. One member more or less changes at most one place of a standard tenant's shard. In a zone a member is in shards
in proportion to its capacity.

- **Dedicated**: a pool that a tenant's rule names is that tenant's alone (or theirs, where several name it): its shard
  is of this pool, and nobody else's has a member of it. While the pool has no member, the tenant has a common shard.
- **Premium**: two premium tenants share at most `premium_overlap` members wherever that can be. They choose one after
  the other, the one that was made first first; each takes its members in the order of its own rank and leaves out
  those by which it would share too many with one before it. Where too few are left it takes from those that were left
  out, the bound one higher each time: such a shard is full, and shares as little as this order can. A premium tenant
  that comes later never moves an earlier one. What a premium tenant shares with standard ones isn't bounded.

Source of the idea: Amazon's Infima; C. MacCarthaigh, "Workload isolation using shuffle sharding" (Amazon Builders'
Library). Cost of a shard: a hash for each member. Of all premium shards, P of size k: P * k * (k * P / N) steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from registry.model import Member, TenantRecord
from registry.rendezvous import rank, score

_CACHED_TENANTS = 100_000


class ShardRule(NamedTuple):
    """What placement needs of a tenant's record. `size`: of its shard; 0: the cluster's default, or the whole of its
    dedicated `pool`. `since`: when the tenant was made, the order of the premium ones.
    """

    size: int = 0
    premium: bool = False
    pool: str = ""
    since: str = ""


NO_RULE = ShardRule()


def rule_of(record: TenantRecord) -> ShardRule:
    """The rule of a tenant; NO_RULE, of which nothing need be held, where it's as others."""
    rule = ShardRule(record.shard_size, record.premium, record.dedicated_pool)
    return rule._replace(since=record.created_at) if rule.premium else rule


class Shards:
    """The shards over one set of members. Immutable but for its cache of answers.

    `default_size`: of who has no size of its own; 0: all common members. `premium_overlap`: see the module.
    """

    def __init__(
        self, members: Iterable[Member], rules: Mapping[str, ShardRule], default_size: int, premium_overlap: int
    ) -> None:
        self._rules, self._default_size, self._premium_overlap = rules, default_size, premium_overlap
        pools = {rule.pool for rule in rules.values() if rule.pool}
        self._common: list[Member] = []
        self._dedicated: dict[str, list[Member]] = {}
        for member in sorted(members, key=lambda member: member.id):
            dedicated = self._dedicated.setdefault(member.pool, []) if member.pool in pools else self._common
            dedicated.append(member)
        self._shards: dict[str, tuple[Member, ...]] = {}
        self._premium: dict[str, tuple[Member, ...]] | None = None

    def of(self, tenant: str) -> tuple[Member, ...]:
        """The shard of a tenant."""
        shard = self._shards.get(tenant)
        if shard is None:
            shard = self._choose(tenant)
            if len(self._shards) >= _CACHED_TENANTS:
                self._shards.clear()
            self._shards[tenant] = shard
        return shard

    def eligible(self, tenant: str) -> Sequence[Member]:
        """The members of which a tenant's shard is chosen."""
        return self._dedicated.get(self._rules.get(tenant, NO_RULE).pool) or self._common

    def _choose(self, tenant: str) -> tuple[Member, ...]:
        if not self._rules.get(tenant, NO_RULE).premium:
            return tuple(_take(self._lanes(tenant), self._size(tenant), lambda _member: True))
        if self._premium is None:
            self._premium = self._choose_premium()
        return self._premium[tenant]

    def _size(self, tenant: str) -> int:
        rule, most = self._rules.get(tenant, NO_RULE), len(self.eligible(tenant))
        default = 0 if rule.pool in self._dedicated else self._default_size
        return min(rule.size or default or most, most)

    def _lanes(self, tenant: str) -> list[list[Member]]:
        return _lanes(self.eligible(tenant), tenant.encode())

    def _choose_premium(self) -> dict[str, tuple[Member, ...]]:
        premium = sorted((rule.since, tenant) for tenant, rule in self._rules.items() if rule.premium)
        holders: defaultdict[str, list[str]] = defaultdict(list)
        chosen = {}
        for _since, tenant in premium:
            chosen[tenant] = _least_shared(self._lanes(tenant), self._size(tenant), self._premium_overlap, holders)
            for member in chosen[tenant]:
                holders[member.id].append(tenant)
        return chosen


def _lanes(members: Iterable[Member], key: bytes) -> list[list[Member]]:
    """The members of each zone in the order in which the key takes them: the best of each host, then the second best
    of each, and so on. The zones by their rank for the key, which no member changes.
    """
    zones: defaultdict[str, list[Member]] = defaultdict(list)
    for member in rank(members, key):
        zones[member.zone].append(member)
    return [_by_layers(zones[zone]) for zone in sorted(zones, key=lambda zone: (-score(zone, 1.0, key), zone))]


def _by_layers(ranked: Iterable[Member]) -> list[Member]:
    seen: Counter[str] = Counter()
    layered: list[tuple[int, Member]] = []
    for member in ranked:
        layered.append((seen[member.host], member))
        seen[member.host] += 1
    return [member for _layer, member in sorted(layered, key=lambda entry: entry[0])]


def _take(lanes: Sequence[Sequence[Member]], size: int, may_take: Callable[[Member], bool]) -> list[Member]:
    """Up to `size` members, one of each zone in turn, until the zones have no more that may be taken."""
    waiting = [iter(lane) for lane in lanes]
    taken: list[Member] = []
    while waiting:
        still_waiting = []
        for lane in waiting:
            member = next(filter(may_take, lane), None) if len(taken) < size else None
            if member is not None:
                taken.append(member)
                still_waiting.append(lane)
        waiting = still_waiting
    return taken


def _least_shared(
    lanes: Sequence[Sequence[Member]], size: int, most: int, holders: Mapping[str, Sequence[str]]
) -> tuple[Member, ...]:
    """`size` members by `_take`, which share at most `most` with any of the `holders` of members, and one more each
    time that these are too few. Ends, as every member may be taken when `most` is `size`.
    """
    shared: Counter[str] = Counter()
    taken: list[Member] = []

    def claim(member: Member) -> bool:
        others = holders.get(member.id, ())
        if any(shared[other] >= most for other in others):
            return False
        shared.update(others)
        return True

    while len(taken) < size:
        taken += _take(lanes, size - len(taken), claim)
        known = {member.id for member in taken}
        lanes = [[member for member in lane if member.id not in known] for lane in lanes]
        most += 1
    return tuple(taken)
