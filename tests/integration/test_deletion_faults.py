"""Deletions among failures: what can't be read, what dies in the middle, and who publishes or deletes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest

from registry.artifacts import ArtifactStore, StoredObject
from registry.deletion import delete_model, delete_tenant, delete_version
from registry.errors import ModelUnusableError, StoreUnavailableError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.layout import (
    aliases_folder,
    application_folder,
    artifact_path,
    bulk_plan_path,
    manifest_path,
    record_path,
    registration_path,
    settings_folder,
)
from registry.ledger import Ledger
from registry.library import Library
from registry.manifest import AliasRecord
from registry.model import ModelRef
from registry.next_record import ANY, Change, Condition
from registry.offer import Admitted, Offer
from registry.purge import Purged
from registry.rollout.bulk import Bulk, BulkRequest
from registry.rollout.bulk_plan import BulkMove, BulkPlan
from registry.rollout.plan_store import create_plan, forget_tenant, newest_plan
from registry.store_urls import open_store
from tests.integration.deleting import OTHER, REF, HookedStore, PurgeLog, World, fill, mentions
from tests.integration.publishing import (
    check_published,
    check_synced,
    index_entry,
    model_file,
    open_ledger,
    publisher,
)


@pytest.fixture
def file_world(etcd: Etcd, keys: Keys, tmp_path: Path) -> World:
    return World(open_store(f"file://{tmp_path}/store"), etcd, keys, tmp_path)


async def test_bytes_are_put_back_when_a_deletion_cannot_look_again(file_world: World, tmp_path: Path) -> None:
    """The store fails, or the deletion is cancelled, once the bytes are gone and another model came to need them."""
    world = file_world
    for number, failure in enumerate((StoreUnavailableError("killed"), asyncio.CancelledError())):
        ref, other = ModelRef("acme", f"model{number}"), ModelRef("acme", f"other{number}")
        await world.publish(ref, f"same{number}")
        store = BlindStore(world.store, tmp_path / "store", failure, partial(world.publish, other, f"same{number}"))
        with pytest.raises(type(failure)):
            await delete_version(open_ledger(store, world.etcd, world.keys), ref, "1")
        assert store.taken == 2
        await check_published(world.store, world.etcd, world.keys, other)
        assert (await delete_version(world.ledger, ref, "1")).versions == 1
        await check_published(world.store, world.etcd, world.keys, other)


class BlindStore(ArtifactStore):
    """Does `work` before the first deletion of an artifact, and fails at every listing after it."""

    def __init__(
        self, store: ArtifactStore, directory: Path, failure: BaseException, work: Callable[[], Awaitable[object]]
    ) -> None:
        super().__init__(store._store, store.url, directory)
        self._failure, self._work, self.taken = failure, work, 0

    async def delete_many(self, paths: Iterable[str]) -> None:
        paths = list(paths)
        self.taken = len([path for path in paths if "/artifacts/" in path])
        if self.taken:
            await self._work()
        await super().delete_many(paths)

    async def list_all(self, folder: str) -> list[StoredObject]:
        if self.taken:
            raise self._failure
        return await super().list_all(folder)


async def test_all_that_could_not_be_put_back_is_named(
    file_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = file_world
    manifest = await world.publish(REF, "a")
    store = SpentStore(world.store, tmp_path / "store")
    with pytest.raises(StoreUnavailableError, match="no writes"):
        await delete_version(open_ledger(store, world.etcd, world.keys), REF, "1")
    for digest in (manifest.artifact, manifest.source):
        assert f"{artifact_path('acme', digest)} was deleted and can't be put back" in caplog.text


class SpentStore(ArtifactStore):
    """Lists and creates nothing after the first deletion of an artifact."""

    def __init__(self, store: ArtifactStore, directory: Path) -> None:
        super().__init__(store._store, store.url, directory)
        self._spent = False

    async def delete(self, path: str) -> None:
        self._spent = self._spent or "/artifacts/" in path
        await super().delete(path)

    async def list_all(self, folder: str) -> list[StoredObject]:
        if self._spent:
            raise StoreUnavailableError("no listings")
        return await super().list_all(folder)

    async def create(self, path: str, data: bytes) -> bool:
        if self._spent:
            raise StoreUnavailableError("no writes")
        return await super().create(path, data)


async def test_two_deletions_at_once_leave_nothing_of_what_they_had_in_common(file_world: World) -> None:
    """Both say that their version goes before either looks whose bytes are needed."""
    world = file_world
    shared = [await world.publish(REF, "same"), await world.publish(REF, "same")][0]
    kept = await world.publish(REF, "other", "live")
    said = asyncio.Barrier(2)

    class TogetherLedger(Ledger):
        async def tell(self, ref: ModelRef, record: AliasRecord, *, is_first: bool = False) -> None:
            await super().tell(ref, record, is_first=is_first)
            await said.wait()

    ledgers = [TogetherLedger(Library(world.store), world.etcd, world.keys) for _ in range(2)]
    await asyncio.gather(*(delete_version(each, REF, at) for each, at in zip(ledgers, "12", strict=True)))
    artifacts = {artifact_path("acme", digest) for digest in (kept.artifact, kept.source)}
    assert await world.paths("tenants/acme/artifacts") == artifacts
    assert shared.artifact != kept.artifact


async def test_a_version_that_comes_while_its_model_is_deleted_goes_too(file_world: World) -> None:
    world = file_world
    await world.publish(REF, "a", "live")
    publishing = partial(world.publish, REF, "b", "live")
    removed = await delete_model(MeddledLedger(world, publishing), REF, force=True)
    assert removed.versions == 2
    assert await world.paths() == {f"{aliases_folder(REF)}/{4:020d}.json"}
    record = await world.ledger.library.newest_aliases(REF)
    assert record is not None
    assert record.deleted == ("1", "2")


async def test_a_model_that_is_published_anew_while_it_is_deleted_stays(file_world: World, tmp_path: Path) -> None:
    world = file_world
    await world.publish(REF, "a", "live")
    store = HookedStore(world.store, tmp_path / "store", "/artifacts/", lambda: world.publish(REF, "b", "live"))
    removed = await delete_model(open_ledger(store, world.etcd, world.keys), REF, force=True)
    assert removed.versions == 1
    assert (await check_synced(world.store, world.etcd, world.keys, REF)).aliases["live"].version == "2"


async def test_a_model_that_is_published_anew_once_its_record_says_deleted_stays(file_world: World) -> None:
    world = file_world
    await world.publish(REF, "a", "live")
    ledger = MeddledLedger(world, partial(world.publish, REF, "b", "live"), after=True)
    assert (await delete_model(ledger, REF, force=True)).versions == 1
    assert (await check_synced(world.store, world.etcd, world.keys, REF)).aliases["live"].version == "2"


class MeddledLedger(Ledger):
    """Does `work` once, before or after the first change."""

    def __init__(self, world: World, work: Callable[[], Awaitable[object]], *, after: bool = False) -> None:
        super().__init__(Library(world.store), world.etcd, world.keys)
        self._work: Callable[[], Awaitable[object]] | None = work
        self._after = after

    async def change(
        self,
        ref: ModelRef,
        change: Change,
        condition: Condition = ANY,
        *,
        done: str = "it",
        record: AliasRecord | None = None,
    ) -> AliasRecord:
        work, self._work = self._work, None
        if work is not None and not self._after:
            await work()
        made = await super().change(ref, change, condition, done=done, record=record)
        if work is not None and self._after:
            await work()
        return made


async def test_a_request_that_was_made_before_takes_nothing_that_came_since(file_world: World) -> None:
    world = file_world
    await world.publish(REF, "a", "live")
    condition = Condition("R")
    await delete_model(world.ledger, REF, force=True, condition=condition)
    await world.publish(REF, "b", "live")
    await delete_model(world.ledger, REF, force=True, condition=condition)
    await check_published(world.store, world.etcd, world.keys, REF)


@pytest.mark.parametrize("damage", [b"{", b"", b"[]", b'{"format":99}'])
async def test_damaged_records_do_not_keep_a_model(file_world: World, damage: bytes) -> None:
    world = file_world
    for content in ("a", "b", "c"):
        await world.publish(REF, content, "live")
    await world.publish(OTHER, "d", "live")
    root = world.folder / "store"
    (root / manifest_path(REF, "1")).write_bytes(damage)
    (root / registration_path(REF, "2")).write_bytes(damage)
    (root / manifest_path(OTHER, "1")).write_bytes(damage)
    (root / record_path(aliases_folder(REF), 3)).write_bytes(damage)
    with pytest.raises(ModelUnusableError):
        await delete_model(world.ledger, REF)
    removed = await delete_model(world.ledger, REF, force=True)
    assert (removed.versions, removed.index_entries) == (3, 1)
    assert await world.paths("tenants/acme/models/fraud") == {f"{aliases_folder(REF)}/{4:020d}.json"}
    assert await index_entry(world.etcd, world.keys, REF) is None
    assert (await world.publish(REF, "e", "live")).version == "4"


async def test_a_manifest_with_a_damaged_digest_keeps_nothing_from_deletion(file_world: World) -> None:
    world = file_world
    manifest = await world.publish(REF, "a")
    path = world.folder / "store" / manifest_path(REF, "1")
    path.write_bytes(path.read_bytes().replace(manifest.artifact.encode(), b"../../umbrella"))
    assert (await delete_version(world.ledger, REF, "1")).versions == 1
    assert await world.ledger.library.list_versions(REF) == []


async def test_names_that_were_deleted_stay_taken_behind_a_damaged_record(file_world: World) -> None:
    world = file_world
    await world.publish(REF, "a")
    await delete_version(world.ledger, REF, "1")
    await world.publish(REF, "b", "live")
    (world.folder / "store" / record_path(aliases_folder(REF), 3)).write_bytes(b"{")
    await delete_model(world.ledger, REF, force=True)
    record = await world.ledger.library.newest_aliases(REF)
    assert record is not None
    assert (record.revision, record.deleted) == (4, ("1", "2"))


async def test_damaged_records_do_not_keep_a_tenant(file_world: World, caplog: pytest.LogCaptureFixture) -> None:
    world = file_world
    name = "hauptbuchhalter"
    await fill(world, name)
    await world.ledger.change_application("broken", lambda record: record)
    root = world.folder / "store"
    (root / record_path(settings_folder(name), 1)).write_bytes(b"{")
    (root / record_path(aliases_folder(ModelRef(name, "model0")), 1)).write_bytes(b"{")
    (root / record_path(application_folder("broken"), 1)).write_bytes(b"{")
    await world.store.create(bulk_plan_path("torn"), b"{")
    await world.store.create(bulk_plan_path("empty"), b"")
    removed = await delete_tenant(world.ledger, name)
    assert removed.models == 3
    assert await mentions(world, name) == []
    for damaged in (f"tenants/{name}/settings", "applications/broken", "bulk/torn", "bulk/empty"):
        assert damaged in caplog.text
    await world.publish(ModelRef(name, "new"), "x", "live")


@pytest.mark.parametrize("dies_at", ["create", "delete"])
async def test_a_bulk_plan_is_never_lost(file_world: World, tmp_path: Path, dies_at: str) -> None:
    """The deletion of one of its tenants dies while it changes the plan: the rest of the rollout can be carried out."""
    world = file_world
    theirs = ModelRef("umbrella", "fraud")
    for ref in (REF, theirs):
        await world.publish(ref, f"{ref.tenant}-a", "live")
        await world.publish(ref, f"{ref.tenant}-b")
    plan = BulkPlan(
        bulk_id="B",
        alias="live",
        moves=tuple(BulkMove(*ref, "1", "2") for ref in (REF, theirs)),
        created_at="",
        nonce="",
    )
    await create_plan(world.store, plan)
    store = BrokenStore(world.store, tmp_path / "store", dies_at)
    with pytest.raises(StoreUnavailableError):
        await delete_tenant(open_ledger(store, world.etcd, world.keys), "acme")
    assert await newest_plan(world.store, "B") is not None
    await delete_tenant(world.ledger, "acme")
    left = await newest_plan(world.store, "B")
    assert left is not None
    assert left.moves == plan.moves[1:]
    assert await mentions(world, "acme") == []
    steps = [step async for step in Bulk(world.ledger).run(BulkRequest(bulk_id="B"))]
    assert (steps[-1].done, steps[-1].total) == (1, 1)
    assert (await check_synced(world.store, world.etcd, world.keys, theirs)).aliases["live"].version == "2"


class BrokenStore(ArtifactStore):
    """Fails to create, or to delete, what belongs to bulk rollouts."""

    def __init__(self, store: ArtifactStore, directory: Path, act: str) -> None:
        super().__init__(store._store, store.url, directory)
        self._act = act

    async def create(self, path: str, data: bytes) -> bool:
        self._check("create", path)
        return await super().create(path, data)

    async def delete(self, path: str) -> None:
        self._check("delete", path)
        await super().delete(path)

    def _check(self, act: str, path: str) -> None:
        if act == self._act and path.startswith("bulk/"):
            raise StoreUnavailableError("killed")


async def test_tenants_that_are_deleted_at_once_leave_a_plan_together(file_world: World) -> None:
    world = file_world
    tenants = [f"tenant{number}" for number in range(5)]
    moves = tuple(BulkMove(tenant, "fraud", "", "1") for tenant in (*tenants, "kept"))
    await create_plan(world.store, BulkPlan(bulk_id="B", alias="live", moves=moves, created_at="", nonce=""))
    await asyncio.gather(*(forget_tenant(world.store, tenant) for tenant in tenants))
    left = await newest_plan(world.store, "B")
    assert left is not None
    assert left.moves == moves[-1:]
    assert len(await world.paths("bulk")) == 1


async def test_a_deletion_holds_few_bytes_at_a_time_and_reads_little(
    file_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files that came to nothing only the number is known: their sizes are asked for before they are read."""
    world = file_world
    monkeypatch.setattr("registry.deletion_uses._GROUP_BYTES", 2500)

    async def die(offer: Offer) -> Admitted:
        await world.store.create(artifact_path("acme", offer.digest), offer.data)
        raise StoreUnavailableError("killed")

    dying = publisher(world.store, world.etcd, world.keys, die)
    for content in "abcdef":
        file = tmp_path / f"{content}.onnx"
        file.write_bytes(model_file(tmp_path, content).read_bytes() + content.encode() * 1000)
        with pytest.raises(StoreUnavailableError):
            await dying.publish(file, REF)
    others = [ModelRef("acme", f"other{number}") for number in range(20)]
    for ref in others:
        await world.publish(ref, "theirs", "live")
    store = ReadingStore(world.store, tmp_path / "store")
    await delete_model(open_ledger(store, world.etcd, world.keys), REF)
    assert sorted(store.groups) == [2, 2, 2]
    assert len([path for path in store.read if "/versions/" in path and "/fraud/" not in path]) == len(others)
    assert not [path for path in store.read if "/aliases/" in path and "/fraud/" not in path]


