"""Runs N routers on one port, each a process with a listening socket, links and a watch of its own.

Contract: the kernel spreads connections over the workers (SO_REUSEPORT). A worker that ends by itself is started again,
at once the first time and with a growing pause when it keeps ending; what was on its connections is reset, and callers
that retry get to another worker. SIGTERM and SIGINT go to all workers, which drain; the supervisor ends when they have.
When the supervisor is killed, the kernel kills the workers. A worker whose very first run ends soon, with a status of
its own, can't start: that ends all of it with this status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from registry.front_http2 import bind
from registry.process import PARENT_VARIABLE, on_stop_signals
from registry.supervision import STABLE_S, end_workers, pause_s, send
from router.config import RouterConfig

_log = logging.getLogger(__name__)


class Supervisor:
    """`arguments`: of the router's command line, passed on to each worker; `config` is what they mean.

    Raises OSError where the port is taken.
    """

    def __init__(self, arguments: Sequence[str], config: RouterConfig) -> None:
        bind(config.listen).close()  # alone at first: another one that also shares its port would go unnoticed
        self._bound = bind(config.listen, reuse_port=True)  # holds the port while no worker has it
        host = config.listen.rpartition(":")[0]
        self._arguments = [*arguments, "--listen", f"{host}:{self._bound.getsockname()[1]}"]
        self._config = config
        self._stop = asyncio.Event()
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self.status = 0

    async def run(self) -> None:
        """Run until a signal, then until all workers have ended; then `status` is what to end with."""
        self._stop = on_stop_signals()
        keepers = [asyncio.create_task(self._keep(worker)) for worker in range(self._config.workers)]
        await self._stop.wait()
        await end_workers(self._running, keepers, 3 * self._config.drain_s + 5)
        self._bound.close()

    async def _keep(self, worker: int) -> None:
        loop = asyncio.get_running_loop()
        quick_ends, is_first = 0, True
        while not self._stop.is_set():
            began = loop.time()
            status = await self._run_once(worker)
            ran_s = loop.time() - began
            if self._stop.is_set():
                return
            if is_first and status > 0 and ran_s < STABLE_S:
                self.status = status
                self._stop.set()
                return
            quick_ends, is_first = 0 if ran_s > STABLE_S else quick_ends + 1, False
            pause = pause_s(quick_ends - 1) if quick_ends else 0.0
            _log.error("worker %d ended with status %d; starting it again in %.2f s", worker, status, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _run_once(self, worker: int) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "router", *self._arguments, "--worker", str(worker)),
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        )
        self._running[worker] = process
        if self._stop.is_set():  # the signal came while the process was being started
            send(process.terminate)
        try:
            return await process.wait()
        finally:
            del self._running[worker]
