"""Shared models of applications, and versions that were retired or deleted: a real etcd and a real file store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from ops.etcd_server import EtcdServer
from registry import change
from registry.alias_moves import AliasMoves
from registry.application_fold import CAPACITY
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.errors import ModelNotFoundError, StoreUnavailableError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.ledger import Ledger
from registry.manifest import RolloutSpec
from registry.model import ApplicationRecord, ModelRef
from registry.next_record import Change
from registry.publish import Publisher
from registry.store_urls import open_store
from tests.integration import publishing
from tests.integration.publishing import model_file, open_ledger

SHARED = ModelRef("vendor", "lead-v7")
TENANT = ModelRef("acme", "lead-score")  # named as the application is, and without a model of its own
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def ledger(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Ledger:
    return open_ledger(store, etcd, keys)


@pytest.fixture
def publisher(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Publisher:
    return publishing.publisher(store, etcd, keys)


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
async def catalog(etcd: Etcd, keys: Keys, store: ArtifactStore) -> AsyncIterator[Catalog]:
    async with running(Catalog(etcd, keys, store)) as catalog:
        yield catalog


async def share(
    ledger: Ledger, ref: ModelRef | None, application: str = TENANT.model, *, deleted: bool = False
) -> None:
    def put(record: ApplicationRecord) -> ApplicationRecord:
        return msgspec.structs.replace(record, shared=ref, deleted=deleted)

    await ledger.change_application(application, put)


def version(catalog: Catalog, ref: ModelRef = TENANT, number: str = "", alias: str = "") -> str:
    found = catalog.lookup(ref, number, alias)
    return f"{found.tenant}/{found.version}" if found is not None else ""


async def test_a_tenant_without_the_model_gets_the_shared_one(
    catalog: Catalog, ledger: Ledger, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    first = await publisher.publish(model_file(tmp_path, "a"), SHARED, aliases=("live", "candidate"))
    await share(ledger, SHARED)
    assert version(catalog) == ""
    assert await catalog.resolve(TENANT) == first.to_version()
    for number, alias in (("", ""), ("", "live"), ("", "candidate"), ("1", "")):
        assert version(catalog, TENANT, number, alias) == "vendor/1"
    for other in ("umbrella", "initech"):
        assert await catalog.resolve(ModelRef(other, TENANT.model)) == first.to_version()
    await publisher.publish(model_file(tmp_path, "b"), SHARED)
    await wait_until(lambda: version(catalog) == "vendor/2")  # its moves hold at once for all
    assert version(catalog, ModelRef("umbrella", TENANT.model)) == "vendor/2"
    assert (await catalog.resolve(TENANT, version="1")).version == "1"
    with pytest.raises(ModelNotFoundError, match="model vendor/lead-v7 has no alias 'nobody'"):
        await catalog.resolve(TENANT, alias="nobody")
    with pytest.raises(ModelNotFoundError, match="no version '9'"):
        await catalog.resolve(TENANT, version="9")


async def test_a_model_of_its_own_counts_at_once_and_its_deletion_too(
    catalog: Catalog, ledger: Ledger, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), SHARED)
    await share(ledger, SHARED)
    await catalog.resolve(TENANT)
    assert version(catalog) == "vendor/1"
    await publisher.publish(model_file(tmp_path, "own"), TENANT, version="77")
    await wait_until(lambda: version(catalog) == "acme/77")
    await ledger.change(TENANT, change.delete_model(["77"]))
    await wait_until(lambda: version(catalog) == "")
    assert (await catalog.resolve(TENANT)).tenant == "vendor"
    assert version(catalog) == "vendor/1"


async def test_the_application_may_change_its_mind(
    catalog: Catalog, ledger: Ledger, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    other = ModelRef("vendor", "lead-v8")
    await publisher.publish(model_file(tmp_path, "a"), SHARED)
    await publisher.publish(model_file(tmp_path, "b"), other, version="8")
    with pytest.raises(ModelNotFoundError, match="tenant 'acme' has no model 'lead-score'"):
        await catalog.resolve(TENANT)
    await share(ledger, SHARED)
    await wait_until(lambda: catalog._shared.find(TENANT.model) == SHARED)
    assert (await catalog.resolve(TENANT)).version == "1"
    await share(ledger, other)
    await wait_until(lambda: catalog._shared.find(TENANT.model) == other)
    assert (await catalog.resolve(TENANT)).version == "8"
    await share(ledger, None)
    await wait_until(lambda: catalog._shared.find(TENANT.model) is None)
    with pytest.raises(ModelNotFoundError):
        await catalog.resolve(TENANT)
    await share(ledger, other)
    await wait_until(lambda: catalog._shared.find(TENANT.model) == other)
    await share(ledger, other, deleted=True)
    await wait_until(lambda: catalog._shared.find(TENANT.model) is None)
    assert version(catalog) == ""


async def test_there_is_no_chain(catalog: Catalog, ledger: Ledger, publisher: Publisher, tmp_path: Path) -> None:
    middle = ModelRef("vendor", "middle")
    await publisher.publish(model_file(tmp_path, "a"), SHARED)
    await share(ledger, middle)
    await share(ledger, SHARED, application="middle")
    assert (await catalog.resolve(middle)).version == "1"
    with pytest.raises(ModelNotFoundError, match="'acme' has no model 'lead-score', and the shared model"):
        await catalog.resolve(TENANT)
    assert version(catalog) == ""
    await share(ledger, ModelRef("loop", "loop"), application="loop")
    with pytest.raises(ModelNotFoundError):
        await catalog.resolve(ModelRef("loop", "loop"))


async def test_rollouts_of_the_shared_model_are_its_tenants_too(
    catalog: Catalog, ledger: Ledger, publisher: Publisher, tmp_path: Path, wait_until: WaitUntil
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), SHARED)
    await publisher.publish(model_file(tmp_path, "b"), SHARED, aliases=())
    await publisher.publish(model_file(tmp_path, "c"), SHARED, aliases=())
    await share(ledger, SHARED)
    await catalog.resolve(TENANT)
    spec = RolloutSpec(id="r1", canary="2", percent=30.0, shadow="3")
    await AliasMoves(ledger).begin(SHARED, "live", spec)

    def rollout() -> bool:
        found = catalog.lookup(TENANT, "", "")
        return found is not None and found.rollout is not None

    await wait_until(rollout)
    for number in "123":  # known by number without a read, and free of the rollout
        found = catalog.lookup(TENANT, number, "")
        assert found is not None
        assert found.rollout is None
        assert found.version == number


async def test_without_etcds_entries_the_store_is_asked(
    etcd: Etcd, keys: Keys, ledger: Ledger, publisher: Publisher, store: ArtifactStore, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), SHARED)
    await share(ledger, SHARED)
    for key in (keys.application(TENANT.model), keys.model(SHARED)):
        _, found = await etcd.get(key)
        assert found is not None
        assert (await etcd.compare_and_delete(key, found.mod_revision)).succeeded
    async with running(Catalog(etcd, keys, store)) as catalog:
        async with asyncio.timeout(10):
            held = ""
            while not held:  # The watch's first listing makes it forget what it has read before.
                assert (await catalog.resolve(TENANT)).tenant == "vendor"
                held = version(catalog)
        assert held == "vendor/1"


async def test_a_wiped_etcd_stops_no_fallback(
    own_server: EtcdServer, keys: Keys, store: ArtifactStore, tmp_path: Path, wait_until: WaitUntil
) -> None:
    etcd = Etcd([own_server.endpoint], timeout_s=0.5, retry_s=5.0)
    ledger = open_ledger(store, etcd, keys)
    await publishing.publisher(store, etcd, keys).publish(model_file(tmp_path, "a"), SHARED)
    await share(ledger, SHARED)
    async with running(Catalog(etcd, keys, store)) as catalog:
        await catalog.resolve(TENANT)
        await wait_until(lambda: TENANT.model in catalog._shared._applications._watched)
        own_server.kill()
        own_server.wipe()
        assert version(catalog) == "vendor/1"
        own_server.start()
        await wait_until(lambda: TENANT.model not in catalog._shared._applications._watched)
        assert (await catalog.resolve(TENANT)).tenant == "vendor"
        assert version(catalog) == "vendor/1"
    await etcd.aclose()


async def test_names_that_do_not_exist_take_no_memory(
    etcd: Etcd, keys: Keys, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.application_fold.CAPACITY", 20)
    assert CAPACITY > 20
    async with running(Catalog(etcd, keys, store, capacity=10)) as catalog:
        for number in range(60):
            with pytest.raises(ModelNotFoundError):
                await catalog.resolve(ModelRef("acme", f"nobody-{number}"))
        assert len(catalog) == 10
        assert len(catalog._shared._applications._found) == 20
        assert len(catalog._shared._applications._watched) == 0


async def test_a_store_that_does_not_answer_is_not_taken_for_no(
    etcd: Etcd, keys: Keys, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Catalog(etcd, keys, store)) as catalog:
        listed = store.list_names

        async def refuse(folder: str) -> list[str]:
            if folder.startswith("applications/"):
                raise StoreUnavailableError("away")
            return await listed(folder)

        monkeypatch.setattr(store, "list_names", refuse)
        with pytest.raises(StoreUnavailableError):
            await catalog.resolve(TENANT)
        monkeypatch.undo()
        with pytest.raises(ModelNotFoundError):
            await catalog.resolve(TENANT)


@pytest.mark.parametrize("gone", [change.retire, change.delete_version])
async def test_a_version_that_was_taken_back_is_not_scored_by_number(
    gone: Callable[[ModelRef, str], Change],
    catalog: Catalog,
    ledger: Ledger,
    publisher: Publisher,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    for name in "abc":
        await publisher.publish(model_file(tmp_path, name), SHARED)
    text = "version 2 of model vendor/lead-v7 is retired" if gone is change.retire else "no version '2'"
    for number in "12":
        assert (await catalog.resolve(SHARED, version=number)).version == number
    await ledger.change(SHARED, gone(SHARED, "2"))
    await wait_until(lambda: version(catalog, SHARED, "2") == "")
    for _ in range(2):
        with pytest.raises(ModelNotFoundError, match=text):
            await catalog.resolve(SHARED, version="2")
    assert (await catalog.resolve(SHARED, version="1")).version == "1"
    assert version(catalog, SHARED) == "vendor/3"


async def test_a_tenant_is_forgotten(catalog: Catalog, ledger: Ledger, publisher: Publisher, tmp_path: Path) -> None:
    await publisher.publish(model_file(tmp_path, "a"), SHARED)
    await share(ledger, SHARED)
    await catalog.resolve(TENANT)
    catalog.forget_tenant("vendor")
    assert version(catalog) == version(catalog, SHARED) == ""
    assert len(catalog) == 1
    catalog.forget_tenant("acme")
    assert len(catalog) == 0
    assert (await catalog.resolve(TENANT)).tenant == "vendor"