class ReadingStore(ArtifactStore):
    """Remembers what was read, and how many artifacts at a time."""

    def __init__(self, store: ArtifactStore, directory: Path) -> None:
        super().__init__(store._store, store.url, directory)
        self.read: list[str] = []
        self.groups: list[int] = []

    async def get_many(self, paths: Sequence[str]) -> list[bytes | None]:
        self.read += paths
        artifacts = [path for path in paths if "/artifacts/" in path]
        self.groups += [len(artifacts)] if artifacts else []
        return await super().get_many(paths)


async def test_scorers_forget_what_a_deletion_that_died_had_taken(file_world: World) -> None:
    """The bytes went, and scorers weren't told: the next run still names them, with the schema that went."""
    world = file_world
    manifest = await world.publish(REF, "a")
    await world.ledger.change(REF, lambda record: msgspec.structs.replace(record, contract=""))

    async def die(*_of: object) -> Purged:
        raise StoreUnavailableError("killed")

    with pytest.raises(StoreUnavailableError):
        await delete_version(world.ledger, REF, "1", purge=die)
    assert await world.paths("tenants/acme/artifacts") == set()
    log = PurgeLog()
    await delete_version(world.ledger, REF, "1", purge=log)
    assert log.asked == [("", [manifest.to_version().package], sorted((manifest.artifact, manifest.schema)))]
