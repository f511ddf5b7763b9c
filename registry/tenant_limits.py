"""The tenants whose settings differ from the defaults, as scorers and routers follow them.

Contract: `on_changed` is told the settings of each tenant that has some of those that matter, at first and when they
change; and a record with the defaults when they are deleted, or say none of it any more. Of other tenants nothing is
held. `part` says what matters: it makes a record with the defaults everywhere else, so that other changes cost nothing.
While etcd is dead what was told stays; an etcd that lost its data has no settings.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from registry.etcd import Etcd, KeyValue
from registry.etcd_follow import follow
from registry.etcd_records import Changed, Listed, Put
from registry.keys import Keys, decode
from registry.model import TenantRecord

_log = logging.getLogger(__name__)


def memory_part(record: TenantRecord) -> TenantRecord:
    """How much of a scorer's memory is a tenant's."""
    return TenantRecord(
        tenant=record.tenant,
        guaranteed_bytes=record.guaranteed_bytes,
        max_bytes=record.max_bytes,
        premium=record.premium,
    )


class TenantLimits:
    """See the module. `listed`: set once etcd has told all that there is."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        on_changed: Callable[[TenantRecord], None],
        part: Callable[[TenantRecord], TenantRecord] = memory_part,
    ) -> None:
        self.listed = asyncio.Event()
        self._part = part
        self._etcd = etcd
        self._prefix = keys.tenants_prefix
        self._on_changed = on_changed
        self._told: dict[str, TenantRecord] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        await follow(self._etcd, self._prefix, self._apply, "the tenants")

    def _apply(self, event: Listed | Changed) -> None:
        if isinstance(event, Listed):
            records = {self._tenant(kv.key): self._decode(kv) for kv in event.kvs}
            for tenant in self._told.keys() | records.keys():
                self._tell(tenant, records.get(tenant))
            self.listed.set()
            return
        for change in event.events:
            if isinstance(change, Put):
                self._tell(self._tenant(change.kv.key), self._decode(change.kv))
            else:
                self._tell(self._tenant(change.key), None)

    def _tell(self, tenant: str, record: TenantRecord | None) -> None:
        default = TenantRecord(tenant=tenant)
        limits = default if record is None else self._part(record)
        if limits == self._told.get(tenant, default):
            return
        if limits == default:
            del self._told[tenant]
        else:
            self._told[tenant] = limits
        self._on_changed(limits)

    def _decode(self, kv: KeyValue) -> TenantRecord | None:
        """A tenant's settings, None where they can't be read: then it has the defaults."""
        try:
            record = decode(TenantRecord, kv.value)
        except msgspec.DecodeError as error:
            _log.warning("the settings of tenant %s in etcd are damaged: %s", self._tenant(kv.key), error)
            return None
        return record if record.tenant == self._tenant(kv.key) else None

    def _tenant(self, key: bytes) -> str:
        return key.removeprefix(self._prefix).decode(errors="replace")
