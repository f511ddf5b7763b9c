"""What deletions of versions, models and tenants share.

A damaged record never stops a deletion: it's named in the log, and nothing follows from it. Only what it alone told of
may stay behind, such as the bytes of a version whose manifest is damaged, until their tenant is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from registry import layout
from registry.errors import ArtifactRejectedError, InvalidRequestError, ModelUnusableError
from registry.library import Library
from registry.manifest import Manifest, decode
from registry.model import ApplicationRecord, ModelRef
from registry.purge import Purged
from registry.transform_tables import table_digests
from registry.transforms import decode_spec

_log = logging.getLogger(__name__)
_Record = TypeVar("_Record", bound=msgspec.Struct)


class Removed(NamedTuple):
    """`objects`, `object_bytes`: from object storage. `index_entries`: from etcd. `resident_models`, `disk_files`:
    copies on scorers. `unreached_members`: didn't answer; run it again when they do, or delete their cache directories.
    """

    objects: int = 0
    object_bytes: int = 0
    index_entries: int = 0
    models: int = 0
    versions: int = 0
    resident_models: int = 0
    disk_files: int = 0
    unreached_members: tuple[str, ...] = ()

    def after(self, purged: Purged) -> Removed:
        """With what went from scorers."""
        return self._replace(
            resident_models=self.resident_models + purged.resident_models,
            disk_files=self.disk_files + purged.disk_files,
            unreached_members=tuple(sorted({*self.unreached_members, *purged.unreached})),
        )


def readable(
    kind: type[_Record], data: bytes | None, path: str, use: Callable[[_Record], object] | None = None
) -> _Record | None:
    """A record; None for one that isn't there, or is damaged: can't be parsed, or `use` refuses its names."""
    try:
        record = decode(kind, data, path) if data is not None else None
        if record is not None and use is not None:
            use(record)
    except (ModelUnusableError, InvalidRequestError, ArtifactRejectedError) as error:
        _log.warning("the deletion goes on without %s: %s", path, error.message)
        return None
    return record


def readable_manifest(tenant: str, data: bytes | None, path: str) -> Manifest | None:
    """As `readable`; its objects have paths."""
    return readable(Manifest, data, path, lambda manifest: objects_of(tenant, manifest))


def loaded_objects(tenant: str, manifest: Manifest) -> set[str]:
    """Paths of what scorers load of a version: its bytes, with training notes too, its schema, and its transforms with
    their tables.
    """
    digests = {manifest.artifact, manifest.annotated or manifest.artifact}
    if manifest.transforms_digest:
        digests |= {manifest.transforms_digest, *table_digests(decode_spec(bytes(manifest.transforms)))}
    paths = {layout.artifact_path(tenant, digest) for digest in digests}
    return paths | {layout.schema_path(tenant, manifest.schema)}


def packages_of(manifest: Manifest) -> set[str]:
    """What scorers may have in memory of a version."""
    loaded = (manifest.to_version(), manifest.to_annotated())
    return {version.package for version in loaded if version is not None}


def objects_of(tenant: str, manifest: Manifest) -> set[str]:
    """Paths of what a version needs besides its manifest: what scorers load, and what was published."""
    return loaded_objects(tenant, manifest) | {layout.artifact_path(tenant, manifest.source)}


async def delete_sized(library: Library, paths: Sequence[str]) -> dict[str, int]:
    """Delete small objects; returns those that were there, with their sizes in bytes."""
    found = zip(paths, await library.store.get_many(paths), strict=True)
    gone = {path: len(data) for path, data in found if data is not None}
    await library.store.delete_many(gone)
    return gone


async def newest_revision(library: Library, folder: str) -> int:
    """The revision of a folder's newest record, damaged or not; 0 where there is none."""
    names = await library.store.list_names(folder)
    return max((layout.revision_of(name) or 0 for name in names), default=0)


async def readable_application(library: Library, application: str) -> ApplicationRecord | None:
    """An application's record, damaged or not there: None."""
    try:
        return await library.newest_application(application)
    except ModelUnusableError as error:
        _log.warning("the deletion goes on without application %s: %s", application, error.message)
        return None


async def shared_models(library: Library) -> list[tuple[str, ModelRef]]:
    """The applications that share a model, and which."""
    found = []
    for name in await library.list_applications():
        record = await readable_application(library, name)
        if record is not None and not record.deleted and record.shared is not None:
            found.append((name, record.shared))
    return found
