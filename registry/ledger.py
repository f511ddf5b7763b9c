"""Changes of records: durable in object storage first, then told to etcd.

Contract: `change` makes the next record of a model from the one that holds (creating it is the compare-and-swap) and
then brings it to etcd, which only ever moves to a higher revision; so a slow writer can't undo what a later one did,
and a writer that dies between the two leaves a truth that anybody's `sync` finishes. Who makes an entry anew looks at
the store once more, since a deletion that came in between found nothing to take away. Tenants and applications go the
same way. Any number of ledgers may work on one store and cluster at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec

from registry.errors import ConflictError, ModelNotFoundError, ScoreMeshError
from registry.etcd import Etcd
from registry.etcd_records import KeyValue
from registry.keys import Keys, decode, encode
from registry.library import Library, index_of, no_model
from registry.manifest import AliasRecord
from registry.model import ApplicationRecord, ModelRecord, ModelRef, TenantRecord
from registry.next_record import ANY, EMPTY, Change, Condition, next_record

S = TypeVar("S", TenantRecord, ApplicationRecord)
V = TypeVar("V", ModelRecord, TenantRecord, ApplicationRecord)


class Ledger:
    """See the module. `library` reads what is there. Holds no task of its own."""

    def __init__(self, library: Library, etcd: Etcd, keys: Keys) -> None:
        self.library = library
        self.etcd = etcd
        self.keys = keys

    async def record(self, ref: ModelRef) -> AliasRecord:
        """The record of a model that holds, the empty one where there is none. Raises ConflictError where its tenant is
        being deleted, so that nothing of it may be changed any more.
        """
        settings, record = await asyncio.gather(
            self.library.newest_tenant(ref.tenant), self.library.newest_aliases(ref)
        )
        if settings is not None and settings.deleting:
            raise ConflictError(f"tenant {ref.tenant} is being deleted")
        return record or EMPTY

    async def change(
        self,
        ref: ModelRef,
        change: Change,
        condition: Condition = ANY,
        *,
        done: str = "it",
        record: AliasRecord | None = None,
    ) -> AliasRecord:
        """Make a change of a model, and return the record that holds then. `done`: what to say is stored when etcd
        can't be told. `record`: the one that holds, where the caller has just read it; creating the next one shows
        whether it still does.

        Raises:
            ScoreMeshError: what the change itself refuses. ConflictError: the condition doesn't hold.
            StoreUnavailableError: run it again. EtcdUnavailableError: it's stored; `scoremesh rebuild` finishes it.
        """
        current = record
        while True:
            if current is None:
                current = await self.library.newest_aliases(ref) or EMPTY
            made = next_record(current, change, condition, now=utc_now(), nonce=new_nonce())
            if made is current or await self.library.create_aliases(ref, made):
                break
            current = None
        if made.revision:
            sync = partial(self.tell, ref, made, is_first=made is not current and made.revision == 1)
            await self._tell(sync, f"{done} is stored", f"run `scoremesh rebuild {ref}` to finish")
        return made

    async def sync(self, ref: ModelRef) -> ModelRecord | None:
        """Bring the newest record of a model to etcd, unless etcd has it or a newer one; the entry of a model that was
        deleted, or has no record, is taken away. Returns what etcd has.

        Raises:
            ModelNotFoundError: the model has no record.
            StoreUnavailableError, EtcdUnavailableError: run it again.
        """
        while True:
            # In this order: a model whose record is missing afterwards had none when the entry was seen.
            _, found = await self.etcd.get(self.keys.model(ref))
            newest = await self.library.newest_aliases(ref)
            if newest is None or newest.gone:
                if found is not None and not await self._remove(found.key, found.mod_revision):
                    continue
                if newest is None:
                    raise no_model(ref)
                return None
            held = decoded(ModelRecord, found)
            if held is not None and held.revision >= newest.revision:
                return held
            if await self._put(ref, newest, found):
                return index_of(newest)

    async def tell(self, ref: ModelRef, record: AliasRecord, *, is_first: bool = False) -> None:
        """As `sync`, by a record that was the newest a moment ago. `is_first`: of the model, just stored; etcd isn't
        asked what it has then.
        """
        if not record.gone:
            found = None if is_first else (await self.etcd.get(self.keys.model(ref)))[1]
            held = decoded(ModelRecord, found)
            if held is not None and held.revision >= record.revision:
                return
            if await self._put(ref, record, found):
                return
        with contextlib.suppress(ModelNotFoundError):  # It went with its tenant meanwhile.
            await self.sync(ref)

    async def change_tenant(self, tenant: str, change: Callable[[TenantRecord], TenantRecord]) -> TenantRecord:
        """Make a change of a tenant's settings, a record of defaults where it has none; errors as for `change`."""
        library, key = self.library, self.keys.tenant(tenant)

        async def read() -> TenantRecord:
            return await library.newest_tenant(tenant) or TenantRecord(tenant=tenant)

        return await self._change_settings(f"tenant {tenant}", key, read, library.create_tenant, change)

    async def change_application(
        self, application: str, change: Callable[[ApplicationRecord], ApplicationRecord]
    ) -> ApplicationRecord:
        """Make a change of an application, `ApplicationRecord(application=...)` where there is none; errors as for
        `change`.
        """
        library, key = self.library, self.keys.application(application)

        async def read() -> ApplicationRecord:
            return await library.newest_application(application) or ApplicationRecord(application=application)

        return await self._change_settings(f"application {application}", key, read, library.create_application, change)

    async def _change_settings(
        self,
        what: str,
        key: bytes,
        read: Callable[[], Awaitable[S]],
        create: Callable[[S], Awaitable[bool]],
        change: Callable[[S], S],
    ) -> S:
        while True:
            current = await read()
            record = _next_settings(current, change)
            if record is current or await create(record):
                break
        if record.revision:
            await self._tell(lambda: self.mirror(key, record), f"{what} is stored", "run it again to finish")
        return record

    async def mirror(self, key: bytes, record: S) -> None:
        """Bring a record to etcd, unless etcd has it or a newer one."""
        while True:
            _, found = await self.etcd.get(key)
            held = decoded(type(record), found)
            if held is not None and held.revision >= record.revision:
                return
            if await self._swap(key, record, found):
                return

    async def _put(self, ref: ModelRef, record: AliasRecord, found: KeyValue | None) -> bool:
        """Write a model's entry in place of what was found; False when that, or the record, isn't what holds."""
        key = self.keys.model(ref)
        written = await self._swap(key, index_of(record), found)
        if not written or found is not None:
            return bool(written)
        newest = await self.library.newest_aliases(ref)
        if newest is not None and newest.nonce == record.nonce:
            return True
        if newest is None or newest.revision <= record.revision:  # The tenant went, and may have come anew.
            await self._remove(key, written)
        return False

    async def _swap(self, key: bytes, value: msgspec.Struct, found: KeyValue | None) -> int:
        """Returns the revision of the write, 0 where there is something else than was found."""
        expected = found.mod_revision if found is not None else 0
        try:
            swap = await self.etcd.compare_and_swap(key, encode(value), expected)
        except ConflictError:
            return 0  # Whether it was written is unknown: the caller looks again.
        return swap.revision if swap.succeeded else 0

    async def _remove(self, key: bytes, mod_revision: int) -> bool:
        try:
            return (await self.etcd.compare_and_delete(key, mod_revision)).succeeded
        except ConflictError:
            return False

    async def _tell(self, sync: Callable[[], Awaitable[object]], done: str, hint: str) -> None:
        try:
            await sync()
        except ScoreMeshError as error:
            raise type(error)(f"{done}, but not yet in etcd: {hint}; {error.message}") from error


def decoded(kind: type[V], found: KeyValue | None) -> V | None:
    """What etcd has; None for nothing, or for a damaged entry, which a sync replaces."""
    if found is None:
        return None
    try:
        return decode(kind, found.value)
    except msgspec.DecodeError:
        return None


def _next_settings(current: S, change: Callable[[S], S]) -> S:
    changed = change(current)
    if changed == current and current.revision:
        return current
    created_at = changed.created_at or utc_now()
    return msgspec.structs.replace(changed, revision=current.revision + 1, created_at=created_at, nonce=new_nonce())


def utc_now() -> str:
    """RFC 3339, in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def new_nonce() -> str:
    """Differs at each call, on every machine."""
    return uuid.uuid4().hex
