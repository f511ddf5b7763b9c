from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.etcd_watch import Changed, Deleted, Gap, Listed, Put
from registry.keys import Keys
from tests.fault_proxy import FaultProxy

WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]
Crash = Callable[[EtcdServer], Awaitable[None]]
MakeProxy = Callable[[str], Awaitable[FaultProxy]]


async def take_changes(watch: AsyncGenerator[Any, None], count: int) -> list[Put | Deleted]:
    """The next `count` events, which must come without a new listing."""
    events: list[Put | Deleted] = []
    async with asyncio.timeout(30):
        while len(events) < count:
            step = await anext(watch)
            assert isinstance(step, Changed)
            events += step.events
    assert len(events) == count
    return events


async def take_state(watch: AsyncGenerator[Any, None]) -> Any:
    """The next listing or gap."""
    async with asyncio.timeout(30):
        while isinstance(step := await anext(watch), Changed):
            pass
    return step


def values(events: list[Put | Deleted]) -> list[bytes]:
    return [event.kv.value if isinstance(event, Put) else b"deleted" for event in events]


async def come_back(server: EtcdServer) -> None:
    server.spawn()
    await asyncio.to_thread(server.wait_healthy)


async def test_first_the_state_then_each_change(etcd: Etcd, keys: Keys) -> None:
    key = keys.member("m1")
    before = await etcd.put(key, b"before")
    async with aclosing(etcd.watch(keys.members_prefix)) as watch:
        listed = await anext(watch)
        assert isinstance(listed, Listed)
        assert [(kv.key, kv.value, kv.mod_revision) for kv in listed.kvs] == [(key, b"before", before)]
        after = await etcd.put(key, b"after")
        await etcd.put(keys.tenants_prefix, b"not watched")
        await etcd.delete(key)
        events = await take_changes(watch, 2)
    assert values(events) == [b"after", b"deleted"]
    assert isinstance(events[0], Put)
    assert events[0].kv.mod_revision == after
    assert isinstance(events[1], Deleted)


async def test_a_gap_stands_for_the_state_when_it_is_not_wanted(etcd: Etcd, keys: Keys) -> None:
    revision = await etcd.put(keys.member("m1"), b"before")
    async with aclosing(etcd.watch_changes(keys.members_prefix)) as watch:
        assert await anext(watch) == Gap(revision)
        await etcd.put(keys.member("m1"), b"after")
        assert values(await take_changes(watch, 1)) == [b"after"]


async def test_a_large_burst_comes_in_order(etcd: Etcd, keys: Keys, make_proxy: MakeProxy) -> None:
    """2 MB of events that are waiting at a reconnect make etcd split its answers."""
    proxy = await make_proxy(etcd.endpoints.current.address)
    client = Etcd([proxy.address])
    try:
        async with aclosing(client.watch(keys.members_prefix)) as watch:
            assert isinstance(await anext(watch), Listed)
            proxy.refusing = True
            await proxy.reset_all()
            for n in range(300):
                await etcd.put(keys.member("m1"), b"%04d" % n + bytes(8000))
            proxy.refusing = False
            events = await take_changes(watch, 300)
    finally:
        await client.aclose()
    assert [int(value[:4]) for value in values(events)] == list(range(300))


