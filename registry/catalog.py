"""The catalog as a scorer sees it: which version a request means, from memory wherever it can be.

Contract: `lookup` answers from memory and never waits; `resolve` reads what is missing, once for all who ask at the
same time, and also remembers what does not exist. `run` follows the watch and keeps what is held up to date; the rules
of the race between reads and watch are those of `registry.catalog_fold`. Memory grows with the models that are asked
for, up to `capacity`, never with the catalog. While etcd is down all that is held keeps answering; where etcd answers
but has no (or a damaged) entry, object storage is asked, so that an etcd that lost its data stops nothing.

A tenant without a model of some name is answered by the shared model of the application of that name, if there is one;
see `registry.shared_models`. A version asked for by number is answered unless it was retired or deleted; what is
held of it is void with the next change of the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial

import msgspec

from registry.artifacts import ArtifactStore
from registry.catalog_fold import CatalogFold, Entry
from registry.errors import (
    EtcdUnavailableError,
    ModelNotFoundError,
    ScoreMeshError,
    UnavailableError,
)
from registry.etcd import Etcd
from registry.etcd_backoff import Backoff
from registry.etcd_records import Changed, Put
from registry.flight import Flight
from registry.keys import Keys, decode_model
from registry.library import Library, no_model, state_of
from registry.manifest import Manifest, VersionState
from registry.model import LIVE, ModelRecord, ModelRef, ModelVersion
from registry.shared_models import SharedModels

_log = logging.getLogger(__name__)
_REFRESHERS = 8


class Catalog:
    """Resolves models for one event loop. Give it a task for `run`, and `aclose` it after that task."""

    def __init__(self, etcd: Etcd, keys: Keys, store: ArtifactStore, capacity: int = 100_000) -> None:
        self._etcd = etcd
        self._keys = keys
        self._library = Library(store)
        self._shared = SharedModels(etcd, keys, self._library)
        self._fold = CatalogFold(capacity, self._shared.find)
        self._records: Flight[ModelRef, Entry] = Flight()
        self._versions: Flight[tuple[Entry, str], tuple[VersionState, ModelVersion] | None] = Flight()
        # The version that (model, version, alias) means, if memory knows; else None, and `resolve` has the answer or
        # the error. An empty version means by alias, an empty alias "live". Bound, as every request calls it.
        self.lookup: Callable[[ModelRef, str, str], ModelVersion | None] = self._fold.lookup

    def __len__(self) -> int:
        return len(self._fold)

    async def resolve(self, ref: ModelRef, version: str = "", alias: str = "") -> ModelVersion:
        """The version that a request means.

        Raises:
            ModelNotFoundError: no such model, alias or version; the text says which.
            ModelUnusableError: its record in object storage is damaged.
            EtcdUnavailableError, StoreUnavailableError: it isn't held, and there is nobody to ask.
            InvalidRequestError: a name that can't be one.
        """
        while True:
            owner, entry = await self._owner(ref)
            if not version:
                return _by_alias(owner, entry, alias or LIVE)
            if version not in entry.versions:
                # The entry is part of the name: who came after an event must not join a read from before it.
                found = await self._versions.do((entry, version), partial(self._read_version, owner, version))
                if found is None and self._fold.find(owner) not in {entry, None}:
                    continue  # An event passed while we read; what was missing may have been published by now.
                retired = found is not None and found[0] is VersionState.RETIRED
                entry.remember(version, None if found is None or retired else found[1], retired=retired)
            return _by_version(owner, entry, version)

    async def read_manifest(self, ref: ModelRef, version: str) -> Manifest | None:
        """All about a version that `resolve` gave for a model, from object storage.

        Raises:
            ModelUnusableError: the manifest is damaged.
            StoreUnavailableError: there is nobody to ask.
        """
        owner, _ = await self._owner(ref)
        return await self._library.find_manifest(owner, version)

    async def _owner(self, ref: ModelRef) -> tuple[ModelRef, Entry]:
        """The model that answers, the tenant's own or the one that it falls back to, and what is known of it."""
        entry = await self._entry(ref)
        if entry.record is not None:
            return ref, entry
        shared = await self._shared.resolve(ref.model)
        if shared is None:
            raise no_model(ref)
        entry = await self._entry(shared)
        if entry.record is None:
            raise no_model(ref, f", and the shared model of application {ref.model!r} is missing")
        return shared, entry

    async def _entry(self, ref: ModelRef) -> Entry:
        return self._fold.find(ref) or await self._records.do(ref, partial(self._read_record, ref))

    def forget_tenant(self, tenant: str) -> None:
        """Drop what is held of a tenant's models; it is read anew when somebody asks."""
        self._fold.drop_tenant(tenant)

    async def run(self) -> None:
        """Follow the watch until cancelled. A refusal (a password that was changed, say) is logged and tried again:
        what is held goes on answering.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_keep(self._follow, "models"))
            tasks.create_task(_keep(self._shared.follow, "applications"))

    async def _follow(self) -> None:
        refresh: asyncio.Task[None] | None = None
        async with aclosing(self._etcd.watch_changes(self._keys.models_prefix)) as events, asyncio.TaskGroup() as tasks:
            async for event in events:
                if isinstance(event, Changed):
                    self._apply(event)
                    continue
                self._fold.gap(event.revision)
                if refresh is not None:
                    refresh.cancel()
                refresh = tasks.create_task(self._refresh())

    async def aclose(self) -> None:
        """Cancel the reads that are under way."""
        await self._records.aclose()
        await self._versions.aclose()
        await self._shared.aclose()

    async def _read_record(self, ref: ModelRef) -> Entry:
        entry: Entry | None = None
        while entry is None:
            read = self._fold.begin(ref)
            try:
                entry = self._fold.finish(read, *await self._ask(ref))
            finally:
                self._fold.abandon(read)
        return entry

    async def _ask(self, ref: ModelRef) -> tuple[int, ModelRecord | None]:
        """What etcd says at which revision; what object storage says where etcd knows nothing."""
        try:
            revision, found = await self._etcd.get(self._keys.model(ref))
        except EtcdUnavailableError as error:
            raise EtcdUnavailableError(f"model {ref} isn't cached here, and {error.message}") from error
        record = self._decode(ref, found.value) if found is not None else None
        return revision, record or await self._library.index_entry(ref)

    async def _read_version(self, ref: ModelRef, version: str) -> tuple[VersionState, ModelVersion] | None:
        """A version by number, None where there is none or it was deleted: the model's record says so, and not the
        index, which has the aliases alone.
        """
        manifest, record = await asyncio.gather(
            self._library.find_manifest(ref, version), self._library.newest_aliases(ref)
        )
        if manifest is None or record is None or record.gone or version in record.deleted:
            return None
        return state_of(record, version), manifest.to_version()

    def _apply(self, changed: Changed) -> None:
        for event in changed.events:
            key, revision = (event.kv.key, event.kv.mod_revision) if isinstance(event, Put) else event
            ref = self._keys.model_ref(key)
            if ref is None or not self._fold.wants(ref):
                continue
            record = self._decode(ref, event.kv.value) if isinstance(event, Put) else None
            if record is not None:
                self._fold.apply(ref, revision, record)
            else:
                self._fold.forget(ref, revision)

    def _decode(self, ref: ModelRef, value: bytes) -> ModelRecord | None:
        """An entry of etcd, None when it is damaged."""
        try:
            return decode_model(value)
        except msgspec.DecodeError as error:
            _log.warning("the entry of model %s in etcd is damaged: %s", ref, error)
            return None

    async def _refresh(self) -> None:
        """Read all that is held anew, the most recently used first; what is held answers meanwhile."""
        refs = iter(self._fold.refs())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_REFRESHERS):
                tasks.create_task(self._refresh_each(refs))

    async def _refresh_each(self, refs: Iterator[ModelRef]) -> None:
        for ref in refs:
            backoff = Backoff()
            while self._fold.wants(ref):
                try:
                    await self._records.do(ref, partial(self._read_record, ref))
                    break
                except UnavailableError as error:
                    _log.warning("can't refresh model %s yet: %s", ref, error.message)
                    await backoff.pause()
                except ScoreMeshError as error:
                    _log.warning("model %s can't be refreshed and is forgotten: %s", ref, error.message)
                    self._fold.drop(ref)


async def _keep(follow: Callable[[], Awaitable[None]], what: str) -> None:
    backoff = Backoff()
    while True:
        try:
            await follow()
        except* ScoreMeshError as refused:
            _log.error("can't follow the %s: %s", what, refused.exceptions[0])
        await backoff.pause()


def _by_alias(ref: ModelRef, entry: Entry, alias: str) -> ModelVersion:
    aliases = entry.record.aliases if entry.record is not None else {}
    found = aliases.get(alias)
    if found is None:
        known = ", ".join(sorted(aliases)[:20]) or "none"
        raise ModelNotFoundError(f"model {ref} has no alias {alias[:140]!r}; its aliases: {known}")
    return found


def _by_version(ref: ModelRef, entry: Entry, version: str) -> ModelVersion:
    found = entry.versions.get(version)
    if found is not None:
        return found
    if version in entry.retired:
        raise ModelNotFoundError(f"version {version} of model {ref} is retired")
    raise ModelNotFoundError(f"model {ref} has no version {version[:140]!r}")
