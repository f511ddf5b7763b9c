"""Publishers and alias changes on one model at once, over a store and an etcd that fail: one history, seen by all.

The answers must be those of some order of the calls that keeps to real time (see `linearizing`), a failed write
counting as "may have happened"; and what etcd shows over time must be the records of the store, never an older one
after a newer one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from random import Random

import msgspec
import obstore
import pytest

from registry import layout
from registry.artifacts import ArtifactStore
from registry.etcd import Etcd
from registry.etcd_records import Changed, Gap, Put
from registry.keys import Keys, decode_model
from registry.library import Library, index_of
from registry.manifest import AliasRecord, decode
from registry.model import ModelRecord
from registry.store_urls import open_store
from tests.fault_proxy import FaultProxy
from tests.integration.alias_clients import ALIASES, REF, SETUP, AliasClient, FaultyStore, Task
from tests.integration.linearizing import Call, State, is_linearizable, state_of
from tests.integration.publishing import check_synced, index_entry, model_file, open_ledger, publisher
from tests.integration.s3_server import S3Server, running_s3

CLIENTS = 5
CALLS = 8
MakeProxy = Callable[[str], Awaitable[FaultProxy]]


async def set_up(store: ArtifactStore, etcd: Etcd, keys: Keys, folder: Path) -> State:
    """Publish the versions that callers know from the beginning; both aliases are at the first."""
    for version in SETUP:
        aliases = ALIASES if version == SETUP[0] else ()
        await publisher(store, etcd, keys).publish(model_file(folder, version), REF, version=version, aliases=aliases)
    record = await Library(store).newest_aliases(REF)
    assert record is not None
    return state_of(record)


async def records_of(store: ArtifactStore) -> dict[int, AliasRecord]:
    """All records of the model, by revision."""
    folder = layout.aliases_folder(REF)
    paths = [f"{folder}/{name}" for name in await store.list_names(folder)]
    records = [decode(AliasRecord, await store.get(path), path) for path in paths]
    assert [record.revision for record in records] == list(range(1, len(records) + 1))
    return {record.revision: record for record in records}


async def resolved(store: ArtifactStore, calls: list[Call]) -> list[Call]:
    """The calls with the versions that publishers got; one that stored no manifest can't have moved an alias."""
    library = Library(store)
    manifests = [await library.read_manifest(REF, version) for version in await library.list_versions(REF)]
    versions = {manifest.request_id: manifest.version for manifest in manifests}
    assert all(call.request_id in versions for call in calls if call.act == "publish" and call.outcome == "done")
    return [
        msgspec.structs.replace(call, version=versions[call.request_id]) if call.act == "publish" else call
        for call in calls
        if call.act != "publish" or call.request_id in versions
    ]


@contextlib.asynccontextmanager
async def watching(etcd: Etcd, keys: Keys) -> AsyncIterator[list[ModelRecord]]:
    """What etcd tells of the model, in the order in which it tells it, from here on."""
    told: list[ModelRecord] = []
    begun = asyncio.Event()

    async def watch() -> None:
        async with contextlib.aclosing(etcd.watch_changes(keys.models_prefix)) as events:
            async for event in events:
                begun.set()
                assert isinstance(event, Changed) or not told, "a gap would hide what the test is about"
                told.extend(decode_model(put.kv.value) for put in _puts(event))

    task = asyncio.create_task(watch())
    await begun.wait()
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _puts(event: Gap | Changed) -> Iterator[Put]:
    for each in event.events if isinstance(event, Changed) else ():
        assert isinstance(each, Put), "an entry of a model that is there was taken away"
        yield each


async def sync_to_the_newest(store: ArtifactStore, etcd: Etcd, keys: Keys) -> None:
    """Once, but for a write whose connection was cut: the server may only now be done with it."""
    async with asyncio.timeout(20.0):
        synced = False
        while not synced:
            await open_ledger(store, etcd, keys).sync(REF)
            synced = await index_entry(etcd, keys, REF) == await Library(store).index_entry(REF)


