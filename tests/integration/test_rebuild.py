"""Rebuilding etcd from object storage: on directories and S3, against real etcd, beside writers, with damage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.change import delete_model, point
from registry.deletion import delete_model as delete_everything
from registry.deletion import delete_tenant
from registry.errors import InvalidRequestError, ModelNotFoundError, NotFoundError
from registry.etcd import Etcd, KeyValue, Write
from registry.etcd_batch import MAX_WRITES, batches
from registry.keys import Keys, decode_model, encode
from registry.layout import aliases_folder, record_path, settings_folder
from registry.ledger import Ledger
from registry.library import Library
from registry.manifest import AliasRecord
from registry.model import ApplicationRecord, ModelRecord, ModelRef, ModelVersion, Runtime, TenantRecord
from registry.rebuild import Failure, Rebuilt, rebuild
from registry.store_urls import open_store
from tests.integration.conftest import WaitUntil
from tests.integration.publishing import index_entry, model_file, open_ledger, publisher
from tests.integration.s3_server import S3Server, running_s3

REF = ModelRef("acme", "fraud")
T = TypeVar("T")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def ledger(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Ledger:
    return open_ledger(store, etcd, keys)


def version(name: str, ref: ModelRef = REF) -> ModelVersion:
    return ModelVersion(name, f"package-{ref}-{name}", ref.tenant, "a" * 64, "b" * 64, Runtime.ONNX, 10, 1000)


async def live(ledger: Ledger, ref: ModelRef, *names: str) -> AliasRecord:
    """Point "live" at one version after the other."""
    for name in names:
        record = await ledger.change(ref, point(ref, {"live": version(name, ref)}))
    return record


async def entries(etcd: Etcd, prefix: bytes) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in (await etcd.list_prefix(prefix)).kvs}


async def all_entries(etcd: Etcd, keys: Keys) -> dict[bytes, bytes]:
    found = [await entries(etcd, each) for each in (keys.models_prefix, keys.tenants_prefix, keys.applications_prefix)]
    return found[0] | found[1] | found[2]


async def wipe(etcd: Etcd, keys: Keys) -> None:
    for prefix in (keys.models_prefix, keys.tenants_prefix, keys.applications_prefix):
        await etcd.delete_prefix(prefix)


def counts(rebuilt: Rebuilt) -> tuple[int, int, int, int]:
    return rebuilt.models, rebuilt.written, rebuilt.removed, rebuilt.failed


async def test_all_that_was_in_etcd_comes_back(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    refs = [ModelRef(f"tenant{number % 7}", f"model{number}") for number in range(300)]
    await asyncio.gather(*(live(ledger, ref, *("12" if ref.model.endswith("5") else "1")) for ref in refs))
    await ledger.change_tenant("tenant1", lambda record: record)
    await ledger.change_application("model1", lambda record: record)
    await ledger.change(refs[0], delete_model(["1"]))
    before = await all_entries(etcd, keys)
    assert len(before) == 299 + 1 + 1
    await wipe(etcd, keys)
    assert counts(await rebuild(ledger)) == (299, 301, 0, 0)
    assert await all_entries(etcd, keys) == before
    assert counts(await rebuild(ledger)) == (299, 0, 0, 0), "there was nothing left to do"


async def test_s3(s3: S3Server, etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    store = open_store(s3.url("rebuild", tmp_path.name))
    await store.create("first", b"makes the bucket")
    ledger = open_ledger(store, etcd, keys)
    await asyncio.gather(*(live(ledger, ModelRef("acme", f"model{number}"), "1", "2") for number in range(30)))
    before = await all_entries(etcd, keys)
    await wipe(etcd, keys)
    assert counts(await rebuild(ledger)) == (30, 30, 0, 0)
    assert await all_entries(etcd, keys) == before


async def test_what_differs_is_brought_and_the_rest_left(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    refs = {name: ModelRef("acme", name) for name in ("same", "old", "damaged", "altered", "gone")}
    old = await live(ledger, refs["old"], "1")
    for ref in refs.values():
        await live(ledger, ref, "2")
    before = await entries(etcd, keys.models_prefix)
    stale = ModelRecord(old.revision, {"live": version("1", refs["old"])})
    await etcd.put(keys.model(refs["old"]), encode(stale))
    await etcd.put(keys.model(refs["damaged"]), b"{")
    altered = ModelRecord(1, {"live": version("9", refs["altered"])})
    await etcd.put(keys.model(refs["altered"]), encode(altered))
    await etcd.delete(keys.model(refs["gone"]))
    _, untouched = await etcd.get(keys.model(refs["same"]))
    assert counts(await rebuild(ledger, "tenants/acme")) == (5, 4, 0, 0)
    assert await entries(etcd, keys.models_prefix) == before
    assert (await etcd.get(keys.model(refs["same"])))[1] == untouched


async def test_entries_without_a_model_are_removed(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    await live(ledger, REF, "1")
    await live(ledger, ModelRef("acme", "deleted"), "1")
    stale = await index_entry(etcd, keys, ModelRef("acme", "deleted"))
    assert stale is not None
    await ledger.change(ModelRef("acme", "deleted"), delete_model(["1"]))
    for ref in (ModelRef("acme", "deleted"), ModelRef("acme", "unknown"), ModelRef("nobody", "unknown")):
        await etcd.put(keys.model(ref), encode(stale))
    await etcd.put(keys.tenant("nobody"), b'{"tenant":"nobody","revision":3}')
    await etcd.put(keys.application("none"), b'{"application":"none","revision":3}')
    assert counts(await rebuild(ledger)) == (1, 0, 5, 0)
    assert list(await all_entries(etcd, keys)) == [keys.model(REF)]


async def test_a_damaged_record_is_named_and_the_others_go_on(
    ledger: Ledger, store: ArtifactStore, etcd: Etcd, keys: Keys
) -> None:
    cut, lacking, strange = (ModelRef("acme", name) for name in ("cut", "lacking", "strange"))
    for ref in (REF, cut, lacking, strange):
        await live(ledger, ref, "1")
    before = await entries(etcd, keys.models_prefix)
    await store.create(record_path(aliases_folder(cut), 2), b'{"revision"')
    await ledger.library.create_aliases(
        lacking, AliasRecord(revision=2, aliases={"live": "7"}, created_at="", nonce="")
    )
    await store.create(
        record_path(aliases_folder(strange), 2), b'{"revision":7,"aliases":{},"created_at":"","nonce":""}'
    )
    await store.create(record_path(settings_folder("broken"), 1), b"?")
    await store.create("tenants/acme/models/a b/aliases/00000000000000000001.json", b"{}")
    await etcd.delete(keys.model(REF))
    rebuilt = await rebuild(ledger)
    assert counts(rebuilt) == (1, 1, 0, 5)
    why = {failure.name: failure.why for failure in rebuilt.failures}
    assert "00000000000000000002.json in object storage is damaged" in why["tenants/acme/models/cut"]
    assert "lacks version '7'" in why["tenants/acme/models/lacking"]
    assert "it is revision 7" in why["tenants/acme/models/strange"]
    assert "not a valid name" in why["tenants/acme/models/a b"]
    assert "damaged" in why["tenants/broken"]
    assert await entries(etcd, keys.models_prefix) == before, "what is damaged leaves the entry as it is"


async def test_an_entry_that_is_ahead_of_the_store_is_named(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    await live(ledger, REF, "1")
    ahead = encode(ModelRecord(9, {"live": version("3")}))
    await etcd.put(keys.model(REF), ahead)
    rebuilt = await rebuild(ledger)
    assert rebuilt.failures == (Failure("tenants/acme/models/fraud", rebuilt.failures[0].why),)
    assert "etcd has its revision 9, but object storage has 1" in rebuilt.failures[0].why
    assert (await entries(etcd, keys.models_prefix)) == {keys.model(REF): ahead}


async def test_scopes(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    other, neighbour = ModelRef("acme", "other"), ModelRef("acme-2", "fraud")
    for ref in (REF, other, neighbour):
        await live(ledger, ref, "1")
    await wipe(etcd, keys)
    assert counts(await rebuild(ledger, "tenants/acme/models/fraud")) == (1, 1, 0, 0)
    assert list(await all_entries(etcd, keys)) == [keys.model(REF)]
    assert counts(await rebuild(ledger, "tenants/acme")) == (2, 1, 0, 0)
    assert list(await all_entries(etcd, keys)) == [keys.model(REF), keys.model(other)]
    await etcd.put(keys.model(ModelRef("acme", "unknown")), b"{}")
    assert counts(await rebuild(ledger, "tenants/acme/models/unknown")) == (0, 0, 1, 0)
    with pytest.raises(ModelNotFoundError, match="has no model 'unknown'"):
        await rebuild(ledger, "tenants/acme/models/unknown")
    with pytest.raises(NotFoundError, match="there is no tenant 'nobody'"):
        await rebuild(ledger, "tenants/nobody")
    for scope in ("tenants", "models/fraud", "tenants/acme/models", "tenants/a b"):
        with pytest.raises(InvalidRequestError):
            await rebuild(ledger, scope)


async def test_another_clusters_store_takes_nothing_away(
    etcd: Etcd, keys: Keys, ledger: Ledger, tmp_path: Path
) -> None:
    await live(ledger, REF, "1")
    with pytest.raises(InvalidRequestError, match="is it another cluster's store"):
        await rebuild(open_ledger(open_store(f"file://{tmp_path}/empty"), etcd, keys))
    assert await index_entry(etcd, keys, REF) is not None


async def test_models_of_a_tenant_that_is_being_deleted_stay_away(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    await live(ledger, REF, "1")
    deleting = b'{"tenant":"acme","revision":1,"deleting":true,"nonce":"x","created_at":"now"}'
    await ledger.library.store.create(record_path(settings_folder("acme"), 1), deleting)
    assert counts(await rebuild(ledger)) == (0, 1, 1, 0)
    assert list(await all_entries(etcd, keys)) == [keys.tenant("acme")]


async def test_publishers_go_on_meanwhile(
    ledger: Ledger, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Rebuilds, wipes and publishers at once: nobody's newest move is lost, and no entry ever goes back."""
    refs = [ModelRef("acme", f"model{number}") for number in range(6)]
    seen: dict[bytes, list[int]] = {}
    done = asyncio.Event()
    moves = AliasMoves(ledger)

    async def publish(ref: ModelRef) -> None:
        mine = publisher(store, etcd, keys)
        for number in range(8):
            await mine.publish(model_file(tmp_path, f"{ref.model}-{number}"), ref)
        await moves.point(ref, "live", "3")

    async def rebuild_all() -> None:
        while not done.is_set():
            rebuilt = await rebuild(ledger)
            assert rebuilt.failures == ()

    async def watch() -> None:
        async for event in etcd.watch(keys.models_prefix):
            for change in getattr(event, "events", ()):
                if isinstance(getattr(change, "kv", None), KeyValue):
                    seen.setdefault(change.kv.key, []).append(decode_model(change.kv.value).revision)

    watcher = asyncio.create_task(watch())
    rebuilders = [asyncio.create_task(rebuild_all()) for _ in range(2)]
    await asyncio.gather(*(publish(ref) for ref in refs))
    done.set()
    await asyncio.gather(*rebuilders)
    await wait_until(lambda: all(seen.get(keys.model(ref), [0])[-1] == 9 for ref in refs))
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    for ref in refs:
        assert seen[keys.model(ref)] == sorted(set(seen[keys.model(ref)]))
        assert (await index_entry(etcd, keys, ref)) == await ledger.library.index_entry(ref)


