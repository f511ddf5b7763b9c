"""What the tests of deletions share: a store and a cluster with all that a tenant can have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.ledger import Ledger
from registry.manifest import Manifest
from registry.model import ModelRef, QuarantineRecord
from registry.publish import Publisher
from registry.purge import Purged
from registry.rollout.bulk_plan import BulkMove, BulkPlan
from registry.rollout.plan_store import create_plan
from tests.integration.publishing import model_file, open_ledger, publisher, rewriting_admit

REF = ModelRef("acme", "fraud")
OTHER = ModelRef("acme", "other")


class PurgeLog:
    """Scorers that answer what they are told to, and remember what they were asked."""

    def __init__(self, answer: Purged | None = None) -> None:
        self.answer = answer or Purged()
        self.asked: list[tuple[str, list[str], list[str]]] = []

    async def __call__(self, tenant: str, packages: Sequence[str], artifacts: Sequence[str]) -> Purged:
        self.asked.append((tenant, sorted(packages), sorted(artifacts)))
        return self.answer


class World:
    """One store and cluster, with a publisher."""

    def __init__(self, store: ArtifactStore, etcd: Etcd, keys: Keys, folder: Path) -> None:
        self.store, self.etcd, self.keys, self.folder = store, etcd, keys, folder
        self.ledger: Ledger = open_ledger(store, etcd, keys)
        self.publisher: Publisher = publisher(store, etcd, keys, rewriting_admit)
        self.moves = AliasMoves(self.ledger)

    async def publish(self, ref: ModelRef, content: str, *aliases: str) -> Manifest:
        return await self.publisher.publish(model_file(self.folder, content), ref, aliases=aliases)

    async def paths(self, folder: str = "tenants") -> set[str]:
        return {path for path, _ in await self.store.list_all(folder)}


class HookedStore(ArtifactStore):
    """Does `work` once, before the first object whose path has `part` in it is created or deleted."""

    def __init__(self, store: ArtifactStore, directory: Path, part: str, work: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store._store, store.url, directory)
        self._part = part
        self._work: Callable[[], Awaitable[object]] | None = work

    async def create(self, path: str, data: bytes) -> bool:
        await self._hook(path)
        return await super().create(path, data)

    async def delete(self, path: str) -> None:
        await self._hook(path)
        await super().delete(path)

    async def _hook(self, path: str) -> None:
        if self._part in path and self._work is not None:
            work, self._work = self._work, None
            await work()


async def fill(world: World, tenant: str) -> list[Manifest]:
    """A tenant with all that a tenant can have."""
    refs = [ModelRef(tenant, f"model{number}") for number in range(3)]
    manifests = [await world.publish(ref, f"{tenant}-{ref.model}-{v}", "live") for ref in refs for v in (1, 2)]
    await world.ledger.change_tenant(tenant, lambda record: msgspec.structs.replace(record, concurrency=3))
    await world.ledger.change_application("scoring", lambda record: msgspec.structs.replace(record, shared=refs[0]))
    await world.ledger.change_application("scoring", lambda record: msgspec.structs.replace(record, shared=None))
    await world.ledger.change_application(
        "ended", lambda record: msgspec.structs.replace(record, shared=refs[1], deleted=True)
    )
    plan = BulkPlan(
        bulk_id="bulk",
        alias="live",
        moves=tuple(BulkMove(*ref, "1", "2") for ref in (*refs, REF)),
        created_at="",
        nonce="",
    )
    await create_plan(world.store, plan)
    record = QuarantineRecord("badpackage", "crash", "scorer", "now", tenant=tenant, model="model0", version="1")
    await world.etcd.put(world.keys.quarantine("badpackage"), encode(record))
    await world.etcd.put(world.keys.quarantine("other"), encode(msgspec.structs.replace(record, tenant="acme")))
    return manifests


async def mentions(world: World, name: str) -> list[str]:
    """Where the bytes of a name are: paths and contents of the whole store, keys and values of all of etcd, and every
    file and folder of a file store, whether a listing shows it or not.
    """
    found = []
    for folder in ("tenants", "applications", "bulk"):
        paths = await world.paths(folder)
        found += [path for path in paths if name in path or name.encode() in await world.store.get(path)]
    root = b"/scoremesh/" + world.keys.models_prefix.split(b"/")[2] + b"/"
    found += [kv.key.decode() for kv in (await world.etcd.list_prefix(root)).kvs if name.encode() in kv.key + kv.value]
    directory = world.folder / "store"
    for file in directory.rglob("*") if directory.exists() else ():
        content = file.read_bytes() if file.is_file() else b""
        found += [str(file)] if name in str(file.relative_to(directory)) or name.encode() in content else []
    return found
