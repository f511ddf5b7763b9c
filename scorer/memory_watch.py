"""Holds a scorer's process to its memory: compares what the kernel says it takes with what its models were measured to
take, and changes their room.

Contract: `run` looks every `INTERVAL_S`. What evicted models have left goes back to the kernel, on the loading thread,
before it could cost room, and else every `_TRIM_LOOKS`: the allocator stands still meanwhile, for up to 10 ms, and the
next models take up most of what was left anyway. A change of the room under a hundredth of it is not worth an eviction.
It ends with its task and never by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from scorer.memory import resident_set_bytes
from scorer.memory_budget import MemoryBudget

INTERVAL_S = 1.0
_TRIM_LOOKS = 10
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
        self._looks = 0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        taken = resident_set_bytes()
        self._looks += 1
        if self._is_change(self._room(taken)) or self._looks % _TRIM_LOOKS == 0:
            await self._allocator.trim(always=self._budget.is_over(taken))
            taken = resident_set_bytes()
        self._tell(taken)
        room = self._room(taken)
        if self._is_change(room):
            self._models.resize(room)
            await self._allocator.trim()

    def _room(self, taken: int) -> int:
        return self._budget.room_bytes(self._models.capacity_bytes, self._models.used_bytes, taken)

    def _is_change(self, room: int) -> bool:
        capacity = self._models.capacity_bytes
        return abs(room - capacity) * 100 >= capacity

    def _tell(self, taken: int) -> None:
        """Log when the process goes over its limit, and when it's under it again."""
        over = self._budget.is_over(taken)
        if over != self._was_over:
            mib, limit_mib = taken >> 20, self._budget.limit_bytes >> 20
            used_mib = self._models.used_bytes >> 20
            text = "the process takes %d MiB of the %d MiB that it may, %d of them for models"
            _log.log(logging.WARNING if over else logging.INFO, text, mib, limit_mib, used_mib)
        self._was_over = over
