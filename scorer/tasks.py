"""Tasks that end with their owner at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


class Tasks:
    """Those of one owner that are under way. They handle their own failures."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it in a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def aclose(self) -> None:
        """Cancel all and wait for them."""
        cancel(self._running)
        await asyncio.gather(*self._running, return_exceptions=True)


def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel each."""
    for task in tasks:
        task.cancel()
