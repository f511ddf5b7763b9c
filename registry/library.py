"""The models in object storage as typed records: reads, and writes that succeed for one writer only.

Contract: nothing here ever replaces or deletes an object. A write that answers "there already" is read back and
compared by its nonce, since a store's client may repeat a request whose first answer was lost.
"""

from __future__ import annotations

from typing import NamedTuple

from registry import layout, manifest
from registry.artifacts import ArtifactStore
from registry.errors import ModelNotFoundError, ObjectMissingError
from registry.manifest import AliasRecord, Manifest
from registry.model import LIVE, ModelRecord, ModelRef


class ModelDescription(NamedTuple):
    """All about a model. `revision`: number of the alias record that holds, 0 for none; `versions`: oldest name first,
    in the order of their numbers.
    """

    ref: ModelRef
    revision: int
    aliases: dict[str, str]
    versions: list[Manifest]


class Library:
    """The records of all models in one store. Every method raises StoreUnavailableError when the store doesn't answer,
    and ModelUnusableError for a damaged record.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def create_artifact(self, digest: str, data: bytes) -> str:
        """Store the bytes of a model, unless they are there already, and return their path."""
        path = layout.artifact_path(digest)
        await self._store.create(path, data)
        return path

    async def create_manifest(self, record: Manifest) -> Manifest:
        """Store a version's manifest; returns the one that holds: `record`, or what was there before it."""
        path = layout.manifest_path(record.ref, record.version)
        while not await self._store.create(path, manifest.encode(record)):
            found = await self.find_manifest(record.ref, record.version)
            if found is not None:
                return found
        return record

    async def create_aliases(self, ref: ModelRef, record: AliasRecord) -> bool:
        """Store the next alias record; False when another writer took its revision."""
        path = layout.alias_record_path(ref, record.revision)
        if await self._store.create(path, manifest.encode(record)):
            return True
        return (await self._read_aliases(ref, record.revision)).nonce == record.nonce

    async def find_manifest(self, ref: ModelRef, version: str) -> Manifest | None:
        """The manifest of a version, or None when it was never published."""
        path = layout.manifest_path(ref, version)
        try:
            return manifest.decode_manifest(await self._store.get(path), path)
        except ObjectMissingError:
            return None

    async def read_manifest(self, ref: ModelRef, version: str) -> Manifest:
        """The manifest of a version. Raises ModelNotFoundError when it was never published."""
        found = await self.find_manifest(ref, version)
        if found is None:
            raise ModelNotFoundError(f"model {ref} has no version {version!r}")
        return found

    async def resolve(self, ref: ModelRef, version: str = "", alias: str = "") -> Manifest:
        """The manifest of a version asked for by number, else by alias (default "live").

        Raises:
            ModelNotFoundError: no such model, alias or version; the text says which.
        """
        if version:
            return await self.read_manifest(ref, version)
        record = await self.newest_aliases(ref)
        if record is None:
            raise ModelNotFoundError(f"tenant {ref.tenant!r} has no model {ref.model!r}")
        if (alias or LIVE) not in record.aliases:
            raise ModelNotFoundError(f"model {ref} has no alias {alias or LIVE!r}")
        return await self.read_manifest(ref, record.aliases[alias or LIVE])

    async def newest_aliases(self, ref: ModelRef) -> AliasRecord | None:
        """The alias record that holds, or None when there is none yet."""
        names = await self._store.list_names(layout.aliases_folder(ref))
        revision = max((number for name in names if (number := layout.revision_of(name)) is not None), default=0)
        return await self._read_aliases(ref, revision) if revision else None

    async def index_entry(self, ref: ModelRef) -> ModelRecord | None:
        """What etcd should say about a model, or None when it has no alias record yet."""
        record = await self.newest_aliases(ref)
        if record is None:
            return None
        manifests = {version: await self.read_manifest(ref, version) for version in set(record.aliases.values())}
        aliases = {alias: manifests[version].to_version() for alias, version in record.aliases.items()}
        return ModelRecord(revision=record.revision, aliases=aliases)

    async def list_versions(self, ref: ModelRef) -> list[str]:
        """The published versions of a model, in the order of their numbers; empty for an unknown model."""
        names = await self._store.list_names(layout.versions_folder(ref))
        return sorted((v for name in names if (v := layout.version_of(name)) is not None), key=layout.version_order)

    async def list_models(self, tenant: str) -> list[str]:
        """Names of a tenant's models, sorted; empty for an unknown tenant."""
        return await self._store.list_folders(layout.models_folder(tenant))

    async def list_tenants(self) -> list[str]:
        """Names of the tenants that have a model, sorted."""
        return await self._store.list_folders(layout.TENANTS)

    async def describe(self, ref: ModelRef) -> ModelDescription:
        """All about a model. Raises ModelNotFoundError when nothing of it was ever published."""
        aliases = await self.newest_aliases(ref)
        versions = [await self.read_manifest(ref, version) for version in await self.list_versions(ref)]
        if aliases is None and not versions:
            raise ModelNotFoundError(f"tenant {ref.tenant!r} has no model {ref.model!r}")
        return ModelDescription(ref, aliases.revision if aliases else 0, aliases.aliases if aliases else {}, versions)

    async def _read_aliases(self, ref: ModelRef, revision: int) -> AliasRecord:
        path = layout.alias_record_path(ref, revision)
        return manifest.decode_aliases(await self._store.get(path), path)
