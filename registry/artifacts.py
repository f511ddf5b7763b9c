"""The object store, as the project uses it: create once, read, list, delete, one or many at a time. Opened by
`registry.store_urls`.

Contract: `create` is all or nothing and never replaces. On a server it is one conditional PUT; in a directory
the bytes go to a hidden temporary name (`<name>#<number>`) and the finished file is hard-linked to its final
name, so that a crash in the middle leaves nothing under that name. (Against a power cut the file store is only as
durable as the file system: it doesn't fsync. Use it for one machine, S3 for production.)

Every call ends: each try is bounded by a timeout, tries by a count, and what still fails is StoreUnavailableError.
Safe under cancelling: a create that was cancelled may or may not have happened, and a repeated one finds out.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from registry.bounded import for_each, map_all
from registry.errors import InvalidRequestError, ObjectMissingError, StoreUnavailableError
from registry.store_reads import StoreReads

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = logging.getLogger(__name__)
_AT_ONCE = 64
_PAGE = 1000
_REFUSED = ("status code: 401", "status code: 403")
_NO_BUCKET = ("<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>")


class StoredObject(NamedTuple):
    """An object that a listing found."""

    path: str
    size_bytes: int


class ArtifactStore:
    """One store. Paths are relative, with `/` between the parts. Holds no task and no thread of its own. `directory`:
    where it lies, for a store that is a directory of this machine. `reads`: how whole objects are read.
    """

    def __init__(
        self, store: ObjectStore, url: str, directory: Path | None = None, reads: StoreReads | None = None
    ) -> None:
        self._store = store
        self._reads = reads or StoreReads(store)
        self.url = url
        self._directory = directory

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r})"

    async def create(self, path: str, data: bytes) -> bool:
        """Write a new object; False when there is one already, whose bytes stay as they are.

        A try that was lost on the way back may be repeated by the transport and so answer False to its own writer:
        where that matters, read the object back.
        """
        with _translated("write", path):
            try:
                await obstore.put_async(self._store, path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    async def create_many(self, objects: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Write many small objects, each as `create` does, in no order.

        Into a directory one thread writes them: waking the event loop for each file would cost twice the writing.
        """
        if self._directory is not None:
            return await asyncio.to_thread(self._create_all, objects)
        return await map_all(objects, lambda each: self.create(*each), _AT_ONCE)

    async def get(self, path: str, size_bytes: int = 0) -> bytes:
        """The bytes of an object. `size_bytes`: its size, where it's known; large objects then come in pieces, several
        at a time (see `registry.store_reads`). Raises ObjectMissingError, StoreUnavailableError.
        """
        with _translated("read", path):
            return await self._reads.read(path, size_bytes)

    async def list_names(self, folder: str) -> list[str]:
        """Last parts of the paths of the objects right in a folder, sorted; empty where there is no such folder."""
        with _translated("list", folder):
            listing = await obstore.list_with_delimiter_async(self._store, folder)
            return sorted(meta["path"].rpartition("/")[2] for meta in listing["objects"])

    async def list_folders(self, folder: str) -> list[str]:
        """Names of the folders right in a folder, sorted; empty where there is no such folder."""
        with _translated("list", folder):
            listing = await obstore.list_with_delimiter_async(self._store, folder)
            return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in listing["common_prefixes"])

    async def get_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """The bytes of many small objects, in the order of `paths`; None for one that isn't there.

        A directory is read by one thread: waking the event loop for each file would cost five times the reading.
        """
        if self._directory is not None:
            return await asyncio.to_thread(self._read_all, paths)
        return await map_all(paths, self._get_or_none, _AT_ONCE)

    async def size_of(self, path: str) -> int | None:
        """The size of an object in bytes; None where there is no such object, or no such bucket."""
        with _translated("look for", path):
            try:
                return (await obstore.head_async(self._store, path))["size"]
            except FileNotFoundError:
                return None

    async def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return await self.size_of(path) is not None

    async def list_recursive(self, folder: str) -> AsyncGenerator[list[StoredObject], None]:
        """All objects in a folder and in the folders below it, in no order, a thousand at a time. What comes and goes
        meanwhile may be listed or not. Close the generator (`contextlib.aclosing`).
        """
        with _translated("list", folder):
            async for metas in obstore.list(self._store, folder, chunk_size=_PAGE):
                yield [StoredObject(meta["path"], meta["size"]) for meta in metas]

    async def has_objects(self, folder: str) -> bool:
        """Whether there is any object in a folder or below it."""
        async with aclosing(self.list_recursive(folder)) as pages:
            return await anext(pages, None) is not None

    async def list_all(self, folder: str) -> list[StoredObject]:
        """All objects in a folder and in the folders below it, in no order."""
        async with aclosing(self.list_recursive(folder)) as pages:
            return [each async for page in pages for each in page]

    async def delete_many(self, paths: Iterable[str]) -> None:
        """Delete objects; one that isn't there is as good as deleted."""
        await for_each(paths, self.delete, _AT_ONCE)

    async def delete_folder(self, folder: str) -> list[StoredObject]:
        """Delete all objects below a folder, until a listing finds none, and of a directory also what no listing
        shows: the temporary names of writers that died. Returns what was deleted, without the latter.
        """
        removed: list[StoredObject] = []
        while found := await self.list_all(folder):
            await self.delete_many(each.path for each in found)
            removed += found
        if self._directory is not None:
            await asyncio.to_thread(shutil.rmtree, self._directory / folder, ignore_errors=True)
        return removed

    async def _get_or_none(self, path: str) -> bytes | None:
        try:
            return await self.get(path)
        except ObjectMissingError:
            return None

    def _create_all(self, objects: Sequence[tuple[str, bytes]]) -> list[bool]:
        return [self._create_one(path, data) for path, data in objects]

    def _create_one(self, path: str, data: bytes) -> bool:
        with _translated("write", path):
            try:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def _read_all(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self._read_one(path) for path in paths]

    def _read_one(self, path: str) -> bytes | None:
        with _translated("read", path):
            try:
                return obstore.get(self._store, path).bytes().to_bytes()
            except FileNotFoundError:
                return None

    async def delete(self, path: str) -> None:
        """Delete an object; one that isn't there is as good as deleted."""
        with _translated("delete", path):
            try:
                await obstore.delete_async(self._store, path)
            except FileNotFoundError:
                _log.debug("%s was not there to be deleted", path)


