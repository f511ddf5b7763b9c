"""Which packages no scorer may load: keys in etcd, each under a lease that ends with the quarantine.

Contract: a quarantine that has ended is gone, by etcd's own doing, so that whoever watches the keys is told. Nothing of
it is in object storage: a wiped etcd forgets it, and a package that still does harm comes back by doing it.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime, timedelta

import msgspec

from registry.errors import ConflictError, NotFoundError
from registry.etcd import Etcd
from registry.etcd_endpoints import LEASE_GRANT
from registry.keys import Keys, decode, encode
from registry.model import ModelRef, QuarantineRecord
from scoremesh.etcd.v1 import etcd_pb2 as pb

_log = logging.getLogger(__name__)


class Quarantine:
    """See the module. Every method raises EtcdUnavailableError when etcd doesn't answer."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd = etcd
        self._keys = keys

    async def begin(self, record: QuarantineRecord) -> bool:
        """Forbid a package until `record.until`, unless it's forbidden already. Of several who do so at the same time
        one is told True.
        """
        lease_id = await self._lease_until(record)
        try:
            swap = await self._etcd.compare_and_swap(self._keys.quarantine(record.package), encode(record), 0, lease_id)
        except ConflictError:  # somebody else's, after a try of ours whose outcome is unknown
            return False
        return swap.succeeded

    async def put(self, record: QuarantineRecord) -> None:
        """Forbid a package until `record.until`; what was said of it before is replaced. One that has ended is none."""
        if seconds_left(record, _now()) <= 0:
            return
        lease_id = await self._lease_until(record)
        await self._etcd.put(self._keys.quarantine(record.package), encode(record), lease_id)

    async def list(self) -> list[QuarantineRecord]:
        """What is forbidden now, in the order of the packages' names. Entries that nobody here wrote are left out."""
        now = _now()
        listing = await self._etcd.list_prefix(self._keys.quarantine_prefix)
        records = [(kv.key, record) for kv in listing.kvs if (record := decoded(kv.value)) is not None]
        return [record for key, record in records if self._is_of(key, record) and seconds_left(record, now) > 0]

    async def lift(self, package: str) -> QuarantineRecord:
        """Allow a package again; returns what was said of it. Raises NotFoundError where it isn't forbidden."""
        key = self._keys.quarantine(package)
        while True:
            _, found = await self._etcd.get(key)
            if found is None:
                raise NotFoundError(f"package {package} is not in quarantine")
            if (await self._etcd.compare_and_delete(key, found.mod_revision)).succeeded:
                unknown = QuarantineRecord(package=package, reason="", by="", since="")
                return decoded(found.value) or unknown

    def _is_of(self, key: bytes, record: QuarantineRecord) -> bool:
        return key == self._keys.quarantine_prefix + record.package.encode()

    async def _lease_until(self, record: QuarantineRecord) -> int:
        """A lease that ends with the quarantine; 0, which is none, for one without an end."""
        left_s = seconds_left(record, _now())
        return await lasting(self._etcd, left_s) if math.isfinite(left_s) else 0


async def lasting(etcd: Etcd, ttl_s: float) -> int:
    """A lease that nobody renews; etcd counts in whole seconds and may choose a longer time (2 s at least).

    Raises:
        EtcdUnavailableError: no endpoint answered.
    """
    answer = await etcd.endpoints.call(LEASE_GRANT, pb.LeaseGrantRequest(TTL=max(1, math.ceil(ttl_s))))
    return answer.message.ID


def quarantined(
    package: str, reason: str, by: str, *, now: datetime, ttl_s: float = 0, seen: tuple[ModelRef, str] | None = None
) -> QuarantineRecord:
    """A quarantine from now on for `ttl_s`, 0 for no end; `seen`: the version that was seen to do harm."""
    until = _text(now + timedelta(seconds=ttl_s)) if ttl_s else ""
    ref, version = seen or (ModelRef("", ""), "")
    return QuarantineRecord(package, reason, by, _text(now), until, ref.tenant, ref.model, version)


def seconds_left(record: QuarantineRecord, now: datetime) -> float:
    """How long a quarantine lasts from `now` on; infinite for one without an end, or with an end that can't be read."""
    if not record.until:
        return math.inf
    try:
        return (datetime.fromisoformat(record.until) - now).total_seconds()
    except (ValueError, TypeError):
        return math.inf


def decoded(value: bytes) -> QuarantineRecord | None:
    """An entry of the quarantine; None, with a warning, where it can't be read."""
    try:
        return decode(QuarantineRecord, value)
    except msgspec.DecodeError:
        _log.warning("an entry of the quarantine can't be read: %r", value[:200])
        return None


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _now() -> datetime:
    return datetime.now(UTC)
