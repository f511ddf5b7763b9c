"""Which packages were in flight when scorers crashed; two crashes put a package in quarantine.

Contract: a suspicion is a key in etcd under a lease of `SUSPICION_S`, one for each crash and each package that was in
flight at it, whichever scorer it was. Who writes the second one begins the quarantine, for `QUARANTINE_S`; of several
who do one succeeds. The suspicions are gone with that, so that a package whose quarantine was lifted has two crashes
again. A report that is made twice counts once. The quarantine names a version of that package, for people to know, if
one that an alias means is found in the index within `SEARCH_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from registry.etcd import Etcd
from registry.keys import Keys, decode, decode_model, encode
from registry.model import ModelRecord, ModelRef, ModelVersion
from registry.quarantine import Quarantine, lasting, quarantined

SUSPICION_S = 600.0
QUARANTINE_S = 3600.0
SEARCH_S = 2.0
CRASHES = 2
_log = logging.getLogger(__name__)


class Suspicion(msgspec.Struct, frozen=True):
    """What happened to the scorer `member`, as in "scorer `member` `cause`"; `at`: RFC 3339, UTC."""

    member: str
    cause: str
    at: str

    def __str__(self) -> str:
        return f"scorer {self.member} {self.cause} at {self.at}"


class Suspects:
    """Of one cluster."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd = etcd
        self._keys = keys
        self._quarantine = Quarantine(etcd, keys)

    async def report(self, package: str, crash: str, suspicion: Suspicion) -> bool:
        """Tell of a crash; whether it began the quarantine of the package.

        Raises:
            EtcdUnavailableError: etcd doesn't answer; to be reported again.
        """
        _, forbidden = await self._etcd.get(self._keys.quarantine(package))
        if forbidden is not None:  # a crash of the same minute, which mustn't count when the quarantine is over
            return False
        lease_id = await lasting(self._etcd, SUSPICION_S)
        await self._etcd.put(self._keys.suspect(package, crash), encode(suspicion), lease_id)
        found = await self._of(package)
        if len(found) < CRASHES:
            return False
        began = await self._begin(package, found, suspicion.member)
        await self._etcd.delete_prefix(self._keys.package_suspects_prefix(package))
        return began

    async def _of(self, package: str) -> list[Suspicion]:
        listing = await self._etcd.list_prefix(self._keys.package_suspects_prefix(package))
        return sorted((_decoded(kv.value) for kv in listing.kvs), key=lambda suspicion: suspicion.at)

    async def _begin(self, package: str, found: list[Suspicion], by: str) -> bool:
        reason = f"in flight at {len(found)} crashes: {'; '.join(map(str, found[:5]))}"
        seen = await self._search(package)
        record = quarantined(package, reason, by, now=datetime.now(UTC), ttl_s=QUARANTINE_S, seen=seen)
        began = await self._quarantine.begin(record)
        if began:
            _log.error("package %s is in quarantine until %s: %s", package, record.until, reason)
        return began

    async def _search(self, package: str) -> tuple[ModelRef, str] | None:
        """A version of this package, that an alias or a rollout means; None where none was found in time."""
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(SEARCH_S),
                contextlib.aclosing(self._etcd.pages(self._keys.models_prefix)) as pages,
            ):
                async for page in pages:
                    for kv in page:
                        ref, version = self._keys.model_ref(kv.key), _version_of(package, kv.value)
                        if ref is not None and version:
                            return ref, version
        return None


def _version_of(package: str, value: bytes) -> str:
    """The name of the version that has this package, "" for none. Most entries are not even decoded."""
    if package.encode() not in value:
        return ""
    try:
        record = decode_model(value)
    except msgspec.DecodeError:
        return ""
    return next((version.version for version in _versions(record) if version.package == package), "")


def _versions(record: ModelRecord) -> Iterator[ModelVersion]:
    for version in record.aliases.values():
        yield version
        if version.rollout is not None:
            yield from (each for each in (version.rollout.canary, version.rollout.shadow) if each is not None)


def _decoded(value: bytes) -> Suspicion:
    try:
        return decode(Suspicion, value)
    except msgspec.DecodeError:
        return Suspicion("unknown", "did something that can't be read", "")
