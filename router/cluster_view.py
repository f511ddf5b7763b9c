"""What a router knows of its cluster, from etcd: who scores, how models are placed, what tenants may do, who routes.

Contract: `on_placement` is called when the members, the way to place or a tenant's shard changed, first when all three
are known; `on_tenant` and `on_routers` when a tenant's settings or the number of live routers changed. Whatever happens
to etcd (down, slow, wiped, compacted) the last view holds; `age_s` tells how long nothing was heard.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from registry.etcd import Etcd
from registry.etcd_follow import follow
from registry.etcd_records import Changed, Listed, Put
from registry.keys import Keys, decode
from registry.member_fold import MembersView
from registry.members import follow_members
from registry.model import PlacementRecord, TenantRecord
from registry.placement import Placement
from registry.shards import NO_RULE, ShardRule, rule_of
from registry.tenant_limits import TenantLimits

_log = logging.getLogger(__name__)


def router_part(record: TenantRecord) -> TenantRecord:
    """What of a tenant's settings matters to a router."""
    return TenantRecord(
        tenant=record.tenant,
        shard_size=record.shard_size,
        premium=record.premium,
        dedicated_pool=record.dedicated_pool,
        created_at=record.created_at if record.premium else "",
        requests_per_s=record.requests_per_s,
        concurrency=record.concurrency,
        hedge=record.hedge,
    )


class ClusterView:
    """See the module; `run` follows."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        *,
        on_placement: Callable[[MembersView, Placement], None],
        on_tenant: Callable[[TenantRecord], None],
        on_routers: Callable[[int], None],
    ) -> None:
        self._etcd, self._keys = etcd, keys
        self._on_placement, self._on_tenant, self._on_routers = on_placement, on_tenant, on_routers
        self._tenants = TenantLimits(etcd, keys, self._take_tenant, router_part)
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._members: MembersView | None = None
        self._record: PlacementRecord | None = None
        self._rules: dict[str, ShardRule] = {}
        self._record_changed = asyncio.Event()
        self._scheduled = False

    @property
    def age_s(self) -> float:
        """Since when nothing was heard from etcd; what is known may be as old."""
        return self._loop.time() - self._heard_at

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tenants.run())
            tasks.create_task(self._follow_record())
            tasks.create_task(self._follow_members())
            tasks.create_task(follow_members(self._etcd, self._keys.of_routers(), self._take_routers))
            await self._tenants.listed.wait()
            self._place_soon()

    def _heard(self) -> None:
        self._heard_at = self._loop.time()

    # --- members ---

    async def _follow_members(self) -> None:
        """How long the dead keep their places is part of the record: another time begins a new fold."""
        while True:
            while self._record is None:
                await self._record_changed.wait()
            record = self._record
            following = asyncio.create_task(
                follow_members(
                    self._etcd,
                    self._keys,
                    self._take_members,
                    refill_after_s=record.refill_after_s,
                    on_heard=self._heard,
                )
            )
            try:
                while self._record.refill_after_s == record.refill_after_s:
                    await self._record_changed.wait()
            finally:
                following.cancel()
                await asyncio.wait({following})

    def _take_members(self, view: MembersView) -> None:
        self._members = view
        self._place_soon()

    def _take_routers(self, view: MembersView) -> None:
        self._on_routers(max(1, len(view.members)))

    # --- how to place ---

    async def _follow_record(self) -> None:
        await follow(self._etcd, self._keys.placement, self._take_record, "how models are placed")

    def _take_record(self, event: Listed | Changed) -> None:
        value = b"{}"
        if isinstance(event, Listed):
            values = [kv.value for kv in event.kvs if kv.key == self._keys.placement]
        else:
            values = [change.kv.value if isinstance(change, Put) else value for change in event.events]
        try:
            self._record = decode(PlacementRecord, values[-1] if values else value)
        except msgspec.DecodeError as error:
            _log.warning("how models are placed can't be read in etcd: %s", error)
            self._record = self._record or PlacementRecord()
        self._record_changed.set()
        self._record_changed = asyncio.Event()
        self._place_soon()

    def _take_tenant(self, record: TenantRecord) -> None:
        rule = rule_of(record)
        before = self._rules.pop(record.tenant, NO_RULE)
        if rule != NO_RULE:
            self._rules[record.tenant] = rule
        if rule != before:
            self._place_soon()
        self._on_tenant(record)

    def _place_soon(self) -> None:
        """Once for all that changes in this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._place)

    def _place(self) -> None:
        self._scheduled = False
        view, record = self._members, self._record
        if view is None or record is None or not self._tenants.listed.is_set():
            return
        placement = Placement(
            view.placed, replicas=record.replicas, shard_size=record.shard_size, rules=dict(self._rules)
        )
        self._on_placement(view, placement)
