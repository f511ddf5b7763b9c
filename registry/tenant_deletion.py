"""Deletes all of a tenant: index, objects, copies on scorers, and every mention of it in what belongs to others.

Contract: as `registry.deletion`, but nothing is left, and a new tenant of the name begins anew. The order: settings
that say so (publishers and rebuilds keep away from then on), the index, the bytes of models and their records
(scorers find none any more), the copies on scorers, the mentions, the settings. A publisher that was let in before may
store something after the end; then the tenant exists again, and is deleted by running this again.

Damaged records of the tenant go like all else of it; damaged ones of others stay, and are named in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from registry import layout
from registry.deletion_parts import (
    Removed,
    delete_sized,
    newest_revision,
    readable,
    readable_application,
    readable_manifest,
    shared_models,
)
from registry.errors import ModelInUseError, ModelUnusableError, NotFoundError
from registry.keys import decode as decode_entry
from registry.ledger import Ledger, new_nonce, utc_now
from registry.library import Library
from registry.model import ApplicationRecord, ModelVersion, QuarantineRecord, TenantRecord
from registry.purge import Purge, no_scorers
from registry.rollout.plan_store import forget_tenant

_log = logging.getLogger(__name__)
_CHUNK = 500


async def delete_tenant(ledger: Ledger, tenant: str, *, purge: Purge = no_scorers) -> Removed:
    """Delete a tenant.

    Raises:
        NotFoundError: there is nothing of the tenant anywhere.
        ModelInUseError: an application shares one of its models; the text says which.
        StoreUnavailableError, EtcdUnavailableError: run it again.
    """
    library, keys = ledger.library, ledger.keys
    sharing = [f"{name} ({ref})" for name, ref in await shared_models(library) if ref.tenant == tenant]
    if sharing:
        raise ModelInUseError(f"models of tenant {tenant} are shared by application {', '.join(sharing)}")
    known = await _is_known(ledger, tenant)
    if known:
        await _mark(ledger, tenant)
    entries = await ledger.etcd.delete_prefix(keys.tenant_models_prefix(tenant))
    models = len(await library.list_models(tenant))
    versions = await _versions(library, tenant)
    removed = Removed(models=models, versions=len(versions))
    # The records go before the scorers are told: one that is asked meanwhile would find a model in the store again.
    for folder in (layout.artifacts_folder(tenant), layout.schemas_folder(tenant), layout.models_folder(tenant)):
        removed = await _delete_folder(library, folder, removed)
    purged = await purge(tenant, _unique(at.package for at in versions), _unique(at.artifact for at in versions))
    removed = await _delete_mentions(ledger, tenant, removed.after(purged))
    entries += await _lift_quarantines(ledger, tenant)
    removed = await _delete_folder(library, layout.tenant_folder(tenant), removed)
    entries += await ledger.etcd.delete_prefix(keys.tenant_models_prefix(tenant))  # of who was late
    entries += await ledger.etcd.delete(keys.tenant(tenant))
    removed = removed._replace(index_entries=entries)
    if not known and removed == Removed():
        raise NotFoundError(f"there is no tenant {tenant!r}")
    return removed


async def _is_known(ledger: Ledger, tenant: str) -> bool:
    if await ledger.library.store.has_objects(layout.tenant_folder(tenant)):
        return True
    return (await ledger.etcd.get(ledger.keys.tenant(tenant)))[1] is not None


async def _mark(ledger: Ledger, tenant: str) -> None:
    """Say in the settings that the tenant is being deleted; a damaged record is followed by one that says so."""
    folder = layout.settings_folder(tenant)
    while True:
        revision = await newest_revision(ledger.library, folder)
        try:
            await ledger.change_tenant(tenant, lambda record: msgspec.structs.replace(record, deleting=True))
        except ModelUnusableError as error:
            _log.warning("%s; the deletion of tenant %s goes on without it", error.message, tenant)
        else:
            return
        wanted = TenantRecord(
            tenant=tenant, revision=revision + 1, deleting=True, created_at=utc_now(), nonce=new_nonce()
        )
        await ledger.library.create_tenant(wanted)


async def _versions(library: Library, tenant: str) -> list[ModelVersion]:
    """What scorers may have of the tenant."""
    folder = layout.models_folder(tenant)
    found: list[ModelVersion] = []
    paths = [path for path, _ in await library.store.list_all(folder) if "/versions/" in path[len(folder) :]]
    for begin in range(0, len(paths), _CHUNK):
        part = paths[begin : begin + _CHUNK]
        for path, data in zip(part, await library.store.get_many(part), strict=True):
            manifest = readable_manifest(tenant, data, path)
            found += [manifest.to_version()] if manifest is not None else []  # A damaged one can't have been loaded.
    return found


async def _delete_folder(library: Library, folder: str, removed: Removed) -> Removed:
    gone = await library.store.delete_folder(folder)
    return _with(removed, dict(gone))


async def _delete_mentions(ledger: Ledger, tenant: str, removed: Removed) -> Removed:
    """The tenant's moves in bulk plans, and its models in what applications shared once."""
    library = ledger.library
    removed = _with(removed, await forget_tenant(library.store, tenant))
    for application in await library.list_applications():
        record = await readable_application(library, application)
        if record is not None and record.shared is not None and record.shared.tenant == tenant:
            await ledger.change_application(application, _share_nothing)  # a deleted one: `delete_tenant` has looked
        removed = _with(removed, await _forget_shares(library, application, tenant))
    return removed


def _share_nothing(record: ApplicationRecord) -> ApplicationRecord:
    return msgspec.structs.replace(record, shared=None)


async def _forget_shares(library: Library, application: str, tenant: str) -> dict[str, int]:
    """Delete an application's older records that share a model of the tenant."""
    folder = layout.application_folder(application)
    older = sorted(path for path, _ in await library.store.list_all(folder))[:-1]
    paths = []
    for path, data in zip(older, await library.store.get_many(older), strict=True):
        record = readable(ApplicationRecord, data, path)
        if record is not None and record.shared is not None and record.shared.tenant == tenant:
            paths.append(path)
    return await delete_sized(library, paths)


async def _lift_quarantines(ledger: Ledger, tenant: str) -> int:
    lifted = 0
    for kv in (await ledger.etcd.list_prefix(ledger.keys.quarantine_prefix)).kvs:
        try:
            owner = decode_entry(QuarantineRecord, kv.value).tenant
        except msgspec.DecodeError:
            continue
        if owner == tenant:
            lifted += (await ledger.etcd.compare_and_delete(kv.key, kv.mod_revision)).succeeded
    return lifted


def _with(removed: Removed, gone: dict[str, int]) -> Removed:
    return removed._replace(objects=removed.objects + len(gone), object_bytes=removed.object_bytes + sum(gone.values()))


def _unique(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
