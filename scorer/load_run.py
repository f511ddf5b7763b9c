"""One load, from when it's asked for to its end: who wants it, and its turn. For `scorer.loads`."""

from __future__ import annotations

import asyncio
from math import inf

from registry.errors import OverloadedError
from registry.model import ModelVersion

_RETRY_AFTER_MS = 200


class Run:
    """One load. `tenant`: who asked for it; `is_background`: no request has; `deadline`: the latest of who did.
    `took_us`: how long it held others up; `room_in_s`: when there may be room, where it waits for that.
    """

    def __init__(self, version: ModelVersion, tenant: str, is_background: bool, on_disk: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self.version, self.tenant, self.is_background, self.on_disk = version, tenant, is_background, on_disk
        self.asked_at, self.begun_at, self.deadline = self._loop.time(), inf, -inf
        self.took_us = self.room_in_s = 0.0
        self.is_dropped = False
        self.turn: asyncio.Future[None] = self._loop.create_future()

    @property
    def queue_us(self) -> int:
        """From when it was asked for until it began."""
        return round((self.begun_at - self.asked_at) * 1e6)

    @property
    def begun_us(self) -> float:
        """Since it began; 0 before that."""
        return max(0.0, (self._loop.time() - self.begun_at) * 1e6)

    async def wait_turn(self) -> None:
        """Wait until it may begin, or go on.

        Raises:
            OverloadedError: it was dropped.
        """
        await self.turn
        if self.is_dropped:
            raise OverloadedError("the model was dropped while it waited", retry_after_ms=_RETRY_AFTER_MS)

    def wake(self) -> None:
        """End its waiting."""
        if not self.turn.done():
            self.turn.set_result(None)
