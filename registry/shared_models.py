"""The applications as a scorer sees them: which shared model stands in for one that a tenant doesn't have.

Contract: `find` answers from memory; `resolve` reads object storage where memory has no answer, once for all who ask at
the same time. `follow` keeps memory up to date with etcd; the rules are those of `registry.application_fold`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import msgspec

from registry.application_fold import Applications
from registry.etcd import Etcd
from registry.etcd_records import KeyValue, Listed, Put
from registry.flight import Flight
from registry.keys import Keys, decode
from registry.library import Library
from registry.model import ApplicationRecord, ModelRef

_log = logging.getLogger(__name__)


class SharedModels:
    """See the module. Give it a task for `follow`, and `aclose` it after that task."""

    def __init__(self, etcd: Etcd, keys: Keys, library: Library) -> None:
        self._etcd = etcd
        self._prefix = keys.applications_prefix
        self._library = library
        self._applications = Applications()
        self._reads: Flight[str, None] = Flight()
        # The shared model of the application of this name, None where there is none or it isn't known.
        self.find: Callable[[str], ModelRef | None] = self._applications.shared

    async def resolve(self, name: str) -> ModelRef | None:
        """The shared model of the application of this name. Raises StoreUnavailableError, ModelUnusableError."""
        while not self._applications.knows(name):  # A listing of etcd makes forget what has just been read.
            await self._reads.do(name, partial(self._read, name))
        return self._applications.shared(name)

    async def follow(self) -> None:
        """Follow the watch until cancelled. Raises EtcdAuthError, EtcdRefusedError."""
        async with aclosing(self._etcd.watch(self._prefix)) as events:
            async for event in events:
                if isinstance(event, Listed):
                    found = [self._decode(kv) for kv in event.kvs]
                    self._applications.replace(record for record in found if record is not None)
                    continue
                for change in event.events:
                    record = self._decode(change.kv) if isinstance(change, Put) else None
                    if record is not None:
                        self._applications.put(record)
                    else:
                        self._applications.forget(self._name(change.kv.key if isinstance(change, Put) else change.key))

    async def aclose(self) -> None:
        """Cancel the reads that are under way."""
        await self._reads.aclose()

    async def _read(self, name: str) -> None:
        # The store knows of a change before etcd does, so etcd needn't be asked as well.
        self._applications.remember(name, await self._library.newest_application(name))

    def _decode(self, kv: KeyValue) -> ApplicationRecord | None:
        """An entry of etcd; None when it is damaged, and then object storage is asked."""
        try:
            record = decode(ApplicationRecord, kv.value)
        except msgspec.DecodeError as error:
            _log.warning("the entry of application %s in etcd is damaged: %s", self._name(kv.key), error)
            return None
        return record if record.application == self._name(kv.key) else None

    def _name(self, key: bytes) -> str:
        return key.removeprefix(self._prefix).decode(errors="replace")
