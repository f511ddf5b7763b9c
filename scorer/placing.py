"""Placing models as the routers of the cluster do.

Contract: `refresh` reads how from etcd, where few ever change it; while etcd is dead what was read last holds, at first
the defaults. Tenants' own rules come by `set_rule`, of records with at least what `placement_part` keeps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from registry.errors import ScoreMeshError
from registry.etcd import Etcd
from registry.keys import Keys, decode
from registry.model import Member, PlacementRecord, TenantRecord
from registry.placement import Placement
from registry.shards import NO_RULE, ShardRule, rule_of
from registry.tenant_limits import memory_part

_log = logging.getLogger(__name__)


def placement_part(record: TenantRecord) -> TenantRecord:
    """What matters to a scorer of a tenant's settings: how much memory it has, and where its models are."""
    return msgspec.structs.replace(
        memory_part(record),
        shard_size=record.shard_size,
        dedicated_pool=record.dedicated_pool,
        created_at=record.created_at if record.premium else "",
    )


class Placing:
    """See the module."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._key = etcd, keys.placement
        self._rules: dict[str, ShardRule] = {}
        self._record = PlacementRecord()

    def set_rule(self, record: TenantRecord) -> None:
        """Place a tenant's models by its settings from now on."""
        rule = rule_of(record)
        if rule == NO_RULE:
            self._rules.pop(record.tenant, None)
        else:
            self._rules[record.tenant] = rule

    async def refresh(self) -> None:
        """Read how models are placed."""
        try:
            _, found = await self._etcd.get(self._key)
            self._record = decode(PlacementRecord, found.value) if found is not None else PlacementRecord()
        except (ScoreMeshError, msgspec.DecodeError) as error:
            _log.warning("can't read how models are placed: %s", error)

    def place(self, members: Iterable[Member]) -> Placement:
        """The placement among these members."""
        record = self._record
        return Placement(members, replicas=record.replicas, shard_size=record.shard_size, rules=dict(self._rules))

    @property
    def refill_after_s(self) -> float:
        """How long those that died keep their places."""
        return self._record.refill_after_s
