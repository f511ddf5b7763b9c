"""What a router learns of its cluster from a real etcd, and what it keeps when etcd is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.member_fold import MembersView
from registry.model import Member, MemberState, PlacementRecord, TenantRecord
from registry.placement import Placement
from router.cluster_view import ClusterView
from tests.integration.conftest import Crash, WaitUntil


def member(name: str, state: MemberState = MemberState.READY) -> Member:
    return Member(
        id=name, address="127.0.0.1:1", host=name, zone="z", pool="p", capacity_bytes=1, incarnation="1", state=state
    )


class Told:
    """What a view told last, and all tenants in order."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self.placement: Placement | None = None
        self.members: MembersView | None = None
        self.tenants: list[TenantRecord] = []
        self.routers = 0
        self.view = ClusterView(
            etcd, keys, on_placement=self._place, on_tenant=self.tenants.append, on_routers=self._count
        )

    def _place(self, members: MembersView, placement: Placement) -> None:
        self.members, self.placement = members, placement

    def _count(self, routers: int) -> None:
        self.routers = routers

    def shard(self, tenant: str) -> set[str]:
        return {one.id for one in self.placement.shard(tenant)} if self.placement is not None else set()


@asynccontextmanager
async def following(etcd: Etcd, keys: Keys) -> AsyncIterator[Told]:
    told = Told(etcd, keys)
    task = asyncio.create_task(told.view.run())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def put_members(etcd: Etcd, keys: Keys, count: int) -> None:
    for number in range(count):
        await etcd.put(keys.member(f"s{number}"), encode(member(f"s{number}")))


async def test_an_empty_cluster_is_a_placement_of_nobody(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    async with following(etcd, keys) as told:
        await wait_until(lambda: told.placement is not None and told.routers == 1)
        assert told.shard("acme") == set()


async def test_records_of_tenants_and_of_placing_apply_live(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    await put_members(etcd, keys, 6)
    async with following(etcd, keys) as told:
        await wait_until(lambda: len(told.shard("acme")) == PlacementRecord().shard_size)
        before = told.shard("other")
        record = TenantRecord(tenant="acme", revision=1, shard_size=2, requests_per_s=5, concurrency=7, hedge=True)
        await etcd.put(keys.tenant("acme"), encode(record))
        await wait_until(lambda: len(told.shard("acme")) == 2)
        assert told.shard("other") == before
        (heard,) = told.tenants
        assert (heard.requests_per_s, heard.concurrency, heard.hedge) == (5, 7, True)
        await etcd.put(keys.tenant("acme"), encode(TenantRecord(tenant="acme", revision=2, guaranteed_bytes=9)))
        await wait_until(lambda: len(told.tenants) == 2)
        await wait_until(lambda: len(told.shard("acme")) == PlacementRecord().shard_size)
        await etcd.put(keys.placement, encode(PlacementRecord(replicas=3, shard_size=5)))
        await wait_until(lambda: len(told.shard("acme")) == 5)
        assert told.placement is not None
        assert told.placement.replicas == 3
        await etcd.put(keys.placement, b"garbage")
        await etcd.put(keys.tenant("last"), encode(TenantRecord(tenant="last", shard_size=1)))
        await wait_until(lambda: len(told.shard("last")) == 1)
        assert len(told.shard("acme")) == 5, "what can't be read changes nothing"
        await etcd.delete(keys.placement)
        await wait_until(lambda: len(told.shard("acme")) == PlacementRecord().shard_size)


async def test_how_long_the_dead_keep_their_places_applies_live(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    await put_members(etcd, keys, 3)
    async with following(etcd, keys) as told:
        await wait_until(lambda: len(told.shard("acme")) == 3)
        await etcd.delete(keys.member("s0"))
        await wait_until(lambda: told.members is not None and set(told.members.down) == {"s0"})
        await etcd.put(keys.placement, encode(PlacementRecord(refill_after_s=0.0)))
        await wait_until(lambda: told.shard("acme") == {"s1", "s2"})
        await etcd.delete(keys.member("s1"))
        await wait_until(lambda: told.shard("acme") == {"s2"})


async def test_routers_are_counted(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    routers = keys.of_routers()
    async with following(etcd, keys) as told:
        for name in ("r1", "r2"):
            await etcd.put(routers.member(name), encode(member(name)))
        await wait_until(lambda: told.routers == 2)
        assert told.shard("acme") == set(), "a router is no scorer"
        await etcd.delete(routers.member("r1"))
        await wait_until(lambda: told.routers == 1)


async def test_the_last_view_holds_while_etcd_is_dead_and_gets_older(
    own_etcd: Etcd, own_server: EtcdServer, crash: Crash, keys: Keys, wait_until: WaitUntil
) -> None:
    await put_members(own_etcd, keys, 3)
    await own_etcd.put(keys.tenant("acme"), encode(TenantRecord(tenant="acme", shard_size=1)))
    async with following(own_etcd, keys) as told:
        await wait_until(lambda: len(told.shard("acme")) == 1)
        shard = told.shard("acme")
        await crash(own_server)
        seen_at = told.view.age_s
        await wait_until(lambda: told.view.age_s > seen_at + 3)
        assert (told.shard("acme"), len(told.shard("other"))) == (shard, 3)
        own_server.restart()
        await wait_until(lambda: told.view.age_s < 2)
        await own_etcd.put(keys.member("s3"), encode(member("s3")))
        await wait_until(lambda: len(told.shard("other")) == 4)


async def test_a_frozen_etcd_gets_old_too(
    own_etcd: Etcd, own_server: EtcdServer, keys: Keys, wait_until: WaitUntil
) -> None:
    await put_members(own_etcd, keys, 1)
    async with following(own_etcd, keys) as told:
        await wait_until(lambda: told.shard("acme") == {"s0"})
        own_server.freeze()
        await wait_until(lambda: told.view.age_s > 3.5)
        assert told.shard("acme") == {"s0"}
        own_server.thaw()
        await wait_until(lambda: told.view.age_s < 2)


async def test_compaction_is_not_noticed(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    await put_members(etcd, keys, 2)
    async with following(etcd, keys) as told:
        await wait_until(lambda: len(told.shard("acme")) == 2)
        revision = 0
        for number in range(20):
            revision = await etcd.put(
                keys.tenant(f"t{number}"), encode(TenantRecord(tenant=f"t{number}", shard_size=1))
            )
        await etcd.compact(revision)
        await put_members(etcd, keys, 3)
        await wait_until(lambda: len(told.shard("acme")) == 3 and len(told.shard("t19")) == 1)
