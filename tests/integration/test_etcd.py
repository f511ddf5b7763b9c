from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from ops.etcd_server import EtcdServer, free_port
from registry.errors import ConflictError, EtcdHistoryGoneError, EtcdLeaseLostError, EtcdUnavailableError
from registry.etcd import Etcd, KeyValue
from registry.etcd_watch import Changed, Listed
from registry.keys import Keys
from tests.fault_proxy import FaultProxy

Crash = Callable[[EtcdServer], Awaitable[None]]
MakeProxy = Callable[[str], Awaitable[FaultProxy]]


async def test_what_is_put_can_be_read_and_deleted(etcd: Etcd, keys: Keys) -> None:
    key = keys.member("m1")
    revision = await etcd.put(key, b"v")
    read_at, kv = await etcd.get(key)
    assert kv == KeyValue(key, b"v", revision)
    assert read_at >= revision
    assert await etcd.delete(key)
    assert not await etcd.delete(key)
    assert (await etcd.get(key))[1] is None


async def test_delete_prefix_spares_its_neighbours(etcd: Etcd, keys: Keys) -> None:
    inside = [keys.members_prefix + bytes([n]) for n in (0, 1, 0x80, 0xFF)]
    outside = keys.members_prefix[:-1] + b"0"  # the key right behind the prefix
    for key in [*inside, outside]:
        await etcd.put(key, b"")
    assert await etcd.delete_prefix(keys.members_prefix) == len(inside)
    assert (await etcd.get(outside))[1] is not None


async def test_a_listing_is_of_one_revision_while_writers_write(etcd: Etcd, keys: Keys) -> None:
    """Each writer rewrites its keys in ascending order, round after round: at any one revision the rounds that are
    read from low to high keys never grow, and differ by one at most."""
    names = [keys.members_prefix + b"%04d" % n for n in range(2000)]
    for first in range(0, 2000, 100):
        await asyncio.gather(*(etcd.put(name, b"0") for name in names[first : first + 100]))
    busy = asyncio.create_task(_rewrite(etcd, names))
    try:
        listings = [await etcd.list_prefix(keys.members_prefix, page_size=150) for _ in range(5)]
    finally:
        busy.cancel()
        await asyncio.wait({busy})
    for listing in listings:
        assert [kv.key for kv in listing.kvs] == names
        assert max(kv.mod_revision for kv in listing.kvs) <= listing.revision
        rounds = [int(kv.value) for kv in listing.kvs]
        assert rounds == sorted(rounds, reverse=True)
        assert rounds[0] - rounds[-1] <= 1
    assert listings[-1].revision > listings[0].revision


async def _rewrite(etcd: Etcd, names: list[bytes]) -> None:
    for number in range(1, 10**6):
        for name in names:
            await etcd.put(name, b"%d" % number)


async def test_a_compaction_makes_a_listing_begin_anew(own_etcd: Etcd, keys: Keys) -> None:
    names = [keys.members_prefix + b"%03d" % n for n in range(200)]
    for name in names:
        await own_etcd.put(name, b"old")
    compacting = asyncio.create_task(_rewrite_and_compact(own_etcd, names[0]))
    listing = await own_etcd.list_prefix(keys.members_prefix, page_size=1)
    compacted_at = await compacting
    assert [kv.key for kv in listing.kvs] == names
    assert listing.revision >= compacted_at, "the listing was over before the compaction: it needs more keys"
    with pytest.raises(EtcdHistoryGoneError):
        await own_etcd.compact(1)


async def _rewrite_and_compact(etcd: Etcd, name: bytes) -> int:
    for _ in range(3):
        revision = await etcd.put(name, b"new")
    await etcd.compact(revision)
    return revision


async def test_compare_and_swap_takes_turns(etcd: Etcd, keys: Keys) -> None:
    key = keys.member("m1")
    made = await etcd.compare_and_swap(key, b"1", 0)
    assert made.succeeded
    late = await etcd.compare_and_swap(key, b"x", 0)
    assert (late.succeeded, late.current) == (False, KeyValue(key, b"1", made.revision))
    assert (await etcd.compare_and_swap(key, b"2", made.revision)).succeeded
    gone = await etcd.compare_and_swap(keys.member("other"), b"x", 5)
    assert (gone.succeeded, gone.current) == (False, None)


