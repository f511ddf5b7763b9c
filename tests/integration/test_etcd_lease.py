from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.etcd_lease import Lease
from registry.etcd_watch import Changed, Deleted
from registry.keys import Keys
from tests.fault_proxy import FaultProxy

WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]
Crash = Callable[[EtcdServer], Awaitable[None]]
MakeProxy = Callable[[str], Awaitable[FaultProxy]]


async def test_a_lease_is_kept_and_revoked(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    clock = asyncio.get_running_loop().time
    lease = await Lease.grant(etcd, 2.0)
    await etcd.put(keys.member("m1"), b"v", lease.id)
    well_past = clock() + 1.5 * lease.ttl_s
    await wait_until(lambda: clock() > well_past)
    assert not lease.lost.is_set()
    assert (await etcd.get(keys.member("m1")))[1] is not None
    await lease.revoke()
    assert (await etcd.get(keys.member("m1")))[1] is None
    assert not lease.lost.is_set()
    await lease.revoke()  # twice does no harm


async def test_after_aclose_it_ends_by_itself(etcd: Etcd, keys: Keys) -> None:
    lease = await Lease.grant(etcd, 1.0)
    await etcd.put(keys.member("m1"), b"v", lease.id)
    await lease.aclose()
    async with asyncio.timeout(20), aclosing(etcd.watch(keys.members_prefix)) as watch:
        while not (isinstance(step := await anext(watch), Changed) and isinstance(step.events[0], Deleted)):
            pass
    assert await lease.time_left_s() == -1
    assert not lease.lost.is_set()


async def test_it_is_lost_when_etcd_is_silent_for_longer_than_it_lives(own_server: EtcdServer, own_etcd: Etcd) -> None:
    lease = await Lease.grant(own_etcd, 2.0)
    own_server.freeze()
    async with asyncio.timeout(20):
        await lease.lost.wait()
    own_server.thaw()
    await lease.aclose()


async def test_it_is_lost_when_somebody_revokes_it(etcd: Etcd) -> None:
    lease = await Lease.grant(etcd, 3.0)
    other = Lease(etcd, lease.id, lease.ttl_s, asyncio.get_running_loop().time())
    await other.revoke()
    async with asyncio.timeout(20):
        await lease.lost.wait()
    await lease.aclose()


async def test_it_survives_a_restart_of_etcd(own_server: EtcdServer, own_etcd: Etcd, keys: Keys, crash: Crash) -> None:
    lease = await Lease.grant(own_etcd, 20.0)
    await own_etcd.put(keys.member("m1"), b"v", lease.id)
    await crash(own_server)
    own_server.spawn()
    await asyncio.to_thread(own_server.wait_healthy)
    assert (await own_etcd.get(keys.member("m1")))[1] is not None
    assert await lease.time_left_s() > 0
    assert not lease.lost.is_set()
    await lease.revoke()


async def test_a_silent_node_is_left_before_the_lease_ends(
    etcd: Etcd, keys: Keys, make_proxy: MakeProxy, wait_until: WaitUntil
) -> None:
    clock = asyncio.get_running_loop().time
    proxy = await make_proxy(etcd.endpoints.current.address)
    client = Etcd([proxy.address, etcd.endpoints.current.address])
    try:
        lease = await Lease.grant(client, 3.0)
        proxy.down.dropping = True
        well_past = clock() + 1.5 * lease.ttl_s
        await wait_until(lambda: clock() > well_past)
        assert not lease.lost.is_set()
        await lease.aclose()
    finally:
        await client.aclose()
