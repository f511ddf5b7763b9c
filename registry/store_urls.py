"""Opening an object store by its URL.

    file:///directory        a directory of this machine; it is created
    s3://bucket/prefix       Amazon S3 and what speaks like it: `?endpoint=http://host:port` names another server,
                             `&region=` its region. Settings: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
                             AWS_ENDPOINT_URL
    gs://bucket/prefix       Google Cloud Storage. Settings: GOOGLE_SERVICE_ACCOUNT (a file), GOOGLE_SERVICE_ACCOUNT_KEY
                             (its content) or GOOGLE_APPLICATION_CREDENTIALS (a file), else the machine's own identity
    az://container/prefix    Azure Blob Storage. Settings: AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or
                             AZURE_STORAGE_SAS_TOKEN, else the machine's own identity

Settings come from the environment, where obstore reads them itself; it knows more of them (its S3Config, GCSConfig and
AzureConfig). AWS_ENDPOINT_URL, GOOGLE_BASE_URL and AZURE_STORAGE_ENDPOINT name another server; it is spoken to without
TLS exactly where they say `http://`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import obstore.store
from obstore.exceptions import BaseError

from registry.artifacts import ArtifactStore
from registry.errors import InvalidRequestError, StoreUnavailableError
from registry.store_reads import StoreReads

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

_log = logging.getLogger(__name__)
_GOOGLE = "GOOGLE_SERVICE_ACCOUNT (a file), GOOGLE_SERVICE_ACCOUNT_KEY or GOOGLE_APPLICATION_CREDENTIALS (a file)"
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"


def open_store(url: str, *, timeout_s: float = 30.0, retries: int = 2) -> ArtifactStore:
    """Open a store; see the module. Nothing is asked of it yet. `timeout_s` bounds one try including its body,
    `retries` the further tries after a failure that may pass.

    Raises:
        InvalidRequestError: the URL has another scheme or lacks the bucket or directory, or a setting in the
            environment is missing or can't be; the text says which ones to look at.
        StoreUnavailableError: the directory can't be created.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and len(parts.path) > 1:
        directory = Path(unquote(parts.path))
        return ArtifactStore(_open_directory(directory), url, directory)
    opener = _OPENERS.get(parts.scheme)
    if opener is None or not parts.netloc:
        raise InvalidRequestError(
            f"{url!r} is not a store: give file:///directory, s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix"
        )
    reads = StoreReads(opener(parts, _Tries(timeout_s, 0)), timeout_s, retries)
    return ArtifactStore(opener(parts, _Tries(timeout_s, retries)), url, reads=reads)


class _Tries(NamedTuple):
    """How long and how often a server is tried."""

    timeout_s: float
    retries: int

    def client(self, endpoint: str) -> ClientConfig:
        return {
            "connect_timeout": timedelta(seconds=min(3.0, self.timeout_s)),
            "timeout": timedelta(seconds=self.timeout_s),
            "allow_http": endpoint.startswith("http://"),
        }

    @property
    def retry(self) -> RetryConfig:
        return {"max_retries": self.retries, "retry_timeout": timedelta(seconds=self.timeout_s * (self.retries + 1))}


def _open_directory(directory: Path) -> ObjectStore:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(f"can't create the store's directory {directory}: {error.strerror}") from error
    return obstore.store.LocalStore(directory, automatic_cleanup=True)


def _open_s3(parts: SplitResult, tries: _Tries) -> ObjectStore:
    query = _query(parts, {"endpoint", "region"})
    endpoint = query.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
    config: S3Config = {"region": query["region"]} if "region" in query else {}
    if endpoint:
        config["endpoint"] = endpoint
    return obstore.store.S3Store(
        parts.netloc,
        prefix=_prefix(parts),
        config=config,
        client_options=tries.client(endpoint),
        retry_config=tries.retry,
    )


def _open_google(parts: SplitResult, tries: _Tries) -> ObjectStore:
    _query(parts, set())
    endpoint = os.environ.get("GOOGLE_BASE_URL", "")
    with _settings_named(parts, _GOOGLE):
        return obstore.store.GCSStore(
            parts.netloc, prefix=_prefix(parts), client_options=tries.client(endpoint), retry_config=tries.retry
        )


def _open_azure(parts: SplitResult, tries: _Tries) -> ObjectStore:
    _query(parts, set())
    endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT", "")
    with _settings_named(parts, _AZURE):
        return obstore.store.AzureStore(
            parts.netloc, prefix=_prefix(parts), client_options=tries.client(endpoint), retry_config=tries.retry
        )


_OPENERS: dict[str, Callable[[SplitResult, _Tries], ObjectStore]] = {
    "s3": _open_s3,
    "gs": _open_google,
    "az": _open_azure,
}


def _query(parts: SplitResult, known: set[str]) -> dict[str, str]:
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = query.keys() - known
    if unknown:
        raise InvalidRequestError(f"the store's URL has unknown parameters: {', '.join(sorted(unknown))}")
    return query


def _prefix(parts: SplitResult) -> str | None:
    return parts.path.strip("/") or None


@contextmanager
def _settings_named(parts: SplitResult, settings: str) -> Iterator[None]:
    """Where the library refuses its settings, name them; its own text, which may quote one, goes to the log only."""
    try:
        yield
    except (BaseError, ValueError) as error:
        store = f"{parts.scheme}://{parts.netloc}"
        _log.warning("can't open %s: %s", store, str(error).partition("\n")[0])
        raise InvalidRequestError(
            f"can't open {store}: a setting in the environment is missing or wrong: {settings}; see the log"
        ) from error