@contextmanager
def _translated(verb: str, path: str) -> Iterator[None]:
    """Turn the failures of the store's library into ours; the library's own text goes to the log only."""
    try:
        yield
    except FileNotFoundError as error:
        if verb == "read" and not _says(error, _NO_BUCKET):
            raise ObjectMissingError(f"object storage has no object {path}") from error
        raise _no_bucket(verb, path) from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise _refused(verb, path) from error
    except ValueError as error:
        raise InvalidRequestError(f"{path[:200]!r} is not a path of the store") from error
    except (BaseError, OSError) as error:  # Listings tell every failure so.
        if _says(error, _NO_BUCKET):
            raise _no_bucket(verb, path) from error
        if _says(error, _REFUSED):
            raise _refused(verb, path) from error
        _log.warning("object storage failed to %s %s: %s", verb, path, str(error).partition("\n")[0])
        raise StoreUnavailableError(f"object storage failed to {verb} {path}; see the log") from error


def _says(error: Exception, texts: Iterable[str]) -> bool:
    """Whether the library's text has one of these, which no path can have."""
    return any(text in str(error) for text in texts)


def _no_bucket(verb: str, path: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"object storage can't {verb} {path}: is its bucket or directory there?")


def _refused(verb: str, path: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"object storage refused to {verb} {path}: check its credentials")