async def test_concurrent_increments_are_all_counted(etcd: Etcd, keys: Keys) -> None:
    key = keys.member("counter")

    async def increment() -> None:
        while True:
            _, kv = await etcd.get(key)
            value = int(kv.value) + 1 if kv else 1
            if (await etcd.compare_and_swap(key, b"%d" % value, kv.mod_revision if kv else 0)).succeeded:
                return

    await asyncio.gather(*(increment() for _ in range(40)))
    _, kv = await etcd.get(key)
    assert kv is not None
    assert kv.value == b"40"


async def test_a_swap_whose_answer_was_lost_counts_as_done(etcd: Etcd, keys: Keys, make_proxy: MakeProxy) -> None:
    key, value = keys.member("m1"), uuid.uuid4().bytes
    proxy = await make_proxy(etcd.endpoints.current.address)
    torn = Etcd([proxy.address, etcd.endpoints.current.address], timeout_s=0.5)
    try:
        await torn.get(key)  # the connection stands
        proxy.down.dropping = True
        swap = await torn.compare_and_swap(key, value, 0)
    finally:
        await torn.aclose()
    _, kv = await etcd.get(key)
    assert swap.succeeded
    assert kv == KeyValue(key, value, swap.revision)


async def test_a_lost_answer_and_a_foreign_write_is_a_conflict(etcd: Etcd, keys: Keys, make_proxy: MakeProxy) -> None:
    key = keys.member("m1")
    proxy = await make_proxy(etcd.endpoints.current.address)
    torn = Etcd([proxy.address], timeout_s=0.5, retry_s=30)
    try:
        await torn.get(key)
        proxy.down.dropping = True
        swapping = asyncio.create_task(torn.compare_and_swap(key, b"mine", 0))
        async with aclosing(etcd.watch(key)) as watch:
            while not (step := await anext(watch))[1]:  # a listing without the key
                pass
        assert isinstance(step, Listed | Changed)
        await etcd.put(key, b"foreign")
        proxy.down.dropping = False
        await proxy.reset_all()
        with pytest.raises(ConflictError):
            await swapping
    finally:
        await torn.aclose()


async def test_a_write_under_a_lease_that_is_gone_is_refused(etcd: Etcd, keys: Keys) -> None:
    with pytest.raises(EtcdLeaseLostError):
        await etcd.put(keys.member("m1"), b"v", lease_id=12345)
    with pytest.raises(EtcdLeaseLostError):
        await etcd.compare_and_swap(keys.member("m1"), b"v", 0, lease_id=12345)


async def test_dead_endpoints_are_named(keys: Keys) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    client = Etcd(addresses, retry_s=0.5)
    try:
        with pytest.raises(EtcdUnavailableError) as caught:
            await client.get(b"k")
    finally:
        await client.aclose()
    assert all(address in caught.value.message for address in addresses)


async def test_a_dead_and_a_silent_endpoint_are_passed_over(etcd: Etcd, keys: Keys, make_proxy: MakeProxy) -> None:
    silent = await make_proxy(etcd.endpoints.current.address)
    silent.down.dropping = True
    dead = f"127.0.0.1:{free_port()}"
    client = Etcd([dead, silent.address, etcd.endpoints.current.address], timeout_s=0.5)
    try:
        await client.put(keys.member("m1"), b"v")
        assert (await client.status()).endpoint == etcd.endpoints.current.address
    finally:
        await client.aclose()


async def test_a_restarted_node_is_used_again(own_server: EtcdServer, own_etcd: Etcd, keys: Keys, crash: Crash) -> None:
    await own_etcd.put(keys.member("m1"), b"v")
    await crash(own_server)
    reading = asyncio.create_task(own_etcd.get(keys.member("m1")))
    own_server.spawn()
    await asyncio.to_thread(own_server.wait_healthy)
    _, kv = await reading
    assert kv is not None
    assert kv.value == b"v"


async def test_status_tells_the_version(etcd: Etcd, request: pytest.FixtureRequest) -> None:
    status = await etcd.status()
    assert status.version.startswith(request.node.callspec.params["etcd_binary"].removeprefix("etcd-"))
    assert status.has_leader


async def test_closing_leaves_nothing_running(etcd_server: EtcdServer) -> None:
    before = asyncio.all_tasks()
    client = Etcd([etcd_server.endpoint])
    await client.get(b"k")
    await client.aclose()
    assert asyncio.all_tasks() == before
