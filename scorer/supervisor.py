"""Runs N workers, each a member of its own, and restarts one that ends.

Contract: a worker that ends by itself is started again, at once the first time and with a growing pause (30 s at most)
when it keeps ending; after it has run for a minute it starts with a clean slate. SIGTERM and SIGINT go to all workers,
which drain; the supervisor ends when they have ended. When the supervisor is killed, the kernel kills the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from registry.process import PARENT_VARIABLE, on_stop_signals

_MAX_PAUSE_S = 30.0
_STABLE_S = 60.0
_log = logging.getLogger(__name__)


def pause_s(quick_ends: int) -> float:
    """How long to wait before a worker is started again that has ended `quick_ends` times soon after its start.
    Pure.
    """
    return 0.0 if quick_ends == 0 else min(_MAX_PAUSE_S, 0.25 * 2.0 ** min(quick_ends, 10))


class Supervisor:
    """`arguments`: of the scorer's command line, passed on to each worker."""

    def __init__(self, arguments: Sequence[str], workers: int, drain_s: float) -> None:
        self._arguments = list(arguments)
        self._workers = workers
        self._drain_s = drain_s
        self._stop = asyncio.Event()
        self._running: dict[int, asyncio.subprocess.Process] = {}

    async def run(self) -> None:
        """Run until a signal, then until all workers have ended."""
        self._stop = on_stop_signals()
        keepers = [asyncio.create_task(self._keep(worker)) for worker in range(self._workers)]
        await self._stop.wait()
        for process in self._running.values():
            process.terminate()
        _done, late = await asyncio.wait(keepers, timeout=3 * self._drain_s + 5)
        for process in self._running.values():
            process.kill()
        for keeper in late:
            keeper.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _keep(self, worker: int) -> None:
        quick_ends = 0
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            began = loop.time()
            status = await self._run_once(worker)
            if self._stop.is_set():
                return
            quick_ends = 0 if loop.time() - began > _STABLE_S else quick_ends + 1
            pause = pause_s(quick_ends - 1)
            _log.error("worker %d ended with status %d; starting it again in %.2f s", worker, status, pause)
            await self._stopped_within(pause)

    async def _stopped_within(self, pause: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), pause)

    async def _run_once(self, worker: int) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "scorer",
            *self._arguments,
            "--worker",
            str(worker),
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        )
        self._running[worker] = process
        if self._stop.is_set():  # the signal came while the process was being started
            process.terminate()
        try:
            return await process.wait()
        finally:
            del self._running[worker]
