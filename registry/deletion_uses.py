"""Which objects of a tenant its versions need, so that a deletion takes only what nobody does.

Contract: an object that a version needs survives every interleaving of a deletion with a publisher of the same bytes.
Both look twice: a publisher stores the bytes, then its manifest, then looks whether bytes that were there already still
are; a deletion reads all manifests, takes the bytes that none needs, then reads the manifests that came meanwhile and
puts back what they need. So whichever is later sees the other. Where a deletion can't look again, it puts back all that
it took; only a process that ends between taking and looking leaves what came meanwhile without its bytes.

A version whose model says that it is deleted needs nothing: of several deletions at once the last to say so takes what
they had in common. Neither does one whose manifest is damaged, which can't be loaded.

The cost: one listing of the tenant's models before and one after each 256 MiB of bytes, one small read for each version
of the tenant (up to the one that shows the last of the bytes to be in use), and one for each model where a schema may
go. There is no index by digest that could save these.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from registry import layout
from registry.bounded import map_all
from registry.deletion_parts import objects_of, readable, readable_manifest
from registry.errors import StoreUnavailableError
from registry.library import Library
from registry.manifest import AliasRecord, Manifest
from registry.model import ModelRef

_log = logging.getLogger(__name__)
_CHUNK = 500
_GROUP_BYTES = 256 << 20
_SIZES_AT_ONCE = 64


class Taken(NamedTuple):
    """`gone`: paths of what was deleted, with sizes in bytes. `kept`: paths of what others need."""

    gone: dict[str, int]
    kept: set[str]


class Uses:
    """Which of `wanted` the tenant's versions need, `leaving` out these paths of manifests; the contract of a model
    needs its schema too.
    """

    def __init__(self, library: Library, tenant: str, wanted: Iterable[str], leaving: Iterable[str]) -> None:
        self._library, self._tenant = library, tenant
        self._unused = set(wanted)
        self._used: set[str] = set()
        self._seen = set(leaving)
        self._newest: dict[str, str] = {}  # by folder of a model, the path of its newest record
        self._records: dict[str, AliasRecord | None] = {}  # by path

    async def refresh(self) -> set[str]:
        """Read what wasn't seen yet, as far as it may matter; returns all of `wanted` that was ever seen in use."""
        manifests = await self._list()
        for begin in range(0, len(manifests), _CHUNK):
            if not self._unused:
                break
            await self._read_manifests(manifests[begin : begin + _CHUNK])
        schemas = layout.schemas_folder(self._tenant) + "/"
        folders = list(self._newest)
        for begin in range(0, len(folders), _CHUNK):
            if any(path.startswith(schemas) for path in self._unused):
                await self._read_contracts(folders[begin : begin + _CHUNK])
        return self._used

    async def _list(self) -> list[str]:
        """The manifests that weren't seen yet; notes the newest records."""
        folder = layout.models_folder(self._tenant)
        manifests: list[str] = []
        newest: dict[str, str] = {}
        for path, _ in await self._library.store.list_all(folder):
            model, _, rest = path[len(folder) + 1 :].partition("/")
            kind, _, name = rest.partition("/")
            if kind == "versions" and path not in self._seen:
                manifests.append(path)
            elif kind == "aliases" and layout.revision_of(name) is not None:
                newest[model] = max(path, newest.get(model, ""))
        self._newest = newest
        return manifests

    async def _read_manifests(self, paths: Sequence[str]) -> None:
        for path, data in zip(paths, await self._library.store.get_many(paths), strict=True):
            self._seen.add(path)
            manifest = readable_manifest(self._tenant, data, path)
            needed = objects_of(self._tenant, manifest) & self._unused if manifest is not None else set()
            if manifest is not None and needed and not await self._is_deleted(manifest):
                self._use(needed)

    async def _read_contracts(self, folders: Sequence[str]) -> None:
        await self._read_records([self._newest[folder] for folder in folders])
        for folder in folders:
            record = self._records[self._newest[folder]]
            if record is not None and record.contract:
                self._use({layout.schema_path(self._tenant, record.contract)} & self._unused)

    async def _is_deleted(self, manifest: Manifest) -> bool:
        """Whether a version's model says so; one whose record can't be read doesn't."""
        path = self._newest.get(manifest.model)
        if path is None:
            return False
        await self._read_records([path])
        record = self._records[path]
        return record is not None and manifest.version in record.deleted

    async def _read_records(self, paths: Sequence[str]) -> None:
        fresh = [path for path in paths if path not in self._records]
        for path, data in zip(fresh, await self._library.store.get_many(fresh), strict=True):
            self._records[path] = readable(AliasRecord, data, path)

    def _use(self, paths: set[str]) -> None:
        self._used |= paths
        self._unused -= paths


async def delete_unused(library: Library, ref: ModelRef, versions: Iterable[str], candidates: Iterable[str]) -> Taken:
    """Delete of these objects those that no version of the tenant needs, other than these `versions` of a model."""
    paths = sorted({*candidates})
    if not paths:
        return Taken({}, set())
    uses = Uses(library, ref.tenant, paths, (layout.manifest_path(ref, version) for version in versions))
    kept = await uses.refresh()
    unused = [path for path in paths if path not in kept]
    sizes = await map_all(unused, library.store.size_of, _SIZES_AT_ONCE)
    gone: dict[str, int] = {}
    for group in _groups({path: size for path, size in zip(unused, sizes, strict=True) if size is not None}):
        gone |= await _delete_group(library, uses, group)
    return Taken(gone, kept)


async def _delete_group(library: Library, uses: Uses, paths: Sequence[str]) -> dict[str, int]:
    """Delete objects, but put back what was found to be needed after all, and everything where that can't be found."""
    contents = zip(paths, await library.store.get_many(paths), strict=True)
    found = {path: data for path, data in contents if data is not None}
    try:
        await library.store.delete_many(found)
        used = await uses.refresh()
    except BaseException:
        await _put_back(library, found)
        raise
    await _put_back(library, {path: data for path, data in found.items() if path in used})
    return {path: len(data) for path, data in found.items() if path not in used}


async def _put_back(library: Library, objects: Mapping[str, bytes]) -> None:
    """Store objects again, to the end even where this call is cancelled meanwhile: nobody else has their bytes."""
    putting = asyncio.create_task(_create_all(library, objects))
    cancelled: asyncio.CancelledError | None = None
    while not putting.done():
        try:
            await asyncio.wait([putting])
        except asyncio.CancelledError as error:
            cancelled = error
    putting.result()
    if cancelled is not None:
        raise cancelled


async def _create_all(library: Library, objects: Mapping[str, bytes]) -> None:
    """As many as can be stored; then raises why the last of the others couldn't."""
    failed: StoreUnavailableError | None = None
    for path, data in objects.items():
        try:
            await library.store.create(path, data)
        except StoreUnavailableError as error:
            _log.error("%s was deleted and can't be put back, though a version may need it: %s", path, error.message)
            failed = error
    if failed is not None:
        raise failed


def _groups(sizes: Mapping[str, int]) -> list[list[str]]:
    """Cut into groups whose bytes may be in memory at one time."""
    groups: list[list[str]] = []
    room = 0
    for path, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = _GROUP_BYTES
        groups[-1].append(path)
        room -= size
    return groups
