"""The catalog against a real etcd and a real file store: freshness, faults, cancelling."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer
from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.errors import EtcdUnavailableError, InvalidRequestError, ModelNotFoundError, ModelUnusableError
from registry.etcd import Etcd
from registry.etcd_records import KeyValue
from registry.keys import Keys
from registry.model import ModelRef
from registry.publish import Publisher
from registry.rebuild import rebuild
from registry.store_urls import open_store
from tests.integration import publishing
from tests.integration.publishing import check_synced, model_file, open_ledger

REF = ModelRef("acme", "fraud")
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]


class CountingEtcd(Etcd):
    """Counts the reads; `gate` holds them back after etcd has answered."""

    reads = 0
    gate: asyncio.Event | None = None

    async def get(self, key: bytes) -> tuple[int, KeyValue | None]:
        self.reads += 1
        answer = await super().get(key)
        if self.gate is not None:
            await self.gate.wait()
        return answer


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def publisher(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Publisher:
    return publishing.publisher(store, etcd, keys)


@pytest.fixture
async def counting(etcd_server: EtcdServer) -> AsyncIterator[CountingEtcd]:
    client = CountingEtcd([etcd_server.endpoint])
    yield client
    await client.aclose()


@asynccontextmanager
async def running(catalog: Catalog) -> AsyncIterator[Catalog]:
    watching = asyncio.create_task(catalog.run())
    try:
        yield catalog
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await catalog.aclose()


@pytest.fixture
async def catalog(
    counting: CountingEtcd,
    keys: Keys,
    store: ArtifactStore,
    publisher: Publisher,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> AsyncIterator[Catalog]:
    """One whose watch is known to run: it has told of a change."""
    first = ModelRef("nobody", "first")
    await publisher.publish(model_file(tmp_path, "first"), first)
    async with running(Catalog(counting, keys, store)) as catalog:
        await catalog.resolve(first)
        await publisher.publish(model_file(tmp_path, "second"), first)
        await wait_until(lambda: live(catalog, first) == "2")
        yield catalog


def live(catalog: Catalog, ref: ModelRef = REF) -> str:
    found = catalog.lookup(ref, "", "")
    return found.version if found is not None else ""


async def test_resolve_then_lookup(catalog: Catalog, publisher: Publisher, tmp_path: Path) -> None:
    manifest = await publisher.publish(model_file(tmp_path, "a"), REF, aliases=("live", "candidate"))
    assert catalog.lookup(REF, "", "") is None
    assert await catalog.resolve(REF) == manifest.to_version()
    for version, alias in (("", ""), ("", "live"), ("", "candidate"), ("1", ""), ("1", "nobody")):
        assert catalog.lookup(REF, version, alias) == manifest.to_version()


async def test_a_new_version_arrives_by_the_watch(
    catalog: Catalog, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    for number in range(1, 6):
        await publisher.publish(model_file(tmp_path, f"n{number}"), REF)
        if number == 1:
            await catalog.resolve(REF)
        await wait_until(lambda number=number: live(catalog) == str(number))  # type: ignore[misc]


async def test_errors_tell_model_alias_and_version_apart(
    catalog: Catalog, publisher: Publisher, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF, aliases=("live", "candidate"))
    with pytest.raises(ModelNotFoundError, match="tenant 'acme' has no model 'other'"):
        await catalog.resolve(ModelRef("acme", "other"))
    with pytest.raises(ModelNotFoundError, match="tenant 'acme' has no model 'other'"):
        await catalog.resolve(ModelRef("acme", "other"), version="1")
    with pytest.raises(ModelNotFoundError, match="no alias 'canary'; its aliases: candidate, live"):
        await catalog.resolve(REF, alias="canary")
    with pytest.raises(ModelNotFoundError, match="no version '2'"):
        await catalog.resolve(REF, version="2")
    for ref, version in ((ModelRef("a/b", "x"), ""), (ModelRef("", ""), ""), (REF, "../1")):
        with pytest.raises(InvalidRequestError):
            await catalog.resolve(ref, version)


async def test_what_does_not_exist_is_asked_for_once(
    catalog: Catalog, counting: CountingEtcd, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    reads = counting.reads
    for _ in range(5):
        with pytest.raises(ModelNotFoundError):
            await catalog.resolve(REF)
        with pytest.raises(ModelNotFoundError):
            await catalog.resolve(REF, version="1")
    assert counting.reads == reads + 1
    await publisher.publish(model_file(tmp_path, "a"), REF, aliases=())

    def is_forgotten() -> bool:
        entry = catalog._fold.find(REF)
        return entry is not None and entry.record is not None

    await wait_until(is_forgotten)
    assert (await catalog.resolve(REF, version="1")).version == "1"
    assert counting.reads == reads + 1


async def test_an_explicit_version_that_no_alias_names(
    catalog: Catalog, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    for name in "abc":
        await publisher.publish(model_file(tmp_path, name), REF)
    assert (await catalog.resolve(REF, version="1")).version == "1"
    found = catalog.lookup(REF, "1", "")
    assert found is not None
    await publisher.publish(model_file(tmp_path, "d"), REF)
    await wait_until(lambda: live(catalog) == "4")
    assert catalog.lookup(REF, "1", "") is None  # The event may have told of its retirement.
    assert await catalog.resolve(REF, version="1") == catalog.lookup(REF, "1", "") == found


async def test_all_who_ask_at_once_share_a_read(
    catalog: Catalog, counting: CountingEtcd, publisher: Publisher, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF)
    counting.reads = 0
    counting.gate = asyncio.Event()
    asking = [asyncio.create_task(catalog.resolve(REF)) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # the one who began the read
    counting.gate.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert {outcome.version for outcome in outcomes[1:] if not isinstance(outcome, BaseException)} == {"1"}
    assert counting.reads == 1


async def test_an_answer_that_an_event_overtook_is_not_held(
    catalog: Catalog, counting: CountingEtcd, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    other = ModelRef("acme", "marker")
    await publisher.publish(model_file(tmp_path, "a"), REF)
    await publisher.publish(model_file(tmp_path, "a"), other)
    await catalog.resolve(other)
    counting.gate = asyncio.Event()
    reads = counting.reads
    asking = asyncio.create_task(catalog.resolve(REF))
    await wait_until(lambda: counting.reads > reads)
    await publisher.publish(model_file(tmp_path, "b"), REF)
    await publisher.publish(model_file(tmp_path, "b"), other)
    await wait_until(lambda: live(catalog, other) == "2")  # so the event of REF has passed too
    counting.gate.set()
    assert (await asking).version == "2"
    assert live(catalog) == "2"


async def test_memory_follows_what_is_asked_for(
    counting: CountingEtcd, keys: Keys, store: ArtifactStore, publisher: Publisher, tmp_path: Path
) -> None:
    refs = [ModelRef("acme", f"m{number}") for number in range(10)]
    async with running(Catalog(counting, keys, store, capacity=4)) as catalog:
        for ref in refs:
            await publisher.publish(model_file(tmp_path, "a"), ref)
        assert len(catalog) == 0  # the watch has told of some, and nobody asked
        for ref in refs:
            await catalog.resolve(ref)
        assert len(catalog) == 4
        assert [ref for ref in refs if live(catalog, ref)] == refs[-4:]


async def test_changes_while_nobody_watched_are_seen_after_the_gap(
    counting: CountingEtcd,
    keys: Keys,
    store: ArtifactStore,
    publisher: Publisher,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    catalog = Catalog(counting, keys, store)
    await publisher.publish(model_file(tmp_path, "a"), REF)
    await catalog.resolve(REF)
    await publisher.publish(model_file(tmp_path, "b"), REF)
    assert live(catalog) == "1"
    async with running(catalog):
        await wait_until(lambda: live(catalog) == "2")


async def test_a_deleted_or_damaged_entry_is_read_from_the_store(
    catalog: Catalog, etcd: Etcd, keys: Keys, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF)
    await catalog.resolve(REF)
    await etcd.delete(keys.model(REF))
    await wait_until(lambda: not live(catalog))
    assert (await catalog.resolve(REF)).version == "1"
    await etcd.put(keys.model(REF), b"rubbish")
    await wait_until(lambda: not live(catalog))
    assert (await catalog.resolve(REF)).version == "1"
    await publisher.publish(model_file(tmp_path, "b"), REF)
    await wait_until(lambda: live(catalog) == "2")


async def test_a_damaged_record_in_the_store(catalog: Catalog, store: ArtifactStore) -> None:
    await store.create("tenants/acme/models/fraud/aliases/00000000000000000001.json", b"rubbish")
    with pytest.raises(ModelUnusableError, match="damaged"):
        await catalog.resolve(REF)


async def test_keys_that_are_no_models_are_passed_over(
    catalog: Catalog, etcd: Etcd, keys: Keys, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF)
    await catalog.resolve(REF)
    await etcd.put(keys.models_prefix + b"no-slash", b"x")
    await etcd.put(keys.models_prefix + b"\xff\xfe/x", b"x")
    await publisher.publish(model_file(tmp_path, "b"), REF)
    await wait_until(lambda: live(catalog) == "2")


async def test_while_etcd_is_dead_what_is_held_answers(
    own_server: EtcdServer, keys: Keys, store: ArtifactStore, tmp_path: Path, wait_until: WaitUntil
) -> None:
    etcd, patient = Etcd([own_server.endpoint], timeout_s=0.5, retry_s=1.0), Etcd([own_server.endpoint], retry_s=30.0)
    publisher = publishing.publisher(store, patient, keys)
    await publisher.publish(model_file(tmp_path, "a"), REF)
    async with running(Catalog(etcd, keys, store)) as catalog:
        await catalog.resolve(REF)
        own_server.kill()
        assert (await catalog.resolve(REF)).version == live(catalog) == "1"
        with pytest.raises(EtcdUnavailableError, match="model acme/other isn't cached here"):
            await catalog.resolve(ModelRef("acme", "other"))
        own_server.restart()
        await publisher.publish(model_file(tmp_path, "b"), REF)
        await wait_until(lambda: live(catalog) == "2")
    await etcd.aclose()
    await patient.aclose()


async def test_a_wiped_etcd_stops_nothing(
    own_server: EtcdServer, keys: Keys, store: ArtifactStore, tmp_path: Path, wait_until: WaitUntil
) -> None:
    etcd = CountingEtcd([own_server.endpoint], timeout_s=0.5, retry_s=5.0)
    publisher = publishing.publisher(store, etcd, keys)
    other = ModelRef("acme", "other")
    for ref in (REF, other):
        for name in "abc":
            await publisher.publish(model_file(tmp_path, name), ref)
    async with running(Catalog(etcd, keys, store)) as catalog:
        await catalog.resolve(REF)
        await publisher.publish(model_file(tmp_path, "d"), REF)
        await wait_until(lambda: live(catalog) == "4")  # so the watch runs
        own_server.terminate()
        own_server.wipe()
        reads = etcd.reads
        own_server.restart()
        await wait_until(lambda: etcd.reads > reads + 1)  # the watch's own, then the refresh after the gap
        assert (await catalog.resolve(REF)).version == live(catalog) == "4"
        assert (await catalog.resolve(other)).version == "3"
        assert (await rebuild(open_ledger(store, etcd, keys))).models == 2
        await publisher.publish(model_file(tmp_path, "e"), REF)
        await wait_until(lambda: live(catalog) == "5")
    await etcd.aclose()


async def test_closing_ends_the_reads_under_way(
    counting: CountingEtcd, keys: Keys, store: ArtifactStore, publisher: Publisher, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF)
    catalog = Catalog(counting, keys, store)
    counting.gate = asyncio.Event()
    asking = asyncio.create_task(catalog.resolve(REF))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await catalog.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking
    counting.gate.set()
    assert (await catalog.resolve(REF)).version == "1"  # nothing of the cancelled read is left behind


async def test_random_changes_and_reads_end_at_what_etcd_has(
    catalog: Catalog,
    publisher: Publisher,
    store: ArtifactStore,
    etcd: Etcd,
    keys: Keys,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    dice, moves = random.Random(7), AliasMoves(open_ledger(store, etcd, keys))
    refs = [ModelRef("acme", f"m{number}") for number in range(4)]
    for ref in refs:
        for name in "abc":
            await publisher.publish(model_file(tmp_path, name), ref)

    async def change() -> None:
        for _ in range(40):
            await moves.point(dice.choice(refs), "live", dice.choice("123"))

    async def read() -> None:
        for _ in range(400):
            await catalog.resolve(dice.choice(refs))
            await asyncio.sleep(0)

    await asyncio.gather(change(), change(), read(), read())
    for ref in refs:
        wanted = (await check_synced(store, etcd, keys, ref)).aliases["live"].version
        await catalog.resolve(ref)
        await wait_until(lambda ref=ref, wanted=wanted: live(catalog, ref) == wanted)  # type: ignore[misc]
