"""How a rebuild changes etcd: many entries at once where nothing stands against it, else each by itself.

Invariants: an entry never goes back to an older revision, and is only removed when object storage, asked after the
entry was seen, has nothing for it. Where an entry was made anew, or taken away, the store is asked once more: who
changed the record in between may have found nothing to take away, or have left alone what was there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from registry.errors import (
    EtcdAuthError,
    EtcdRefusedError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelUnusableError,
)
from registry.etcd_batch import Write
from registry.keys import encode
from registry.ledger import Ledger, S
from registry.model import ModelRef, TenantRecord
from registry.rebuild_sides import Held, name_of
from registry.rebuild_sides import held as held_of
from registry.rebuild_tally import Tally


class Writer:
    """See the module."""

    def __init__(self, ledger: Ledger, tally: Tally) -> None:
        self._ledger, self._library, self._tally = ledger, ledger.library, tally

    async def batch(self, writes: Sequence[Write], refs: Mapping[bytes, ModelRef]) -> None:
        """Make these writes, together or, where that fails, each by itself. `refs`: which model a key is of."""
        try:
            made = await self._ledger.etcd.write_all(writes)
        except EtcdAuthError:
            raise
        except EtcdRefusedError:
            made = False  # One is too large for etcd, say: that one alone shall fail.
        if not made:
            for write in writes:
                await self.model(refs[write.key])
            return
        removed = sum(write.value is None for write in writes)
        self._tally.removed += removed
        self._tally.written += len(writes) - removed

    async def model(self, ref: ModelRef) -> None:
        """Bring one model, whose entry or record was changed while we looked, or can't be brought."""
        try:
            held = await self._ledger.sync(ref)
            newest = await self._library.newest_aliases(ref)
        except EtcdAuthError:
            raise
        except (ModelNotFoundError, ModelUnusableError, EtcdRefusedError) as error:
            return self._tally.fail(name_of(ref), error.message)
        if held is None:
            self._tally.removed += 1
        elif newest is not None and held.revision > newest.revision:
            self._tally.fail(
                name_of(ref),
                f"etcd has its revision {held.revision}, but object storage has {newest.revision} at most: was the "
                "store restored from a backup? Move an alias to go on from there",
            )
        else:
            self._tally.written += 1
        return None

    async def leftover(self, ref: ModelRef, held: Held) -> None:
        """Remove the entry of a model that the listing of the store didn't have, unless it has come since."""
        try:
            if await self._library.newest_aliases(ref) is not None:
                return await self.model(ref)
            removed = await self._remove(self._ledger.keys.model(ref), held)
            # A publisher that came in between may have seen the entry, and have left it alone as newer than its own.
            if removed and await self._library.newest_aliases(ref) is not None:
                await self._ledger.sync(ref)
        except EtcdAuthError:
            raise
        except (ModelUnusableError, ModelNotFoundError, InvalidRequestError, EtcdRefusedError) as error:
            self._tally.fail(name_of(ref), error.message)

    async def changed(self, ref: ModelRef, written: int) -> None:
        """Bring a model again, whose entry was made anew from revision `written`, which isn't the newest any more."""
        try:
            newest = await self._library.newest_aliases(ref)
            if newest is None or newest.revision < written:  # The tenant went, and may have come anew.
                _, found = await self._ledger.etcd.get(self._ledger.keys.model(ref))
                at = held_of(found) if found is not None else None
                if found is not None and at is not None and at.revision == written:
                    await self._remove(found.key, at)
            if newest is not None:
                await self._ledger.sync(ref)
        except EtcdAuthError:
            raise
        except (ModelUnusableError, ModelNotFoundError, EtcdRefusedError) as error:
            self._tally.fail(name_of(ref), error.message)

    async def tenant(self, tenant: str, held: Held | None) -> TenantRecord | None:
        """Bring a tenant's settings; returns them. Raises what is wrong with the tenant."""
        key = self._ledger.keys.tenant(tenant)
        return await self._settings(key, lambda: self._library.newest_tenant(tenant), held)

    async def application(self, application: str, held: Held | None) -> None:
        """Bring an application."""
        try:
            key = self._ledger.keys.application(application)
            await self._settings(key, lambda: self._library.newest_application(application), held)
        except EtcdAuthError:
            raise
        except (ModelUnusableError, InvalidRequestError, EtcdRefusedError) as error:
            self._tally.fail(f"applications/{application}", error.message)

    async def drop_tenant(self, tenant: str) -> None:
        """Remove all entries of a tenant's models: its deletion has begun, or has passed us."""
        removed = await self._ledger.etcd.delete_prefix(self._ledger.keys.tenant_models_prefix(tenant))
        self._tally.removed += removed

    async def _settings(self, key: bytes, find: Callable[[], Awaitable[S | None]], held: Held | None) -> S | None:
        record = await find()
        if record is None:
            if held is None or not await self._remove(key, held):
                return None
            record = await find()
            if record is not None:  # Who made it in between may have left the entry alone, as newer than its own.
                await self._ledger.mirror(key, record)
        elif held is None or not held.equals(encode(record)):
            await self._write(key, record, find, held)
        return record

    async def _write(self, key: bytes, record: S, find: Callable[[], Awaitable[S | None]], held: Held | None) -> None:
        if not await self._ledger.etcd.write_all([Write(key, encode(record), held.mod_revision if held else 0)]):
            await self._ledger.mirror(key, record)
        self._tally.written += 1
        if held is None and await find() is None:  # Deleted in between, with nothing in etcd to take away.
            _, found = await self._ledger.etcd.get(key)
            if found is not None and held_of(found).equals(encode(record)):
                await self._remove(key, held_of(found))

    async def _remove(self, key: bytes, held: Held) -> bool:
        removed = (await self._ledger.etcd.compare_and_delete(key, held.mod_revision)).succeeded
        self._tally.removed += removed
        return removed