async def check_history(
    store: ArtifactStore,
    etcd: Etcd,
    keys: Keys,
    initial: State,
    calls: list[Call],
    told: list[ModelRecord],
    wait_until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    """All that can be said when everything has ended."""
    await sync_to_the_newest(store, etcd, keys)
    last = await check_synced(store, etcd, keys, REF)
    records = await records_of(store)
    assert last == index_of(records[len(records)])
    history = await resolved(store, calls)
    assert any(call.outcome == "done" and call.act != "read" for call in history)
    listing = "\n".join(str(call) for call in sorted(history, key=lambda call: call.began))
    assert is_linearizable(history, initial), f"from {initial} no order of these explains their answers:\n{listing}"
    await wait_until(lambda: bool(told) and told[-1] == last)
    revisions = [record.revision for record in told]
    assert revisions == sorted(set(revisions)), "etcd went back to an older record"
    assert all(record == index_of(records[record.revision]) for record in told), "etcd told what the store never had"


@contextlib.asynccontextmanager
async def disturbed(proxies: list[FaultProxy], dice: Random) -> AsyncIterator[None]:
    """Cuts connections by chance, often when a request has arrived and its answer is lost."""

    async def disturb() -> None:
        while True:
            await asyncio.sleep(dice.uniform(0.002, 0.03))
            proxy = dice.choice(proxies)
            proxy.down.dropping = dice.random() < 0.5
            if proxy.down.dropping:
                await asyncio.sleep(dice.uniform(0.001, 0.01))
            await proxy.reset_all()
            proxy.down.dropping = False

    task = asyncio.create_task(disturb())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("seed", range(10))
async def test_tasks_on_a_file_store(
    etcd: Etcd,
    keys: Keys,
    tmp_path: Path,
    make_proxy: MakeProxy,
    wait_until: Callable[[Callable[[], bool]], Awaitable[None]],
    seed: int,
) -> None:
    dice, url = Random(seed), f"file://{tmp_path}/store"
    initial = await set_up(open_store(url), etcd, keys, tmp_path)
    proxy = await make_proxy(etcd.endpoints.current.address)
    stores = [FaultyStore(open_store(url), dice, failing=0.1 * (seed % 4)) for _ in range(CLIENTS)]
    etcds = [Etcd([proxy.address], timeout_s=0.3, retry_s=0.6) for _ in range(CLIENTS)]
    clients = [
        AliasClient(f"c{place}", store, client_etcd, keys, tmp_path, dice, etcd)
        for place, (store, client_etcd) in enumerate(zip(stores, etcds, strict=True))
    ]
    async with watching(etcd, keys) as told:
        async with disturbed([proxy], dice):
            await asyncio.gather(*(client.run(CALLS) for client in clients))
        for store, client_etcd in zip(stores, etcds, strict=True):
            await store.settle()
            await client_etcd.aclose()
        calls = [call for client in clients for call in client.calls]
        await check_history(open_store(url), etcd, keys, initial, calls, told, wait_until)


@pytest.mark.parametrize("seed", range(2))
async def test_processes_on_a_file_store(
    etcd: Etcd,
    keys: Keys,
    tmp_path: Path,
    make_proxy: MakeProxy,
    wait_until: Callable[[Callable[[], bool]], Awaitable[None]],
    seed: int,
) -> None:
    url = f"file://{tmp_path}/store"
    initial = await set_up(open_store(url), etcd, keys, tmp_path)
    proxy = await make_proxy(etcd.endpoints.current.address)
    cluster = keys.models_prefix.decode().split("/")[2]
    direct = etcd.endpoints.current.address
    tasks = [
        Task(f"s{seed}p{place}", url, proxy.address, direct, cluster, str(tmp_path), CALLS * 2, failing=0.15)
        for place in range(3)
    ]
    async with watching(etcd, keys) as told:
        async with disturbed([proxy], Random(seed)):
            done = await asyncio.gather(*(_process(task) for task in tasks))
        calls = [call for each in done for call in each]
        await check_history(open_store(url), etcd, keys, initial, calls, told, wait_until)


async def _process(task: Task) -> list[Call]:
    program = "from tests.integration.alias_clients import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, msgspec.json.encode(task).decode()), stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return msgspec.json.decode(output, type=list[Call])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        # SeaweedFS makes a bucket when something is first written to it.
        asyncio.run(open_store(server.url("models")).create("first", b""))
        yield server


@pytest.mark.parametrize("seed", range(2))
async def test_tasks_on_s3_whose_connections_are_cut(
    s3: S3Server,
    etcd: Etcd,
    keys: Keys,
    tmp_path: Path,
    make_proxy: MakeProxy,
    wait_until: Callable[[Callable[[], bool]], Awaitable[None]],
    seed: int,
) -> None:
    """The transport repeats creates whose answer was lost, and then finds its own object."""
    dice, prefix = Random(seed), tmp_path.name
    store = open_store(s3.url("models", prefix))
    initial = await set_up(store, etcd, keys, tmp_path)
    proxies = [await make_proxy(f"127.0.0.1:{s3.port}"), await make_proxy(etcd.endpoints.current.address)]
    url = s3.url("models", prefix).replace(s3.endpoint, f"http://{proxies[0].address}")
    etcds = [Etcd([proxies[1].address], timeout_s=0.5, retry_s=1.0) for _ in range(CLIENTS)]
    clients = [
        AliasClient(f"c{n}", open_store(url, timeout_s=2.0, retries=1), client_etcd, keys, tmp_path, dice, etcd)
        for n, client_etcd in enumerate(etcds)
    ]
    async with watching(etcd, keys) as told:
        async with disturbed(proxies, dice):
            await asyncio.gather(*(client.run(CALLS) for client in clients))
        for client_etcd in etcds:
            await client_etcd.aclose()
        calls = [call for client in clients for call in client.calls]
        await check_history(store, etcd, keys, initial, calls, told, wait_until)


class ReplacingStore(ArtifactStore):
    """What must not be: a create that replaces."""

    async def create(self, path: str, data: bytes) -> bool:
        await obstore.put_async(self._store, path, data)
        return True


async def test_a_store_that_replaces_is_found_out(etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    """So the check can fail: over a store that breaks its promise there soon is a history that has no order."""
    for seed in range(20):
        dice, url, folder = Random(seed), f"file://{tmp_path}/store-{seed}", tmp_path / str(seed)
        folder.mkdir()
        store = ReplacingStore(open_store(url)._store, url)
        initial = await set_up(store, etcd, keys, folder)
        clients = [AliasClient(f"c{place}", store, etcd, keys, folder, dice, etcd) for place in range(CLIENTS)]
        await asyncio.gather(*(client.run(CALLS, ("point", "roll_back", "read")) for client in clients))
        if not is_linearizable([call for client in clients for call in client.calls], initial):
            return
    pytest.fail("no broken history was found out")
