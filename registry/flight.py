"""Single flight: while the work for a key runs, everybody who asks for the key waits for the same run.

Invariant: a waiter that is cancelled leaves the run alone; the run belongs to the flight, not to who asked first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flight(Generic[K, V]):
    """Runs by key."""

    def __init__(self) -> None:
        self._runs: dict[K, asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._runs

    async def do(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of the run for `key`, which is started unless one is under way. Its error goes to every waiter."""
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = asyncio.create_task(work())
            run.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(run)

    async def join(self, key: K) -> None:
        """Wait for the run for `key`, if one is under way. Raises what it raises."""
        run = self._runs.get(key)
        if run is not None:
            await asyncio.shield(run)

    def _land(self, key: K, run: asyncio.Task[V]) -> None:
        del self._runs[key]
        if not run.cancelled():
            run.exception()  # fetched, so that a run whose waiters have all gone isn't reported as forgotten

    async def aclose(self) -> None:
        """Cancel all runs and wait for them."""
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
