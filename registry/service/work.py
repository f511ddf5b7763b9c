"""Changes that have begun, and reads of many records.

Contract of `Work`: a change goes on to its end when its caller leaves or his time is over, so that etcd is told what
object storage has; the caller who asks again with the same request id finds it done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from registry.errors import ModelUnusableError

T = TypeVar("T")
N = TypeVar("N")
_AT_ONCE = 32
_log = logging.getLogger(__name__)


class Work:
    """See the module. `aclose` waits for what is under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, change: Coroutine[Any, Any, T]) -> T:
        """The result of a change, which isn't cancelled when this is."""
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def aclose(self, timeout_s: float = 0) -> None:
        """Wait for what is under way, and cancel what is left after that time."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def read_each(read: Callable[[N], Awaitable[T]], names: Iterable[N]) -> list[T]:
    """What `read` gives for each name, in their order, some at a time. The first failure ends all."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(name: N) -> T:
        async with gate:
            return await read(name)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(name)) for name in names]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


def or_none(read: Callable[[N], Awaitable[T | None]]) -> Callable[[N], Awaitable[T | None]]:
    """For lists: reads the same, but None for a record that is damaged, which the log tells of."""

    async def readable(name: N) -> T | None:
        try:
            return await read(name)
        except ModelUnusableError as error:
            _log.warning("left out of a list: %s", error.message)
            return None

    return readable
