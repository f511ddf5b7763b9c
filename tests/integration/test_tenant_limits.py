"""What a scorer hears of tenants' settings, from a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.model import TenantRecord
from registry.tenant_limits import TenantLimits
from tests.integration.conftest import WaitUntil


@asynccontextmanager
async def following(etcd: Etcd, keys: Keys) -> AsyncIterator[list[TenantRecord]]:
    """All that is told."""
    told: list[TenantRecord] = []
    task = asyncio.create_task(TenantLimits(etcd, keys, told.append).run())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def put(etcd: Etcd, keys: Keys, record: TenantRecord) -> None:
    await etcd.put(keys.tenant(record.tenant), encode(record))


async def test_only_what_concerns_memory_is_told_and_only_when_it_changes(
    etcd: Etcd, keys: Keys, wait_until: WaitUntil
) -> None:
    await put(etcd, keys, TenantRecord(tenant="acme", revision=1, guaranteed_bytes=100, shard_size=2))
    await put(etcd, keys, TenantRecord(tenant="plain", revision=1, shard_size=2))
    async with following(etcd, keys) as told:
        await wait_until(lambda: len(told) == 1)
        await put(etcd, keys, TenantRecord(tenant="acme", revision=2, guaranteed_bytes=100, shard_size=3))
        await put(etcd, keys, TenantRecord(tenant="rich", premium=True, max_bytes=7))
        await put(etcd, keys, TenantRecord(tenant="acme", revision=3, guaranteed_bytes=50))
        await etcd.put(keys.tenant("rich"), b"garbage")
        await etcd.put(keys.tenant("plain"), b"garbage")
        await etcd.delete(keys.tenant("acme"))
        await put(etcd, keys, TenantRecord(tenant="last", premium=True))
        await wait_until(lambda: told[-1].tenant == "last")
    assert told == [
        TenantRecord(tenant="acme", guaranteed_bytes=100),
        TenantRecord(tenant="rich", premium=True, max_bytes=7),
        TenantRecord(tenant="acme", guaranteed_bytes=50),
        TenantRecord(tenant="rich"),
        TenantRecord(tenant="acme"),
        TenantRecord(tenant="last", premium=True),
    ]


async def test_it_survives_the_death_of_etcd_and_hears_what_changed_meanwhile(
    own_server: EtcdServer, own_etcd: Etcd, keys: Keys, wait_until: WaitUntil
) -> None:
    for tenant in ("acme", "umbrella"):
        await put(own_etcd, keys, TenantRecord(tenant=tenant, max_bytes=7))
    async with following(own_etcd, keys) as told:
        await wait_until(lambda: len(told) == 2)
        await asyncio.to_thread(own_server.terminate)
        own_server.start()
        await own_etcd.delete(keys.tenant("umbrella"))
        await wait_until(lambda: len(told) == 3)
    assert told[2] == TenantRecord(tenant="umbrella")
