"""Brings the index in etcd to what object storage says: one model, one tenant, or everything.

Contract: afterwards etcd has every model, tenant and application that object storage has, as its newest record says,
and no other; but a damaged record leaves its entry as it is, and is named. It may run beside publishers, deletions and
other rebuilds: each write holds only while the entry is the one that was looked at, an entry never goes back to an
older revision, one that isn't in the listing of the store is removed only after the store was asked for it once more,
and where one was made anew the store is asked again afterwards, as a deletion may have passed. Run it again after a
failure.

How it is fast: etcd is read page by page into (revision, digest) for each model, the store by one recursive listing for
each tenant, whose names alone say which record of a model holds; only those are read, and what differs is written with
a hundred entries in a transaction. Where a transaction doesn't hold, its models are brought one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from registry import layout
from registry.bounded import for_each, map_all
from registry.errors import (
    EtcdAuthError,
    EtcdRefusedError,
    InvalidRequestError,
    ModelUnusableError,
    NotFoundError,
)
from registry.etcd_batch import Write, batches
from registry.ledger import Ledger
from registry.library import no_model
from registry.model import ModelRef
from registry.rebuild_sides import (
    Held,
    HeldIndex,
    Wanted,
    held,
    newest_revisions,
    read_held,
    read_held_tenant,
    read_wanted,
)
from registry.rebuild_tally import Failure, OnProgress, Rebuilt, Tally
from registry.rebuild_writer import Writer

__all__ = ["Failure", "OnProgress", "Rebuilt", "rebuild"]

_TENANTS_AT_ONCE = 8
_CHUNKS_AT_ONCE = 6
_CHUNK = 240
_LISTINGS_AT_ONCE = 16


async def rebuild(ledger: Ledger, scope: str = "", on_progress: OnProgress | None = None) -> Rebuilt:
    """Bring etcd to what object storage says. `scope`: "tenants/t/models/m", "tenants/t", or "" for everything.

    Raises:
        InvalidRequestError: no such scope; or everything is meant and the store has nothing while etcd has models,
            which looks like another cluster's store.
        ModelNotFoundError, NotFoundError: neither side has the model or the tenant.
        StoreUnavailableError, EtcdUnavailableError, EtcdAuthError: run it again.
    """
    tally = Tally(on_progress)
    run = _Rebuild(ledger, tally)
    match scope.split("/"):
        case [""]:
            await run.everything()
        case ["tenants", tenant]:
            await run.one_tenant(tenant)
        case ["tenants", tenant, "models", model]:
            await run.one_model(ModelRef(tenant, model))
        case _:
            raise InvalidRequestError(f"{scope[:200]!r} is neither tenants/TENANT nor tenants/TENANT/models/MODEL")
    return tally.result()


class _Rebuild:
    def __init__(self, ledger: Ledger, tally: Tally) -> None:
        self._ledger, self._library = ledger, ledger.library
        self._tally = tally
        self._writer = Writer(ledger, tally)
        self._gate = asyncio.Semaphore(_CHUNKS_AT_ONCE)  # one for all tenants

    async def everything(self) -> None:
        index = await read_held(self._ledger.etcd, self._ledger.keys)
        tenants, applications = await self._library.list_tenants(), await self._library.list_applications()
        if index.models and not tenants and not applications:
            raise InvalidRequestError(
                f"{self._library.store.url} has nothing, but etcd has models: is it another cluster's store?"
            )
        for application in sorted({*applications, *index.applications}):
            await self._writer.application(application, index.applications.get(application))
        every = sorted({*tenants, *index.tenants, *index.models})
        await for_each(every, lambda tenant: self._tenant(tenant, index), _TENANTS_AT_ONCE)

    async def one_tenant(self, tenant: str) -> None:
        index = await read_held_tenant(self._ledger.etcd, self._ledger.keys, tenant)
        known = tenant in index.models or tenant in index.tenants
        if not known and not await self._library.store.has_objects(layout.tenant_folder(tenant)):
            raise NotFoundError(f"there is no tenant {tenant!r}")
        await self._tenant(tenant, index)

    async def one_model(self, ref: ModelRef) -> None:
        _, found = await self._ledger.etcd.get(self._ledger.keys.model(ref))
        revision = await self._newest(ref)
        if not revision and found is None:
            raise no_model(ref)
        known = {ref.model: held(found)} if found is not None else {}
        await self._models(ref.tenant, {ref.model: revision} if revision else {}, known)

    async def _tenant(self, tenant: str, index: HeldIndex) -> None:
        known = index.models.pop(tenant, {})
        try:
            settings = await self._writer.tenant(tenant, index.tenants.get(tenant))
        except EtcdAuthError:
            raise
        except (ModelUnusableError, InvalidRequestError, EtcdRefusedError) as error:
            return self._tally.fail(f"tenants/{tenant}", error.message)
        if settings is not None and settings.deleting:
            return await self._writer.drop_tenant(tenant)
        newest = await newest_revisions(self._library.store, layout.models_folder(tenant))
        await self._models(tenant, newest, known)
        if newest and await self._is_deleted(tenant):
            await self._writer.drop_tenant(tenant)
        return None

    async def _is_deleted(self, tenant: str) -> bool:
        """Whether the tenant's deletion has passed us: it took its entries away, and we may have brought them back."""
        settings = await self._library.newest_tenant(tenant)
        if settings is not None:
            return settings.deleting
        return not await self._library.store.has_objects(layout.models_folder(tenant))

    async def _models(self, tenant: str, newest: Mapping[str, int], known: Mapping[str, Held]) -> None:
        """Bring a tenant's models. `newest`: the revision of each that the store has; `known`: what etcd has."""
        made: list[str] = []  # entries that weren't there before

        async def bring(names: list[str]) -> None:
            async with self._gate:
                made.extend(await self._bring({ModelRef(tenant, name): newest[name] for name in names}, known))
            self._tally.tell()

        async def remove(name: str) -> None:
            async with self._gate:
                await self._writer.leftover(ModelRef(tenant, name), known[name])
            self._tally.tell()

        await for_each(_chunks(iter(newest)), bring, _CHUNKS_AT_ONCE)
        await for_each(known.keys() - newest.keys(), remove, _CHUNKS_AT_ONCE)
        now = await self._newest_of(tenant, made)
        for name in made:
            if now.get(name) != newest[name]:
                await self._writer.changed(ModelRef(tenant, name), newest[name])

    async def _newest_of(self, tenant: str, names: Sequence[str]) -> Mapping[str, int]:
        """The revisions of these models in the store, by one listing of all the tenant has where they are many."""
        if len(names) > _CHUNK:
            return await newest_revisions(self._library.store, layout.models_folder(tenant))
        found = await map_all(names, lambda name: self._newest(ModelRef(tenant, name)), _LISTINGS_AT_ONCE)
        return dict(zip(names, found, strict=True))

    async def _newest(self, ref: ModelRef) -> int:
        names = await self._library.store.list_names(layout.aliases_folder(ref))
        return max((layout.revision_of(name) or 0 for name in names), default=0)

    async def _bring(self, newest: Mapping[ModelRef, int], known: Mapping[str, Held]) -> list[str]:
        """Bring some models; returns those whose entry was made anew."""
        writes: list[Write] = []
        refs: dict[bytes, ModelRef] = {}
        for wanted in await read_wanted(self._library.store, self._ledger.keys, newest, self._tally.fail):
            at = known.get(wanted.ref.model)
            self._tally.models += wanted.value is not None
            if not wanted.revision or (at is not None and at.revision > wanted.revision):
                await self._writer.model(wanted.ref)
            elif _differ(wanted, at):
                writes.append(Write(wanted.key, wanted.value, at.mod_revision if at is not None else 0))
                refs[wanted.key] = wanted.ref
        for batch in batches(writes):
            await self._writer.batch(batch, refs)
        return [refs[write.key].model for write in writes if not write.expected_mod_revision]


def _differ(wanted: Wanted, at: Held | None) -> bool:
    if wanted.value is None or at is None:
        return (wanted.value is None) != (at is None)
    return not at.equals(wanted.value)


def _chunks(names: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(names, _CHUNK)):
        yield chunk
