"""What supervisors of worker processes have in common."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process
from collections.abc import Callable, Iterable, Mapping

STABLE_S = 60.0
"""After a worker has run for so long, its next end counts as its first."""
_MAX_PAUSE_S = 30.0


def pause_s(quick_ends: int) -> float:
    """How long to wait before a worker is started again that has ended `quick_ends` times soon after its start.
    Pure.
    """
    return 0.0 if quick_ends == 0 else min(_MAX_PAUSE_S, 0.25 * 2.0 ** min(quick_ends, 10))


def send(signal_it: Callable[[], None]) -> None:
    """Send a signal to a process that may have ended just now."""
    with contextlib.suppress(ProcessLookupError):
        signal_it()


async def end_workers(running: Mapping[int, Process], keepers: Iterable[asyncio.Task[None]], limit_s: float) -> None:
    """End all workers: SIGTERM, SIGKILL for those that run after `limit_s`. `running`: as it is at each moment;
    `keepers`: the tasks that end when their worker has.
    """
    for process in running.values():
        send(process.terminate)
    _done, late = await asyncio.wait(keepers, timeout=limit_s)
    for process in running.values():
        send(process.kill)
    for keeper in late:
        keeper.cancel()
    await asyncio.gather(*late, return_exceptions=True)