async def test_cut_connections_lose_and_double_nothing(etcd: Etcd, keys: Keys, make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(etcd.endpoints.current.address)
    client = Etcd([proxy.address])
    try:
        async with aclosing(client.watch(keys.members_prefix)) as watch:
            assert isinstance(await anext(watch), Listed)
            events: list[Put | Deleted] = []
            for first in range(0, 50, 10):
                for n in range(first, first + 10):
                    await etcd.put(keys.member("m1"), b"%d" % n)
                await proxy.reset_all()
                events += await take_changes(watch, 10)
    finally:
        await client.aclose()
    assert [int(value) for value in values(events)] == list(range(50))


async def test_a_silent_connection_is_left(etcd: Etcd, keys: Keys, make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(etcd.endpoints.current.address)
    client = Etcd([proxy.address, etcd.endpoints.current.address], timeout_s=0.5)
    try:
        async with aclosing(client.watch(keys.members_prefix, stall_s=1.0)) as watch:
            await anext(watch)
            await etcd.put(keys.member("m1"), b"1")
            assert values(await take_changes(watch, 1)) == [b"1"]
            proxy.down.dropping = True
            await etcd.put(keys.member("m1"), b"2")
            assert values(await take_changes(watch, 1)) == [b"2"]
    finally:
        await client.aclose()


async def test_a_compaction_during_an_absence_brings_the_state(
    own_etcd: Etcd, keys: Keys, make_proxy: MakeProxy
) -> None:
    proxy = await make_proxy(own_etcd.endpoints.current.address)
    client = Etcd([proxy.address])
    try:
        async with aclosing(client.watch(keys.members_prefix)) as watch:
            await anext(watch)
            proxy.refusing = True
            await proxy.reset_all()
            for n in range(10):
                last = await own_etcd.put(keys.member("m1"), b"%d" % n)
            await own_etcd.compact(last)
            proxy.refusing = False
            listed = await take_state(watch)
            assert isinstance(listed, Listed)
            assert [kv.value for kv in listed.kvs] == [b"9"]
            await own_etcd.put(keys.member("m1"), b"10")
            assert values(await take_changes(watch, 1)) == [b"10"]
    finally:
        await client.aclose()


async def test_a_compaction_under_a_running_watch_changes_nothing(own_etcd: Etcd, keys: Keys) -> None:
    async with aclosing(own_etcd.watch(keys.members_prefix)) as watch:
        await anext(watch)
        for n in range(5):
            revision = await own_etcd.put(keys.member("m1"), b"%d" % n)
            assert values(await take_changes(watch, 1)) == [b"%d" % n]
            await own_etcd.compact(revision)


async def test_kill_and_restart_lose_and_double_nothing(
    own_server: EtcdServer, own_etcd: Etcd, keys: Keys, crash: Crash
) -> None:
    async with aclosing(own_etcd.watch(keys.members_prefix, stall_s=2.0)) as watch:
        await anext(watch)
        for n in range(3):
            await own_etcd.put(keys.member("m1"), b"%d" % n)
            await crash(own_server)
            await come_back(own_server)
        events = await take_changes(watch, 3)
    assert values(events) == [b"0", b"1", b"2"]


async def test_a_frozen_node_that_thaws_goes_on(own_server: EtcdServer, own_etcd: Etcd, keys: Keys) -> None:
    async with aclosing(own_etcd.watch(keys.members_prefix, stall_s=0.5)) as watch:
        await anext(watch)
        await own_etcd.put(keys.member("m1"), b"1")
        assert values(await take_changes(watch, 1)) == [b"1"]
        own_server.freeze()
        waiting = asyncio.ensure_future(anext(watch))
        done, _ = await asyncio.wait({waiting}, timeout=2)  # long enough for the watch to leave the stream
        assert not done
        own_server.thaw()
        await own_etcd.put(keys.member("m1"), b"2")
        async with asyncio.timeout(30):
            step = await waiting
        assert isinstance(step, Changed)
        assert values(list(step.events)) == [b"2"]


async def test_a_wiped_store_brings_the_new_state(own_server: EtcdServer, own_etcd: Etcd, keys: Keys) -> None:
    for n in range(20):
        await own_etcd.put(keys.member("old"), b"%d" % n)
    async with aclosing(own_etcd.watch(keys.members_prefix, stall_s=2.0)) as watch:
        listed = await anext(watch)
        assert [kv.key for kv in listed.kvs] == [keys.member("old")]  # type: ignore[union-attr]
        own_server.kill()
        own_server.wipe()
        await come_back(own_server)
        await own_etcd.put(keys.member("new"), b"v")
        anew = await take_state(watch)
        assert anew.revision < listed.revision
        seen = {kv.key for kv in anew.kvs}
        if not seen:  # the listing came before the put
            seen = {event.kv.key for event in await take_changes(watch, 1)}  # type: ignore[union-attr]
        assert seen == {keys.member("new")}


async def test_a_watch_that_begins_while_etcd_is_dead_waits_for_it(
    own_server: EtcdServer, own_etcd: Etcd, keys: Keys, crash: Crash
) -> None:
    await own_etcd.put(keys.member("m1"), b"v")
    await crash(own_server)
    async with aclosing(own_etcd.watch(keys.members_prefix)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await come_back(own_server)
        async with asyncio.timeout(30):
            listed = await waiting
        assert isinstance(listed, Listed)
        assert [kv.value for kv in listed.kvs] == [b"v"]


async def test_closing_and_cancelling_leave_nothing_running(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    before = asyncio.all_tasks()
    async with aclosing(etcd.watch(keys.members_prefix)) as watch:
        await anext(watch)
    async with aclosing(etcd.watch(keys.members_prefix)) as watch:
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await etcd.put(keys.member("other"), b"v")
        await asyncio.wait({waiting})
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
    # gRPC ends its own task for a cancelled call a moment later.
    await wait_until(lambda: asyncio.all_tasks() <= before)
