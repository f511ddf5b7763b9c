"""The same work for many items, a bounded number of them at a time.

Contract: items are taken when there is room for them, so that a long or endless iterable costs no memory. The first
failure cancels what is under way and is raised as it is. Nothing runs any more when a call ends, however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[object]], at_once: int) -> None:
    """Do `work` for each item, at most `at_once` at a time."""
    waiting = iter(items)

    async def run() -> None:
        for item in waiting:
            await work(item)

    tasks = [asyncio.create_task(run()) for _ in range(at_once)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def map_all(items: Iterable[T], work: Callable[[T], Awaitable[R]], at_once: int) -> list[R]:
    """The results of `work` for each item, in the order of the items."""
    results: dict[int, R] = {}

    async def one(numbered: tuple[int, T]) -> None:
        results[numbered[0]] = await work(numbered[1])

    await for_each(enumerate(items), one, at_once)
    return [results[number] for number in range(len(results))]
