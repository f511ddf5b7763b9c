"""The object store, as the project uses it: create once, read, list, delete.

Contract: `create` is all or nothing and never replaces. On S3 it is one conditional PUT (`If-None-Match: *`); on a file
system the bytes go to a hidden temporary name (`<name>#<number>`) and the finished file is hard-linked to its final
name, so that a crash in the middle leaves nothing under that name. (Against a power cut the file store is only as
durable as the file system: it doesn't fsync. Use it for one machine, S3 for production.)

Every call ends: each try is bounded by a timeout, tries by a count, and what still fails is StoreUnavailableError.
Safe under cancelling: a create that was cancelled may or may not have happened, and a repeated one finds out.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
import obstore.store
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from registry.errors import DigestMismatchError, InvalidRequestError, ObjectMissingError, StoreUnavailableError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

_log = logging.getLogger(__name__)


class ArtifactStore:
    """One store. Paths are relative, with `/` between the parts. Holds no task and no thread of its own."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self.url = url

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

    async def get(self, path: str) -> bytes:
        """The bytes of an object. Raises ObjectMissingError, StoreUnavailableError."""
        with _translated("read", path):
            result = await obstore.get_async(self._store, path)
            return (await result.bytes_async()).to_bytes()

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

    async def delete(self, path: str) -> None:
        """Delete an object; one that isn't there is as good as deleted."""
        with _translated("delete", path):
            try:
                await obstore.delete_async(self._store, path)
            except FileNotFoundError:
                _log.debug("%s was not there to be deleted", path)


def open_store(url: str, *, timeout_s: float = 30.0, retries: int = 2) -> ArtifactStore:
    """Open a store by its URL.

    - `file:///directory`: a directory of this machine; it is created.
    - `s3://bucket/prefix`, with `?endpoint=http://host:port` for a server other than Amazon's and `&region=...`. The
      rest comes from the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`.
      An endpoint is spoken to without TLS exactly where it says `http://`.

    `timeout_s` bounds one try including its body, `retries` the further tries after a failure that may pass.

    Raises:
        InvalidRequestError: the URL has another scheme or lacks the bucket or directory.
        StoreUnavailableError: the directory can't be created.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and len(parts.path) > 1:
        return ArtifactStore(_open_directory(Path(unquote(parts.path))), url)
    if parts.scheme == "s3" and parts.netloc:
        return ArtifactStore(_open_s3(url, timeout_s, retries), url)
    raise InvalidRequestError(f"{url!r} is not a store: give file:///directory or s3://bucket/prefix")


def check_digest(data: bytes, digest: str, what: str) -> None:
    """Check that `data` has this lower-case sha256. `what` names it. Raises DigestMismatchError."""
    actual = hashlib.sha256(data).hexdigest()
    if actual != digest:
        raise DigestMismatchError(f"{what} has sha256 {actual}, but {digest} was published: the stored bytes changed")


def _open_directory(directory: Path) -> ObjectStore:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(f"can't create the store's directory {directory}: {error.strerror}") from error
    return obstore.store.LocalStore(directory)


def _open_s3(url: str, timeout_s: float, retries: int) -> ObjectStore:
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = query.keys() - {"endpoint", "region"}
    if unknown:
        raise InvalidRequestError(f"the store's URL has unknown parameters: {', '.join(sorted(unknown))}")
    endpoint = query.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
    config: S3Config = {"region": query["region"]} if "region" in query else {}
    if endpoint:
        config["endpoint"] = endpoint
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=min(3.0, timeout_s)),
        "timeout": timedelta(seconds=timeout_s),
        "allow_http": endpoint.startswith("http://"),
    }
    retry: RetryConfig = {"max_retries": retries, "retry_timeout": timedelta(seconds=timeout_s * (retries + 1))}
    prefix = parts.path.strip("/") or None
    return obstore.store.S3Store(parts.netloc, prefix=prefix, config=config, client_options=client, retry_config=retry)


@contextmanager
def _translated(verb: str, path: str) -> Iterator[None]:
    """Turn the failures of the store's library into ours; the library's own text goes to the log only."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissingError(f"object storage has no object {path}") from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise StoreUnavailableError(f"object storage refused to {verb} {path}: check its credentials") from error
    except ValueError as error:
        raise InvalidRequestError(f"{path[:200]!r} is not a path of the store") from error
    except (BaseError, OSError) as error:
        _log.warning("object storage failed to %s %s: %s", verb, path, str(error).partition("\n")[0])
        raise StoreUnavailableError(f"object storage failed to {verb} {path}; see the log") from error
