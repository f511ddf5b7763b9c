"""A server's process ends by its signal, or by the end of what it can't do without."""

from __future__ import annotations

import asyncio

import pytest

from registry.process import until_stopped


async def test_a_signal_ends_the_wait() -> None:
    stop = asyncio.Event()
    essential = asyncio.create_task(asyncio.Event().wait())
    waiting = asyncio.create_task(until_stopped(stop, essential))  # type: ignore[arg-type] # what it returns is unused
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.set()
    await waiting
    assert not essential.done()
    essential.cancel()


async def test_the_error_of_an_essential_task_is_raised() -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await until_stopped(asyncio.Event(), asyncio.create_task(fail()))
