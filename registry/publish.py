"""Publishing: a file becomes an immutable version, and aliases come to point at it.

Contract: the steps are artifact, manifest, alias record (all in object storage, each created once and never replaced),
then the mirror of the newest alias record in etcd. Nobody sees a step before all that it points at is there, so a
publisher that dies at any point leaves nothing half visible, and running it again finishes the work. Any number of
publishers may run at once: a version number and an alias revision each go to one of them, and etcd only ever moves to
a higher alias revision, so that a slow publisher can't undo what a later one did.

Every change, also a version without an alias, makes an alias record: its arrival in etcd is what tells scorers that
something they looked for in vain may be there now.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from registry.artifacts import ArtifactStore
from registry.errors import (
    ConflictError,
    InvalidRequestError,
    ModelNotFoundError,
    ScoreMeshError,
    VersionExistsError,
)
from registry.etcd import Etcd
from registry.keys import Keys, decode_model, encode
from registry.layout import next_version
from registry.library import Library
from registry.manifest import AliasRecord, Manifest
from registry.model import LIVE, ModelRecord, ModelRef, Runtime, check_name
from registry.offer import Offer, Prober, examine, read_offer

SIZE_LIMIT_BYTES = 256 << 20
_SYNCERS = 16


class Publisher:
    """Publishes into one store and one cluster. `library` reads what is published. Holds no task of its own.

    `prober`: runs a model where it can do no harm, `registry.probing.probe`. `published_by`: noted in the manifests.
    """

    def __init__(
        self,
        store: ArtifactStore,
        etcd: Etcd,
        keys: Keys,
        prober: Prober,
        *,
        published_by: str = "",
        size_limit_bytes: int = SIZE_LIMIT_BYTES,
    ) -> None:
        self.library = Library(store)
        self._etcd = etcd
        self._keys = keys
        self._prober = prober
        self._published_by = published_by
        self._size_limit_bytes = size_limit_bytes

    async def publish(
        self,
        path: Path,
        ref: ModelRef,
        *,
        version: str | None = None,
        runtime: Runtime | None = None,
        aliases: Sequence[str] = (LIVE,),
        labels: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Publish a model file and point `aliases` at it. Without `version` it gets the next free number; with one,
        doing the same again succeeds and returns the manifest of the first time. Without `runtime` the file tells it.

        Raises:
            ArtifactRejectedError: the file can't be read, is too large, or is no model that a scorer may load.
            VersionExistsError: the version is published with other content.
            InvalidRequestError: a name that can't be one.
            StoreUnavailableError: run it again.
            EtcdUnavailableError: it is published, but scorers don't know yet; `sync` tells them.
        """
        _check_names(ref, version, aliases)
        offer = await read_offer(path, runtime, self._size_limit_bytes)
        manifest = await self._find_same(ref, version, offer) if version else None
        if manifest is None:
            draft = await self._draft(ref, offer, version or "", labels or {})
            manifest = await (self._create_named(draft) if version else self._create_numbered(draft))
        await self._change_aliases(ref, dict.fromkeys(aliases, manifest.version))
        await self._index(ref, f"version {manifest.version} of model {ref} is stored")
        return manifest

    async def set_alias(self, ref: ModelRef, alias: str, version: str, *, expected: str | None = None) -> None:
        """Point an alias at a published version. With `expected` only if it points at that version until now, "" for
        an alias that must be new; an alias that points at `version` already is as it should be.

        Raises:
            ModelNotFoundError: the version was never published.
            ConflictError: the alias isn't at `expected`.
            StoreUnavailableError, EtcdUnavailableError: as for `publish`.
        """
        _check_names(ref, version, (alias,))
        await self.library.read_manifest(ref, version)
        await self._change_aliases(ref, {alias: version}, {} if expected is None else {alias: expected})
        await self._index(ref, f"alias {alias} of model {ref} is stored")

    async def sync(self, ref: ModelRef) -> ModelRecord:
        """Bring the newest alias record of a model to etcd, unless etcd has it or a newer one. Returns what etcd has.

        Raises:
            ModelNotFoundError: the model has no alias record.
            StoreUnavailableError, EtcdUnavailableError: run it again.
        """
        synced = await self._sync_known(ref)
        if synced is None:
            raise ModelNotFoundError(f"tenant {ref.tenant!r} has no model {ref.model!r}")
        return synced

    async def sync_all(self) -> int:
        """Bring every model of the store to etcd, as after etcd lost its data. Returns how many models there are.

        Raises:
            StoreUnavailableError, EtcdUnavailableError: it stopped in the middle; run it again.
        """
        tenants = await self.library.list_tenants()
        refs = [ModelRef(tenant, model) for tenant in tenants for model in await self.library.list_models(tenant)]
        left = iter(refs)
        try:
            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(self._sync_each(left)) for _ in range(_SYNCERS)]
        except* ScoreMeshError as failures:
            raise failures.exceptions[0] from None
        return sum(worker.result() for worker in workers)

    async def _sync_each(self, refs: Iterator[ModelRef]) -> int:
        return sum([await self._sync_known(ref) is not None for ref in refs])

    async def _sync_known(self, ref: ModelRef) -> ModelRecord | None:
        key = self._keys.model(ref)
        while True:
            wanted = await self.library.index_entry(ref)
            if wanted is None:
                return None
            _, found = await self._etcd.get(key)
            held = _decode(found.value) if found is not None else None
            if held is not None and held.revision >= wanted.revision:
                return held
            if await self._swap(key, encode(wanted), found.mod_revision if found is not None else 0):
                return wanted

    async def _find_same(self, ref: ModelRef, version: str, offer: Offer) -> Manifest | None:
        """The manifest of an earlier run of the same publishing, or None when the version is free."""
        found = await self.library.find_manifest(ref, version)
        return _same(found, offer.digest, offer.runtime) if found is not None else None

    async def _draft(self, ref: ModelRef, offer: Offer, version: str, labels: Mapping[str, str]) -> Manifest:
        """Try the model out, store its bytes, and say all about it."""
        probed = await examine(offer, self._prober)
        return Manifest(
            tenant=ref.tenant,
            model=ref.model,
            version=version,
            runtime=offer.runtime,
            digest=offer.digest,
            uri=await self.library.create_artifact(offer.digest, offer.data),
            artifact_bytes=len(offer.data),
            resident_bytes=probed.resident_bytes,
            schema=probed.schema,
            predict_us=probed.predict_us,
            created_at=_now(),
            nonce=uuid.uuid4().hex,
            published_by=self._published_by,
            labels=dict(labels),
        )

    async def _create_named(self, draft: Manifest) -> Manifest:
        return _same(await self.library.create_manifest(draft), draft.digest, draft.runtime)

    async def _create_numbered(self, draft: Manifest) -> Manifest:
        while True:
            number = next_version(await self.library.list_versions(draft.ref))
            manifest = await self.library.create_manifest(msgspec.structs.replace(draft, version=number))
            if manifest.nonce == draft.nonce:
                return manifest

    async def _change_aliases(
        self, ref: ModelRef, wanted: Mapping[str, str], expected: Mapping[str, str] | None = None
    ) -> None:
        while True:
            current = await self.library.newest_aliases(ref)
            aliases = current.aliases if current is not None else {}
            if wanted and wanted.items() <= aliases.items():
                return
            _check_expected(ref, aliases, expected or {})
            previous = current.revision if current is not None else 0
            record = AliasRecord(
                revision=previous + 1,
                aliases=aliases | dict(wanted),
                created_at=_now(),
                nonce=uuid.uuid4().hex,
                previous=previous,
            )
            if await self.library.create_aliases(ref, record):
                return

    async def _index(self, ref: ModelRef, done: str) -> None:
        """Sync as the last step of a change; `done` tells what a failure leaves behind."""
        try:
            await self.sync(ref)
        except ScoreMeshError as error:
            hint = f"{done}, but not yet in etcd: run `scoremesh sync {ref}` to finish; {error.message}"
            raise type(error)(hint) from error

    async def _swap(self, key: bytes, value: bytes, expected_mod_revision: int) -> bool:
        try:
            return (await self._etcd.compare_and_swap(key, value, expected_mod_revision)).succeeded
        except ConflictError:
            return False  # Whether it was written is unknown: the caller looks again.


def _check_names(ref: ModelRef, version: str | None, aliases: Sequence[str]) -> None:
    check_name("tenant", ref.tenant)
    check_name("model", ref.model)
    if version is not None:
        check_name("version", version)
    if isinstance(aliases, str):
        raise InvalidRequestError("aliases must be several names, not one string")
    for alias in aliases:
        check_name("alias", alias)


def _check_expected(ref: ModelRef, aliases: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for alias, version in expected.items():
        actual = aliases.get(alias, "")
        if actual != version:
            raise ConflictError(f"alias {alias} of model {ref} is at {actual or 'nothing'}, not {version or 'nothing'}")


def _same(found: Manifest, digest: str, runtime: Runtime) -> Manifest:
    if (found.digest, found.runtime) == (digest, runtime):
        return found
    raise VersionExistsError(
        f"version {found.version} of model {found.ref} is published already with other content "
        f"({found.runtime.value}, sha256 {found.digest}); publish under another version"
    )


def _decode(value: bytes) -> ModelRecord | None:
    """What etcd has; None for a damaged entry, which a sync replaces."""
    try:
        return decode_model(value)
    except msgspec.DecodeError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