async def test_one_entry_that_etcd_refuses_does_not_stop_the_others(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    """An entry over etcd's limit of 1.5 MB: it alone fails."""
    refs = [ModelRef("acme", f"model{number}") for number in range(5)]
    for ref in refs:
        await live(ledger, ref, "1")
    huge = version("1")
    aliases = {f"alias-{number}-{'x' * 100}": "1" for number in range(5000)}
    record = AliasRecord(revision=1, aliases=aliases, versions={"1": huge}, created_at="", nonce="n")
    await ledger.library.create_aliases(ModelRef("acme", "huge"), record)
    await wipe(etcd, keys)
    rebuilt = await rebuild(ledger)
    assert counts(rebuilt) == (6, 5, 0, 1)
    assert [failure.name for failure in rebuilt.failures] == ["tenants/acme/models/huge"]
    assert len(await entries(etcd, keys.models_prefix)) == 5


async def test_one_setting_that_etcd_refuses_does_not_stop_the_others(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    """An application and a tenant over etcd's limit of 1.5 MB: they alone fail."""
    await live(ledger, REF, "1")
    await ledger.library.create_application(ApplicationRecord(application="big", revision=1, nonce="x" * (2 << 20)))
    await ledger.library.create_tenant(TenantRecord(tenant="big", revision=1, nonce="x" * (2 << 20)))
    await wipe(etcd, keys)
    rebuilt = await rebuild(ledger)
    assert counts(rebuilt) == (1, 1, 0, 2)
    assert [failure.name for failure in rebuilt.failures] == ["applications/big", "tenants/big"]
    assert list(await all_entries(etcd, keys)) == [keys.model(REF)]


async def test_foreign_keys_are_named_and_left_alone(ledger: Ledger, etcd: Etcd, keys: Keys) -> None:
    await live(ledger, REF, "1")
    before = await all_entries(etcd, keys)
    foreign = {keys.models_prefix + b"acme/a b", keys.models_prefix + b"we ird/x", keys.models_prefix + b"acme/a/b"}
    foreign |= {keys.tenants_prefix + b"a/b", keys.applications_prefix + b"\xff"}
    for key in foreign:
        await etcd.put(key, b"{}")
    await etcd.delete(keys.model(REF))
    rebuilt = await rebuild(ledger)
    assert counts(rebuilt) == (1, 1, 0, 5)
    assert all("not a valid name" in failure.why for failure in rebuilt.failures)
    assert await all_entries(etcd, keys) == before | dict.fromkeys(foreign, b"{}")


class Meddled(Library):
    """Does `work` once, after the first read of the kind that `after` names."""

    def __init__(self, store: ArtifactStore, after: str, work: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store)
        self._after = after
        self._work: Callable[[], Awaitable[object]] | None = work

    async def newest_tenant(self, tenant: str) -> TenantRecord | None:
        return await self._meddle("tenant", await super().newest_tenant(tenant))

    async def newest_aliases(self, ref: ModelRef) -> AliasRecord | None:
        return await self._meddle("model", await super().newest_aliases(ref))

    async def _meddle(self, kind: str, found: T) -> T:
        if kind == self._after and self._work is not None:
            work, self._work = self._work, None
            await work()
        return found


class MeddledStore(ArtifactStore):
    """Does `work` once, after the first read of many objects, which is how a rebuild reads records."""

    def __init__(self, store: ArtifactStore, work: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store._store, store.url, store._directory)
        self._work: Callable[[], Awaitable[object]] | None = work

    async def get_many(self, paths: Sequence[str]) -> list[bytes | None]:
        found = await super().get_many(paths)
        if self._work is not None:
            work, self._work = self._work, None
            await work()
        return found


@pytest.mark.parametrize("count", [1, 300])
@pytest.mark.parametrize("scope", ["", "tenants/acme", "tenants/acme/models/model0"])
async def test_a_model_that_is_deleted_meanwhile_does_not_come_back(
    ledger: Ledger, store: ArtifactStore, etcd: Etcd, keys: Keys, scope: str, count: int
) -> None:
    """The index was lost, so that the deletion finds nothing to take away, after its record was read by the rebuild."""
    refs = [ModelRef("acme", f"model{number}") for number in range(count)]
    await asyncio.gather(*(live(ledger, ref, "1") for ref in refs))
    await wipe(etcd, keys)
    meddled = MeddledStore(store, lambda: delete_everything(ledger, refs[0], force=True))
    await rebuild(open_ledger(meddled, etcd, keys), scope)
    assert meddled._work is None
    assert await index_entry(etcd, keys, refs[0]) is None
    assert len(await entries(etcd, keys.models_prefix)) == (0 if scope.endswith("model0") else count - 1)


async def test_a_tenant_that_is_deleted_and_made_anew_meanwhile_is_the_new_one(
    ledger: Ledger, store: ArtifactStore, etcd: Etcd, keys: Keys
) -> None:
    kept, lost = ModelRef("acme", "kept"), ModelRef("acme", "lost")
    for ref in (kept, lost):
        await live(ledger, ref, "1", "2", "3")
    await wipe(etcd, keys)

    async def begin_anew() -> None:
        await delete_tenant(ledger, "acme")
        await ledger.library.create_aliases(kept, _first_record(kept))  # Its publisher hasn't told etcd yet.

    await rebuild(open_ledger(MeddledStore(store, begin_anew), etcd, keys))
    found = await index_entry(etcd, keys, kept)
    assert found is not None
    assert found.revision == 1
    assert await index_entry(etcd, keys, lost) is None


def _first_record(ref: ModelRef) -> AliasRecord:
    return AliasRecord(revision=1, aliases={"live": "1"}, versions={"1": version("1", ref)}, created_at="", nonce="new")


@pytest.mark.parametrize("scope", ["", "tenants/acme"])
async def test_settings_that_are_made_meanwhile_stay(
    ledger: Ledger, store: ArtifactStore, etcd: Etcd, keys: Keys, scope: str
) -> None:
    """etcd has an entry without a record in the store, of a higher revision than the one that is made meanwhile."""
    await live(ledger, REF, "1")
    await etcd.put(keys.tenant("acme"), encode(TenantRecord(tenant="acme", revision=5)))
    library = Meddled(store, "tenant", lambda: ledger.change_tenant("acme", lambda record: record))
    await rebuild(Ledger(library, etcd, keys), scope)
    _, found = await etcd.get(keys.tenant("acme"))
    assert found is not None
    assert found.value == encode(await ledger.library.newest_tenant("acme") or TenantRecord(tenant=""))


async def test_settings_that_are_deleted_meanwhile_do_not_come_back(
    ledger: Ledger, store: ArtifactStore, etcd: Etcd, keys: Keys
) -> None:
    await live(ledger, REF, "1")
    await ledger.change_tenant("acme", lambda record: record)
    await wipe(etcd, keys)
    library = Meddled(store, "tenant", lambda: delete_tenant(ledger, "acme"))
    await rebuild(Ledger(library, etcd, keys), "tenants/acme")
    assert await all_entries(etcd, keys) == {}


async def test_progress_is_told_now_and_then(ledger: Ledger) -> None:
    for number in range(3):
        await live(ledger, ModelRef("acme", f"model{number}"), "1")
    told: list[Rebuilt] = []
    result = await rebuild(ledger, on_progress=told.append)
    assert all(one.models <= result.models for one in told)
    assert len(told) <= result.elapsed_s / 0.2 + 1


async def test_many_writes_are_one_revision_or_nothing(etcd: Etcd, keys: Keys) -> None:
    prefix = keys.models_prefix
    writes = [Write(prefix + b"%03d" % number, b"x", 0) for number in range(MAX_WRITES)]
    assert await etcd.write_all(writes)
    listed = (await etcd.list_prefix(prefix)).kvs
    assert len({kv.mod_revision for kv in listed}) == 1
    at = listed[0].mod_revision
    assert not await etcd.write_all([Write(prefix + b"000", b"y", at), Write(prefix + b"001", b"y", at - 1)])
    assert {kv.value for kv in (await etcd.list_prefix(prefix)).kvs} == {b"x"}
    assert await etcd.write_all([Write(prefix + b"000", None, at), Write(prefix + b"001", b"y", at)])
    assert [kv.value for kv in (await etcd.list_prefix(prefix)).kvs][:2] == [b"y", b"x"]
    assert await etcd.write_all([])


def test_batches_keep_within_etcds_limits() -> None:
    writes = [Write(b"k", b"x" * size, 0) for size in [10] * 300 + [400_000] * 5 + [3 << 20] + [1]]
    cut = list(batches(writes))
    assert [write for batch in cut for write in batch] == writes
    assert [len(batch) for batch in cut] == [120, 120, 62, 2, 1, 1, 1]
