"""Runs N workers, each a member of its own: restarts what ends, kills what hangs, notes which models to suspect.

Contract: a worker that ends by itself is started again, at once the first time and with a growing pause (30 s at most)
when it keeps ending; after it has run for a minute it starts with a clean slate. One that hangs is killed, see
`scorer.crash_cause`. What was in flight at a crash is noted on disk before the worker is started again, which reports
it. SIGTERM and SIGINT go to all workers, which drain; the supervisor ends when they have ended. When the supervisor is
killed, the kernel kills the workers. A lone worker that can't even start ends the supervisor with its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from registry.process import PARENT_VARIABLE, on_stop_signals
from registry.supervision import STABLE_S, end_workers, pause_s, send
from scorer.config import ScorerConfig, of_worker
from scorer.crash_cause import Cause, Liveness, cause_of_end, cause_of_hang
from scorer.crash_notes import CrashNote, CrashNotes
from scorer.in_flight import BlackBox
from scorer.oom_kills import oom_kills

_LOOK_S = 0.25
_log = logging.getLogger(__name__)


class Ended(NamedTuple):
    """How one run of a worker ended. `ran`: whether its event loop ever did."""

    status: int
    cause: Cause
    ran: bool
    last_words: str


class Supervisor:
    """`arguments`: of the scorer's command line, passed on to each worker; `config` is what they mean."""

    def __init__(self, arguments: Sequence[str], config: ScorerConfig) -> None:
        self._arguments = list(arguments)
        self._config = config
        self._stop = asyncio.Event()
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self.status = 0

    async def run(self) -> None:
        """Run until a signal, then until all workers have ended; then `status` is what to end with."""
        self._stop = on_stop_signals()
        keepers = [asyncio.create_task(self._keep(worker)) for worker in range(self._config.workers)]
        await self._stop.wait()
        await end_workers(self._running, keepers, self._config.handover_s + 3 * self._config.drain_s + 5)

    async def _keep(self, worker: int) -> None:
        quick_ends = 0
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            began = loop.time()
            ended = await self._run_once(worker)
            self._note(worker, ended)
            if self._stop.is_set() or self._is_hopeless(ended):
                return
            quick_ends = 0 if loop.time() - began > STABLE_S else quick_ends + 1
            pause = pause_s(quick_ends - 1)
            _log.error("worker %d %s; starting it again in %.2f s", worker, ended.cause.text, pause)
            await self._stopped_within(pause)

    def _is_hopeless(self, ended: Ended) -> bool:
        """Whether a lone worker said that it can't start; then whoever started us is to hear of it."""
        if self._config.workers > 1 or ended.ran or ended.status <= 0:
            return False
        self.status = ended.status
        self._stop.set()
        return True

    def _note(self, worker: int, ended: Ended) -> None:
        if ended.last_words:
            _log.error("last words of worker %d:\n%s", worker, ended.last_words)
        if not ended.cause.suspects:
            return
        _log.error("worker %d %s; suspected: %s", worker, ended.cause.text, ", ".join(sorted(ended.cause.suspects)))
        crash, at = uuid.uuid4().hex, datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        notes = [CrashNote(crash, package, ended.cause.text, at) for package in sorted(ended.cause.suspects)]
        CrashNotes(of_worker(self._config, worker).cache_dir).add(*notes)

    async def _stopped_within(self, pause: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), pause)

    async def _run_once(self, worker: int) -> Ended:
        kills_before = oom_kills()
        with contextlib.closing(BlackBox()) as box:
            async with self._process(worker, box) as process:
                hang = await _end_or_hang(process, box, self._config.hang_s)
                if hang is not None:
                    send(process.kill)
                status = await process.wait()
            seen, words = box.read(), box.last_words()
            cause = hang or cause_of_end(seen, status, words, oom_kills() - kills_before)
            return Ended(status, cause, seen.beat > 0, words)

    @contextlib.asynccontextmanager
    async def _process(self, worker: int, box: BlackBox) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "scorer",
            *self._arguments,
            "--worker",
            str(worker),
            "--in-flight-fd",
            str(box.memory_fd),
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            pass_fds=[box.memory_fd],
        )
        self._running[worker] = process
        if self._stop.is_set():  # the signal came while the process was being started
            send(process.terminate)
        try:
            yield process
        finally:
            del self._running[worker]


async def _end_or_hang(process: asyncio.subprocess.Process, box: BlackBox, hang_s: float) -> Cause | None:
    """Wait until it ends (None) or hangs (the cause)."""
    ending, hanging = asyncio.create_task(process.wait()), asyncio.create_task(_hang(process.pid, box, hang_s))
    try:
        await asyncio.wait({ending, hanging}, return_when=asyncio.FIRST_COMPLETED)
        return None if ending.done() else hanging.result()
    finally:
        for task in (ending, hanging):
            task.cancel()
        await asyncio.wait({ending, hanging})


async def _hang(pid: int, box: BlackBox, hang_s: float) -> Cause:
    """Returns when it hangs. A look that comes late (this machine was suspended, or is starved) says nothing of what
    the worker could have done since the last one: it counts as two looks' time at most.
    """
    liveness, loop = Liveness(hang_s), asyncio.get_running_loop()
    looked_at = loop.time()
    while True:
        await asyncio.sleep(_LOOK_S)
        before, looked_at = looked_at, loop.time()
        seen = box.read()
        slot = liveness.observe(seen, min(looked_at - before, 2 * _LOOK_S) if _may_run(pid) else 0.0)
        if slot is not None:
            return cause_of_hang(seen, slot)


def _may_run(pid: int) -> bool:
    """Whether its main thread runs or waits for something, rather than being stopped (SIGSTOP, a debugger), stuck in
    the kernel (a disk that doesn't answer) or gone.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"R", b"S")
    except (OSError, IndexError):
        return False
