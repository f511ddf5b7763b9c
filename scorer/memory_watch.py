"""Holds a scorer's process to its memory: compares what the kernel says it takes with what its models were measured to
take, and changes their room.

Contract: `run` looks every `INTERVAL_S`. What evicted models have left goes back to the kernel before it's judged, on
the loading thread: once for all of them, since the allocator stands still meanwhile. A change of the room under a
hundredth of it is not worth an eviction. It ends with its task and never by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from scorer.memory import resident_set_bytes
from scorer.memory_budget import MemoryBudget

INTERVAL_S = 1.0
_log = logging.getLogger(__name__)


class Models(Protocol):
    """What is held in memory; see `scorer.cache.ModelCache`."""

    @property
    def used_bytes(self) -> int: ...

    @property
    def capacity_bytes(self) -> int: ...

    def resize(self, capacity_bytes: int) -> None: ...


class Allocator(Protocol):
    """Gives what closed models have left back; see `scorer.loader.Loader`."""

    async def trim(self, *, always: bool = False) -> None: ...


class MemoryWatch:
    """See the module."""

    def __init__(self, models: Models, allocator: Allocator, budget: MemoryBudget) -> None:
        self._models = models
        self._allocator = allocator
        self._budget = budget
        self._was_over = False

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        await self._allocator.trim(always=self._budget.is_over(resident_set_bytes()))
        taken = resident_set_bytes()
        self._tell(taken)
        models = self._models
        room = self._budget.room_bytes(models.capacity_bytes, models.used_bytes, taken)
        if abs(room - models.capacity_bytes) * 100 >= models.capacity_bytes:
            models.resize(room)
            await self._allocator.trim()

    def _tell(self, taken: int) -> None:
        """Log when the process goes over its limit, and when it's under it again."""
        over = self._budget.is_over(taken)
        if over != self._was_over:
            mib, limit_mib = taken >> 20, self._budget.limit_bytes >> 20
            used_mib = self._models.used_bytes >> 20
            text = "the process takes %d MiB of the %d MiB that it may, %d of them for models"
            _log.log(logging.WARNING if over else logging.INFO, text, mib, limit_mib, used_mib)
        self._was_over = over
