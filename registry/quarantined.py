"""The packages that are in quarantine now, as a scorer holds them in memory.

Contract: `refusal` answers from memory and never waits. `run` follows the quarantine in etcd; `on_begun` is told each
package that is forbidden from now on. A quarantine that has ended, or was lifted, is gone when etcd says so. While etcd
is dead what is held stays, and an etcd that lost its data has none. `known` is set when the first state was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from registry.errors import QuarantinedError
from registry.etcd import Etcd, KeyValue
from registry.etcd_follow import follow
from registry.etcd_records import Changed, Listed, Put
from registry.keys import Keys
from registry.model import ModelVersion, QuarantineRecord
from registry.quarantine import decoded

_log = logging.getLogger(__name__)


class Quarantined:
    """See the module."""

    def __init__(self, etcd: Etcd, keys: Keys, on_begun: Callable[[set[str]], None]) -> None:
        self._etcd = etcd
        self._prefix = keys.quarantine_prefix
        self._on_begun = on_begun
        self._records: dict[str, QuarantineRecord] = {}
        self.known = asyncio.Event()

    def refusal(self, version: ModelVersion) -> QuarantinedError | None:
        """The error for who wants it loaded, None where it may be."""
        record = self._records.get(version.package)
        if record is None:
            return None
        until = f"until {record.until}" if record.until else "without an end"
        return QuarantinedError(
            f"version {version.version} can't be loaded: its package {record.package} is in quarantine {until},"
            f" said {record.by}: {record.reason}; `scoremesh quarantine lift {record.package}` ends it"
        )

    async def run(self) -> None:
        """Follow until cancelled."""
        await follow(self._etcd, self._prefix, self._apply, "the quarantine")

    def _apply(self, event: Listed | Changed) -> None:
        before = self._records
        self._records = {} if isinstance(event, Listed) else dict(before)
        if isinstance(event, Listed):
            for kv in event.kvs:
                self._put(kv)
        else:
            for change in event.events:
                if isinstance(change, Put):
                    self._put(change.kv)
                else:
                    self._records.pop(self._package(change.key), None)
        self.known.set()
        self._tell(set(before), set(self._records))

    def _put(self, kv: KeyValue) -> None:
        """What can't be read forbids nothing: it's nobody's word."""
        record = decoded(kv.value)
        if record is None or record.package != self._package(kv.key):
            self._records.pop(self._package(kv.key), None)
        else:
            self._records[record.package] = record

    def _package(self, key: bytes) -> str:
        return key.removeprefix(self._prefix).decode(errors="replace")

    def _tell(self, before: set[str], now: set[str]) -> None:
        for package in sorted(before - now):
            _log.warning("package %s is no longer in quarantine", package)
        for package in sorted(now - before):
            _log.warning("package %s is in quarantine: %s", package, self._records[package].reason)
        if now - before:
            self._on_begun(now - before)
