"""The catalog as a scorer sees it: which version a request means, from memory wherever it can be.

Contract: `lookup` answers from memory and never waits; `resolve` reads what is missing, once for all who ask at the same
time, and also remembers what does not exist. `run` follows the watch and keeps what is held up to date; the rules of
the race between reads and watch are those of `registry.catalog_fold`. Memory grows with the models that are asked for,
up to `capacity`, never with the catalog. While etcd is down all that is held keeps answering.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from registry.artifacts import ArtifactStore
from registry.catalog_fold import CatalogFold, Entry
from registry.errors import EtcdUnavailableError, ModelNotFoundError, ModelUnusableError
from registry.etcd import Etcd
from registry.etcd_watch import Changed, Listed
from registry.keys import Keys, decode_model
from registry.library import Library
from registry.model import LIVE, ModelRecord, ModelRef, ModelVersion

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Catalog:
    """Resolves models for one event loop. Give it a task for `run`, and `aclose` it after that task."""

    def __init__(self, etcd: Etcd, keys: Keys, store: ArtifactStore, capacity: int = 100_000) -> None:
        self._etcd = etcd
        self._keys = keys
        self._library = Library(store)
        self._fold = CatalogFold(capacity)
        self._flights: dict[Hashable, asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._fold)

    def lookup(self, ref: ModelRef, version: str, alias: str) -> ModelVersion | None:
        """The version that a request means, if memory knows; else None, and `resolve` has the answer or the error.

        `version` empty means by alias, `alias` empty means "live".
        """
        return self._fold.lookup(ref, version, alias)

    async def resolve(self, ref: ModelRef, version: str = "", alias: str = "") -> ModelVersion:
        """The version that a request means.

        Raises:
            ModelNotFoundError: no such model, alias or version; the text says which.
            ModelUnusableError: its record in etcd or object storage is damaged.
            EtcdUnavailableError, StoreUnavailableError: it isn't held, and there is nobody to ask.
            InvalidRequestError: a name that can't be one.
        """
        while True:
            entry = self._fold.find(ref) or await self._share(ref, lambda: self._read_record(ref))
            if not version:
                return _by_alias(ref, entry, alias or LIVE)
            if version in entry.versions:
                return _by_version(ref, entry, version)
            await self._share((ref, version), lambda entry=entry: self._read_version(ref, entry, version))  # type: ignore[misc]
