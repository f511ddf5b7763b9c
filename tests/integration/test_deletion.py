"""Deleting versions, models and tenants: what goes, what stays, who is refused, and death in the middle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from registry.artifacts import ArtifactStore
from registry.deletion import Removed, delete_model, delete_tenant, delete_version
from registry.errors import ConflictError, ModelInUseError, ModelNotFoundError, NotFoundError, StoreUnavailableError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.layout import aliases_folder, artifact_path, schema_path, tenant_folder
from registry.model import ModelRef
from registry.next_record import Condition
from registry.offer import Admitted, Offer
from registry.purge import Purged
from registry.rebuild import rebuild
from registry.store_urls import open_store
from tests.integration.deleting import OTHER, REF, HookedStore, PurgeLog, World, fill, mentions
from tests.integration.publishing import (
    check_published,
    check_synced,
    index_entry,
    model_file,
    open_ledger,
    publisher,
    rewriting_admit,
)
from tests.integration.s3_server import S3Server, running_s3


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store")
    server: S3Server = request.getfixturevalue("s3")
    return open_store(server.url("ready", tmp_path.name))


@pytest.fixture
def file_store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def world(store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path) -> World:
    return World(store, etcd, keys, tmp_path)


@pytest.fixture
def file_world(file_store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path) -> World:
    return World(file_store, etcd, keys, tmp_path)


async def test_a_version_goes_with_what_nobody_else_needs(world: World) -> None:
    first, second = await world.publish(REF, "a"), await world.publish(REF, "b", "live")
    log = PurgeLog(Purged(3, 2, ("scorer-9",)))
    before = await world.paths()
    removed = await delete_version(world.ledger, REF, "1", purge=log)
    gone = before - await world.paths()
    assert gone == {
        artifact_path("acme", first.artifact),
        artifact_path("acme", first.source),
        "tenants/acme/models/fraud/versions/1.json",
        "tenants/acme/models/fraud/registered/1.json",
    }
    assert removed._replace(object_bytes=0) == Removed(4, 0, 0, 0, 1, 3, 2, ("scorer-9",))
    assert removed.object_bytes > 500
    assert log.asked == [("", [first.to_version().package], [first.artifact])]
    await check_synced(world.store, world.etcd, world.keys, REF)
    assert (await world.publish(REF, "a")).version == "3", "a name is never used again"
    again = await delete_version(world.ledger, REF, "1")
    assert again == Removed(), "there is nothing left to do"
    assert second.version == "2"


async def test_what_explains_a_version_goes_with_it(file_world: World) -> None:
    world = file_world

    async def annotating_admit(offer: Offer) -> Admitted:
        return (await rewriting_admit(offer))._replace(annotated=offer.data + b" annotated")

    kept = await world.publish(REF, "b", "live")
    explaining = publisher(world.store, world.etcd, world.keys, annotating_admit)
    gone = await explaining.publish(model_file(world.folder, "a"), REF, aliases=())
    annotated = gone.to_annotated()
    assert annotated is not None
    assert await world.store.get(artifact_path("acme", annotated.artifact)) == b"\x08\x08\x12\x04testa annotated"
    assert annotated.artifact_bytes == len(b"\x08\x08\x12\x04testa annotated")
    assert kept.to_annotated() is None
    log = PurgeLog()
    await delete_version(world.ledger, REF, gone.version, purge=log)
    assert not await world.store.exists(artifact_path("acme", annotated.artifact))
    packages = sorted([gone.to_version().package, annotated.package])
    assert log.asked == [("", packages, sorted([gone.artifact, gone.annotated]))]
    await check_synced(world.store, world.etcd, world.keys, REF)


async def test_bytes_that_another_version_needs_stay(world: World) -> None:
    mine, twin, theirs = [await world.publish(ref, "same") for ref in (REF, OTHER, ModelRef("umbrella", "fraud"))]
    log = PurgeLog()
    assert (await delete_version(world.ledger, REF, "1", purge=log)).objects == 2, "manifest and registration"
    assert log.asked == [("", [], [])]
    await check_published(world.store, world.etcd, world.keys, OTHER)
    assert (await delete_version(world.ledger, OTHER, "1", purge=log)).objects == 5 - 1, "the contract needs the schema"
    assert not await world.store.exists(artifact_path("acme", mine.artifact))
    assert await world.store.exists(schema_path("acme", mine.schema))
    assert twin.artifact == mine.artifact == theirs.artifact
    await check_published(world.store, world.etcd, world.keys, ModelRef("umbrella", "fraud"))


async def test_what_is_pointed_at_is_refused(file_world: World) -> None:
    world = file_world
    await world.publish(REF, "a", "live", "blue")
    before = await world.paths()
    with pytest.raises(ModelInUseError, match="can't be deleted: alias blue, alias live points at it"):
        await delete_version(world.ledger, REF, "1")
    with pytest.raises(ModelInUseError, match="is in use: alias blue at version 1, alias live at version 1"):
        await delete_model(world.ledger, REF)
    await world.ledger.change_application("scoring", lambda record: msgspec.structs.replace(record, shared=REF))
    for alias in ("live", "blue"):
        await world.moves.remove(REF, alias)
    with pytest.raises(ModelInUseError, match="shared by application scoring"):
        await delete_model(world.ledger, REF)
    with pytest.raises(ModelInUseError, match=r"shared by application scoring \(acme/fraud\)"):
        await delete_tenant(world.ledger, "acme")
    assert before <= await world.paths()
    with pytest.raises(ConflictError, match="its revision is"):
        await delete_model(world.ledger, REF, force=True, condition=Condition(revision=1))
    assert (await delete_model(world.ledger, REF, force=True)).models == 1


async def test_unknown_ones(file_world: World) -> None:
    world = file_world
    await world.publish(REF, "a")
    with pytest.raises(ModelNotFoundError, match="has no version '7'"):
        await delete_version(world.ledger, REF, "7")
    with pytest.raises(ModelNotFoundError, match="has no model 'other'"):
        await delete_model(world.ledger, OTHER)
    with pytest.raises(NotFoundError, match="there is no tenant 'nobody'"):
        await delete_tenant(world.ledger, "nobody")
    assert not await world.paths(tenant_folder("nobody"))


async def test_a_model_goes_and_its_names_stay_taken(world: World) -> None:
    for content in ("a", "b", "c"):
        await world.publish(REF, content, "live")
    kept = await world.publish(OTHER, "c", "live")
    log = PurgeLog()
    removed = await delete_model(world.ledger, REF, force=True, purge=log)
    assert (removed.models, removed.versions, removed.index_entries) == (1, 3, 1)
    assert removed.objects == 3 * 2 + 2 * 2 + 3, "manifests and numbers, the bytes of two, and the older records"
    assert await index_entry(world.etcd, world.keys, REF) is None
    assert await world.paths("tenants/acme/models/fraud") == {f"{aliases_folder(REF)}/{4:020d}.json"}
    assert kept.artifact not in log.asked[0][2]
    assert len(log.asked[0][2]) == 2
    await check_synced(world.store, world.etcd, world.keys, OTHER)
    again = await delete_model(world.ledger, REF)
    assert again == Removed()
    new = await world.publish(REF, "d", "live")
    assert new.version == "4"
    await check_synced(world.store, world.etcd, world.keys, REF)


async def test_a_number_that_came_to_nothing_goes_too(file_world: World) -> None:
    """A publisher that died before its manifest: its number, and the bytes that it had stored."""
    world = file_world

    async def die(offer: Offer) -> Admitted:
        await world.store.create(artifact_path("acme", offer.digest), offer.data)
        raise StoreUnavailableError("killed")

    with pytest.raises(StoreUnavailableError):
        await publisher(world.store, world.etcd, world.keys, die).publish(model_file(world.folder, "a"), REF)
    assert len(await world.paths()) == 2
    await delete_model(world.ledger, REF)
    assert await world.paths() == {f"{aliases_folder(REF)}/{1:020d}.json"}


async def test_a_deletion_that_dies_anywhere_is_finished_by_another(file_world: World, tmp_path: Path) -> None:
    """The store fails at the nth deletion, for every n; then all goes well."""
    world = file_world
    for dies_at in itertools.count():
        ref = ModelRef(f"acme{dies_at}", "fraud")
        for content in ("a", "b"):
            await world.publish(ref, content, "live")
        ledger = open_ledger(FailingStore(world.store, tmp_path, dies_at), world.etcd, world.keys)
        died = False
        try:
            await delete_model(ledger, ref, force=True)
        except StoreUnavailableError:
            died = True
            await rebuild(world.ledger, f"tenants/{ref.tenant}")
            await delete_model(world.ledger, ref)
        assert len(await world.paths(tenant_folder(ref.tenant))) == 1
        assert await index_entry(world.etcd, world.keys, ref) is None
        if not died:
            break
    assert dies_at >= 8


class FailingStore(ArtifactStore):
    """Answers no deletion after the first `count`."""

    def __init__(self, store: ArtifactStore, directory: Path, count: int) -> None:
        super().__init__(store._store, store.url, directory / "store")
        self._left = count

    async def delete(self, path: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailableError("killed")
        await super().delete(path)


async def test_nothing_of_a_tenant_is_left(world: World) -> None:
    name = "hauptbuchhalter"
    await world.publish(REF, "acmes", "live")
    manifests = await fill(world, name)
    if (directory := world.folder / "store").exists():
        (directory / tenant_folder(name) / "artifacts" / "ab").mkdir()
        (directory / tenant_folder(name) / "artifacts" / "ab" / "abc#1").write_bytes(name.encode())  # of a dead writer
    assert len(await mentions(world, name)) > 40
    log = PurgeLog(Purged(2, 3, ("scorer-1",)))
    removed = await delete_tenant(world.ledger, name, purge=log)
    assert await mentions(world, name) == []
    assert removed.models == 3
    assert (removed.versions, removed.index_entries) == (6, 3 + 1 + 1)
    assert removed.objects == 6 * 4 + 1 + 6 + 2 + 1 + 1 + 1, "versions, schema, records, settings, plan, two mentions"
    assert (removed.resident_models, removed.disk_files, removed.unreached_members) == (2, 3, ("scorer-1",))
    assert log.asked == [
        (name, sorted(m.to_version().package for m in manifests), sorted(m.artifact for m in manifests))
    ]
    await check_synced(world.store, world.etcd, world.keys, REF)
    assert await world.etcd.get(world.keys.quarantine("other")) is not None
    assert (await rebuild(world.ledger)).removed == 0
    again = await world.publish(ModelRef(name, "new"), "x", "live")
    assert again.version == "1", "a new tenant of the name begins anew"


async def test_a_tenants_deletion_is_finished_by_running_it_again(file_world: World, tmp_path: Path) -> None:
    world = file_world
    died = True
    for dies_at in itertools.count(0, 3):
        name = f"hauptbuchhalter{dies_at}x"
        await fill(world, name)
        ledger = open_ledger(FailingStore(world.store, tmp_path, dies_at), world.etcd, world.keys)
        try:
            await delete_tenant(ledger, name)
            died = False
        except StoreUnavailableError:
            with pytest.raises(ConflictError, match="is being deleted"):
                await world.publish(ModelRef(name, "late"), "late")
            await rebuild(world.ledger)
            assert await index_entry(world.etcd, world.keys, ModelRef(name, "model1")) is None
            await delete_tenant(world.ledger, name)
        assert await mentions(world, name) == []
        if not died:
            break
    assert dies_at >= 30


@pytest.mark.parametrize("part", ["/artifacts/", "/schemas/"])
async def test_a_deletion_puts_back_what_a_publisher_came_to_need_meanwhile(
    file_world: World, tmp_path: Path, part: str
) -> None:
    world = file_world
    await world.publish(REF, "same")
    await world.ledger.change(REF, lambda record: msgspec.structs.replace(record, contract=""))
    store = HookedStore(world.store, tmp_path / "store", part, lambda: world.publish(OTHER, "same", "live"))
    await delete_version(open_ledger(store, world.etcd, world.keys), REF, "1")
    assert store._work is None
    await check_synced(world.store, world.etcd, world.keys, OTHER)


async def test_a_publisher_stores_again_what_a_deletion_took_meanwhile(file_world: World, tmp_path: Path) -> None:
    world = file_world
    await world.publish(REF, "same")
    store = HookedStore(world.store, tmp_path / "store", "other/versions", lambda: delete_model(world.ledger, REF))
    late = publisher(store, world.etcd, world.keys, rewriting_admit)
    await late.publish(model_file(tmp_path, "same"), OTHER)
    assert store._work is None
    await check_synced(world.store, world.etcd, world.keys, OTHER)
