"""Deletes a version or a model, and says what went. Tenants: `registry.tenant_deletion`.

Contract: first a record says that it goes, so that nothing can point at it any more; then its entries in etcd go, then
its objects, what names the others last. So every step may be repeated, and a deletion that dies in the middle is
finished by running it again. Version names of a deleted version or model are never used again, which the model's newest
record remembers. Bytes that another version of the tenant needs too stay.

What is published while its model is deleted either comes first and goes with it, or comes after and makes the model
anew; a publisher that stored a version without having told of it is refused then, and what it has stored goes when the
deletion is run again.

What a deletion can't reach: older revisions of etcd's keys, which go with etcd's next compaction; older versions of
objects where a bucket keeps them; backups.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from registry import layout
from registry.change import delete_model as model_deleted
from registry.change import delete_version as version_deleted
from registry.deletion_parts import (
    Removed,
    delete_sized,
    loaded_objects,
    newest_revision,
    objects_of,
    packages_of,
    readable,
    readable_manifest,
    shared_models,
)
from registry.deletion_uses import delete_unused
from registry.errors import ModelInUseError, ModelNotFoundError, ModelUnusableError
from registry.ledger import Ledger
from registry.library import Library, no_model
from registry.manifest import AliasRecord, Manifest, Registration
from registry.model import ModelRef
from registry.next_record import ANY, EMPTY, Change, Condition, is_made
from registry.purge import Purge, no_scorers
from registry.tenant_deletion import delete_tenant

__all__ = ["Removed", "delete_model", "delete_tenant", "delete_version"]

_log = logging.getLogger(__name__)


async def delete_version(
    ledger: Ledger, ref: ModelRef, version: str, *, purge: Purge = no_scorers, condition: Condition = ANY
) -> Removed:
    """Delete a version, and of its objects those that no other version of the tenant needs.

    Raises:
        ModelNotFoundError: there is no such version, and never was.
        ModelInUseError: an alias or a rollout means it; the text says which.
        ModelUnusableError: the model's record is damaged, so that nobody knows what it points at.
        ConflictError: the condition doesn't hold.
        StoreUnavailableError, EtcdUnavailableError: run it again.
    """
    library = ledger.library
    record = await library.newest_aliases(ref) or EMPTY
    if version not in record.deleted and not await _exists(library, ref, version):
        raise ModelNotFoundError(f"model {ref} has no version {version!r}")
    change = version_deleted(ref, version)
    held = await ledger.change(ref, change, condition, done=f"the deletion of {ref} {version}")
    return await _delete_versions(library, ref, {version} & {*held.deleted}, purge)


async def delete_model(
    ledger: Ledger, ref: ModelRef, *, force: bool = False, purge: Purge = no_scorers, condition: Condition = ANY
) -> Removed:
    """Delete a model with all its versions. What is left is one record, by which their names stay taken.

    Raises:
        ModelNotFoundError: there is no such model, and never was.
        ModelInUseError: without `force`: aliases point at versions, or an application shares the model.
        ModelUnusableError: without `force`: its record is damaged, so that nobody knows what it points at.
        ConflictError: the condition doesn't hold.
        StoreUnavailableError, EtcdUnavailableError: run it again.
    """
    library = ledger.library
    versions = await _names(library, ref)
    record = await _record(library, ref, force)
    if record is None and not versions:
        raise no_model(ref)
    if record is not None and not record.gone and is_made(record, condition):
        return Removed()  # The model was published again since.
    if not force:
        await _check_not_shared(library, ref)
    _, entry = await ledger.etcd.get(ledger.keys.model(ref))
    doomed = await _mark(ledger, ref, versions, _deletion(ref, versions, force=force), condition, record)
    removed = await _delete_versions(library, ref, doomed, purge)
    older = await delete_sized(library, await _older_records(library, ref))
    await ledger.sync(ref)  # Once more: a publisher that was slow may have told etcd of what it had stored before us.
    return removed._replace(
        objects=removed.objects + len(older),
        object_bytes=removed.object_bytes + sum(older.values()),
        index_entries=int(entry is not None),
        models=int(record is None or not record.gone),
    )


def _deletion(ref: ModelRef, versions: Iterable[str], *, force: bool) -> Change:
    delete = model_deleted(versions)

    def change(held: AliasRecord) -> AliasRecord:
        if held.aliases and not force:
            points = ", ".join(f"alias {alias} at version {at}" for alias, at in sorted(held.aliases.items()))
            raise ModelInUseError(f"model {ref} is in use: {points}")
        return delete(held)

    return change


async def _mark(
    ledger: Ledger,
    ref: ModelRef,
    versions: Collection[str],
    change: Change,
    condition: Condition,
    record: AliasRecord | None,
) -> set[str]:
    """Say that the model is deleted, with the versions that came while it was said; returns which of them are."""
    done = f"the deletion of model {ref}"
    held = await ledger.change(ref, change, condition, done=done, record=record)
    while more := {*await _names(ledger.library, ref)} - {*held.deleted}:
        held = await ledger.change(ref, _unless_anew(model_deleted(sorted(more))), done=done)
        versions = {*versions, *more}
        if not held.gone:
            break  # It was published again, and what came then stays.
    return {*versions} & {*held.deleted}


def _unless_anew(delete: Change) -> Change:
    return lambda held: delete(held) if held.gone else held


async def _record(library: Library, ref: ModelRef, force: bool) -> AliasRecord | None:
    """The record that holds. With `force` one without aliases in the place of a damaged one."""
    try:
        return await library.newest_aliases(ref)
    except ModelUnusableError as error:
        if not force:
            raise
        _log.warning("%s; the deletion of model %s goes on without it", error.message, ref)
    folder = layout.aliases_folder(ref)
    revision = await newest_revision(library, folder)
    before = [layout.record_path(folder, at) for at in range(1, revision)]
    found = zip(before, await library.store.get_many(before), strict=True)
    deleted = [each.deleted for path, data in found if (each := readable(AliasRecord, data, path)) is not None]
    return AliasRecord(revision=revision, aliases={}, deleted=deleted[-1] if deleted else (), created_at="", nonce="")


async def _exists(library: Library, ref: ModelRef, version: str) -> bool:
    paths = layout.manifest_path(ref, version), layout.registration_path(ref, version)
    return any([await library.store.exists(path) for path in paths])


async def _names(library: Library, ref: ModelRef) -> list[str]:
    """The versions of a model, those too that are registered only."""
    return sorted({*await library.list_versions(ref), *await library.list_registered(ref)})


async def _delete_versions(library: Library, ref: ModelRef, versions: Iterable[str], purge: Purge) -> Removed:
    """Delete versions that a record says are deleted: what they need, then what names it."""
    names = sorted(versions)
    manifests = await _manifests(library, ref, names)
    sources = await _sources(library, ref, names)
    candidates = sources.union(*(objects_of(ref.tenant, manifest) for manifest in manifests))
    taken = await delete_unused(library, ref, names, candidates)
    leaving = {
        package: loaded_objects(ref.tenant, each) - taken.kept for each in manifests for package in packages_of(each)
    }
    packages = sorted(package for package, paths in leaving.items() if paths)
    digests = {path.rpartition("/")[2].removesuffix(".json") for paths in leaving.values() for path in paths}
    purged = await purge("", packages, sorted(digests))
    named = await delete_sized(library, [layout.manifest_path(ref, name) for name in names])
    numbers = await delete_sized(library, [layout.registration_path(ref, name) for name in names])
    gone = taken.gone | named | numbers
    return Removed(len(gone), sum(gone.values()), versions=len(named)).after(purged)


async def _manifests(library: Library, ref: ModelRef, versions: Sequence[str]) -> list[Manifest]:
    paths = [layout.manifest_path(ref, version) for version in versions]
    found = zip(paths, await library.store.get_many(paths), strict=True)
    return [each for path, data in found if (each := readable_manifest(ref.tenant, data, path)) is not None]


async def _sources(library: Library, ref: ModelRef, versions: Sequence[str]) -> set[str]:
    """The paths of the files that the publishers of these numbers had."""

    def source(registration: Registration) -> str:
        return layout.artifact_path(ref.tenant, registration.source)

    paths = [layout.registration_path(ref, version) for version in versions]
    found = zip(paths, await library.store.get_many(paths), strict=True)
    return {source(each) for path, data in found if (each := readable(Registration, data, path, source)) is not None}


async def _older_records(library: Library, ref: ModelRef) -> list[str]:
    return sorted(path for path, _ in await library.store.list_all(layout.aliases_folder(ref)))[:-1]


async def _check_not_shared(library: Library, ref: ModelRef) -> None:
    sharing = [name for name, shared in await shared_models(library) if shared == ref]
    if sharing:
        raise ModelInUseError(f"model {ref} is shared by application {', '.join(sharing)}")
