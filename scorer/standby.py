"""Brings in versions that nobody waits for: canaries and shadows that aren't in memory, since this scorer got the model
after the rollout had begun.

Contract: `bring` never waits. It begins a load unless one is under way or was begun less than `PAUSE_S` ago, and tells
what is known by the last one that ended. A few are under way at a time: callers wait for other loads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Container

from registry.errors import ScoreMeshError
from registry.model import ModelVersion
from scorer.cache import ModelCache
from scorer.tasks import cancel
from scorer.trial import is_lasting

PAUSE_S = 30.0
CAPACITY = 20_000
_AT_ONCE = 2
_log = logging.getLogger(__name__)


class _Known:
    """Of one version: whether it can't be loaded, and when to try again."""

    __slots__ = ("is_broken", "not_before", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.is_broken = False
        self.not_before = 0.0


class Standby:
    """See the module. At most `CAPACITY` versions are remembered."""

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._loading: dict[str, tuple[str, asyncio.Task[None]]] = {}  # with the tenant
        self._gate = asyncio.Semaphore(_AT_ONCE)

    def bring(self, version: ModelVersion) -> bool:
        """Have a version loaded that isn't in memory; returns whether it's known that it can't be."""
        package, now = version.package, self._loop.time()
        known = self._known.get(package)
        if known is None:
            known = self._known[package] = _Known(version.tenant)
            if len(self._known) > CAPACITY:
                self._known.popitem(last=False)
        if now >= known.not_before and package not in self._loading:
            known.not_before = now + PAUSE_S
            task = self._loop.create_task(self._load(version, known))
            self._loading[package] = (version.tenant, task)
            task.add_done_callback(lambda _done: self._loading.pop(package))
        return known.is_broken

    async def _load(self, version: ModelVersion, known: _Known) -> None:
        try:
            async with self._gate, self._cache.borrow(version, background=True):
                known.is_broken = False
        except Exception as error:
            known.is_broken = is_lasting(error)
            why = error.message if isinstance(error, ScoreMeshError) else repr(error)
            _log.warning("version %s beside an alias can't be loaded: %s", version.version, why)

    def forget(self, tenant: str, packages: Container[str]) -> None:
        """Drop what is known of a tenant's versions, and of these packages; those that are to be loaded won't be."""
        for package, known in list(self._known.items()):
            if known.tenant == tenant or package in packages:
                del self._known[package]
        cancel(task for package, (owner, task) in self._loading.items() if owner == tenant or package in packages)

    async def aclose(self) -> None:
        """Stop the loads."""
        loading = [task for _tenant, task in self._loading.values()]
        cancel(loading)
        await asyncio.gather(*loading, return_exceptions=True)
