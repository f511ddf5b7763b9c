"""The records in object storage as typed values: reads, and writes that succeed for one writer only.

Contract: nothing here ever replaces or deletes an object. A write that answers "there already" is read back and
compared by its nonce, since a store's client may repeat a request whose first answer was lost.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple, TypeVar

from registry import layout
from registry.artifacts import ArtifactStore
from registry.errors import ModelNotFoundError, ModelUnusableError, ObjectMissingError
from registry.manifest import (
    AliasRecord,
    Manifest,
    Registration,
    VersionState,
    decode,
    encode,
    schema_digest,
)
from registry.model import LIVE, ApplicationRecord, ModelRecord, ModelRef, ModelSchema, TenantRecord
from registry.next_record import EMPTY

N = TypeVar("N", Manifest, Registration)
R = TypeVar("R", AliasRecord, TenantRecord, ApplicationRecord)


class ModelDescription(NamedTuple):
    """All about a model: the record that holds (the empty one when it has none), its versions in the order of their
    names, and those that are registered only.
    """

    ref: ModelRef
    record: AliasRecord
    versions: list[Manifest]
    registered: list[str]

    def state(self, version: str) -> VersionState:
        """The state of one of the versions."""
        return state_of(self.record, version) if version not in self.registered else VersionState.REGISTERED


class Library:
    """The records of one store. Every method raises StoreUnavailableError when the store doesn't answer, and
    ModelUnusableError for a damaged record.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    async def read_schema(self, tenant: str, digest: str) -> ModelSchema:
        """A schema by its digest. Raises ModelUnusableError where it is missing or damaged."""
        path = layout.schema_path(tenant, digest)
        schema = decode(ModelSchema, await self.store.get(path), path)
        if schema_digest(schema) != digest:
            raise ModelUnusableError(f"the schema {path} in object storage is not what was published")
        return schema

    async def create_manifest(self, record: Manifest) -> Manifest:
        """Store a version's manifest; returns the one that holds: `record`, or what was there before it."""
        return await self._create(layout.manifest_path(record.ref, record.version), record)

    async def register(self, ref: ModelRef, record: Registration) -> Registration:
        """Take a version number; returns who holds it: `record`, or another publisher's."""
        return await self._create(layout.registration_path(ref, record.version), record)

    async def find_manifest(self, ref: ModelRef, version: str) -> Manifest | None:
        """The manifest of a version, or None when it was never published."""
        return await self._find(layout.manifest_path(ref, version), Manifest)

    async def find_registration(self, ref: ModelRef, version: str) -> Registration | None:
        """Who took a version number, or None when nobody did."""
        return await self._find(layout.registration_path(ref, version), Registration)

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
        if record is None or record.gone:
            raise no_model(ref)
        if (alias or LIVE) not in record.aliases:
            raise ModelNotFoundError(f"model {ref} has no alias {alias or LIVE!r}")
        return await self.read_manifest(ref, record.aliases[alias or LIVE])

    async def newest_aliases(self, ref: ModelRef) -> AliasRecord | None:
        """The record of a model that holds, or None when there is none yet."""
        return await self._newest(layout.aliases_folder(ref), AliasRecord)

    async def create_aliases(self, ref: ModelRef, record: AliasRecord) -> bool:
        """Store a model's next record; False when another writer took its revision."""
        return await self._create_next(layout.aliases_folder(ref), record)

    async def newest_tenant(self, tenant: str) -> TenantRecord | None:
        """A tenant's settings, or None where none were ever made."""
        return await self._newest(layout.settings_folder(tenant), TenantRecord)

    async def create_tenant(self, record: TenantRecord) -> bool:
        """Store a tenant's next record; False when another writer took its revision."""
        return await self._create_next(layout.settings_folder(record.tenant), record)

    async def newest_application(self, application: str) -> ApplicationRecord | None:
        """An application's record, or None where none was ever made."""
        return await self._newest(layout.application_folder(application), ApplicationRecord)

    async def create_application(self, record: ApplicationRecord) -> bool:
        """Store an application's next record; False when another writer took its revision."""
        return await self._create_next(layout.application_folder(record.application), record)

    async def index_entry(self, ref: ModelRef) -> ModelRecord | None:
        """What etcd should say about a model, or None when it has no record yet or was deleted."""
        record = await self.newest_aliases(ref)
        return index_of(record) if record is not None and not record.gone else None

    async def list_versions(self, ref: ModelRef) -> list[str]:
        """The versions of a model that have a manifest, in the order of their numbers; empty for an unknown model."""
        return await self._list_versions(layout.versions_folder(ref))

    async def list_registered(self, ref: ModelRef) -> list[str]:
        """The version numbers that publishers have taken, whatever came of it."""
        return await self._list_versions(layout.registered_folder(ref))

    async def list_models(self, tenant: str) -> list[str]:
        """Names of a tenant's models, sorted; empty for an unknown tenant."""
        return await self.store.list_folders(layout.models_folder(tenant))

    async def list_tenants(self) -> list[str]:
        """Names of the tenants that have a model or settings, sorted."""
        return await self.store.list_folders(layout.TENANTS)

    async def list_applications(self) -> list[str]:
        """Names of the applications that ever were, sorted."""
        return await self.store.list_folders(layout.APPLICATIONS)

    async def describe(self, ref: ModelRef) -> ModelDescription:
        """All about a model. Raises ModelNotFoundError when nothing of it was ever published, or it was deleted."""
        record = await self.newest_aliases(ref)
        versions = [await self.read_manifest(ref, version) for version in await self.list_versions(ref)]
        names = {manifest.version for manifest in versions} | set((record or EMPTY).deleted)
        registered = [name for name in await self.list_registered(ref) if name not in names]
        if (record is None and not versions and not registered) or (record is not None and record.gone):
            raise no_model(ref)
        return ModelDescription(ref, record or EMPTY, versions, registered)

    async def _list_versions(self, folder: str) -> list[str]:
        names = await self.store.list_names(folder)
        return sorted((v for name in names if (v := layout.version_of(name)) is not None), key=layout.version_order)

    async def _create(self, path: str, record: N) -> N:
        while not await self.store.create(path, encode(record)):
            found = await self._find(path, type(record))
            if found is not None:
                return found
        return record

    async def _find(self, path: str, kind: type[N]) -> N | None:
        try:
            return decode(kind, await self.store.get(path), path)
        except ObjectMissingError:
            return None

    async def _newest(self, folder: str, kind: type[R]) -> R | None:
        """The record with the greatest revision. One that goes away between the listing and the reading (a deletion,
        which leaves newer ones or nothing) is looked for again.
        """
        while True:
            names = await self.store.list_names(folder)
            revision = max((number for name in names if (number := layout.revision_of(name)) is not None), default=0)
            if not revision:
                return None
            path = layout.record_path(folder, revision)
            with contextlib.suppress(ObjectMissingError):
                return decode(kind, await self.store.get(path), path)

    async def _create_next(self, folder: str, record: R) -> bool:
        path = layout.record_path(folder, record.revision)
        if await self.store.create(path, encode(record)):
            return True
        with contextlib.suppress(ObjectMissingError):
            return decode(type(record), await self.store.get(path), path).nonce == record.nonce
        return False


def no_model(ref: ModelRef, why: str = "") -> ModelNotFoundError:
    """The error that says so; `why` follows its text."""
    return ModelNotFoundError(f"tenant {ref.tenant!r} has no model {ref.model!r}{why}")


def index_of(record: AliasRecord) -> ModelRecord:
    """What etcd should say where this record holds."""
    return ModelRecord(record.revision, {alias: record.target(alias) for alias in record.aliases})


def state_of(record: AliasRecord, version: str) -> VersionState:
    """The state of a version that has a manifest."""
    if version in record.retired:
        return VersionState.RETIRED
    return VersionState.LIVE if version in record.versions else VersionState.VALIDATED
