"""Predictions that take long, on a thread of their own, so that the event loop's thread goes on with short ones.

Contract: `predict` waits for its turn and gives what the model gives. Turns are fair between tenants by the time that
predictions take (`scorer.load_queue`); a tenant fills a bounded share of the queue (`scorer.room`). What nobody waits
for any more is skipped unless it has begun, and whose time is over is told so then. The model stays pinned from the
call to the end of its prediction, also when the caller has gone.

What runs where: the thread calls the engine so that the interpreter lock is given up. It reads the request, too, and
runs the model's transforms; these are Python and numpy and hold the lock, but hand it over after each switch interval
(`registry.process` sets 0.1 ms), so that a short request waits about that long for it and not for the whole. Encoding
the answer is a memory copy and stays on the loop's thread, as does every decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from math import inf
from time import perf_counter_ns, thread_time_ns
from typing import NamedTuple

import numpy as np

from registry.errors import DeadlineError, OverloadedError
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest
from scorer.engine import predict_unlocked
from scorer.in_flight import NOWHERE, PREDICT, InFlight
from scorer.load_queue import LoadQueue
from scorer.plan import Plan
from scorer.resident import Resident
from scorer.room import Room

CAPACITY_US = 2_000_000  # of predictions that wait or run
_CAPACITY_BYTES = 64 * 1024 * 1024  # of their rows
_BYTES_PER_US = _CAPACITY_BYTES // CAPACITY_US
_LEAST_US = 2000  # so that their number is bounded, too
_LEAST_RETRY_MS = 50
Scored = tuple[list[np.ndarray], int]
Keep = Callable[[str], Callable[[], None]]


class _Ran(NamedTuple):
    """The outputs, the microseconds that passed meanwhile, those of CPU time, and the number of rows."""

    outputs: list[np.ndarray]
    score_us: int
    cpu_us: float
    rows: int


class _Job:
    """A prediction that waits or runs. `size`: what it counts in the queue; `release`: gives the model's pin back."""

    def __init__(self, number: int, request: ScoreRequest, plan: Plan, resident: Resident, deadline: float) -> None:
        self.name = str(number)
        self.request, self.plan, self.resident, self.deadline = request, plan, resident, deadline
        self.package, self.tenant = plan.version.package, request.tenant
        nbytes = request.ByteSize()
        # Nobody has read it yet: a row takes a byte at least, whatever `row_count` says.
        self.cost_us = resident.costs.estimate_us(min(request.row_count, nbytes))
        self.size = round(max(self.cost_us, nbytes / _BYTES_PER_US, _LEAST_US))
        self.has_begun = False
        self.done: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self.release: Callable[[], None]


class Lane:
    """See the module. `keep`: pins a package and gives the function that unpins it."""

    def __init__(self, keep: Keep, in_flight: InFlight = NOWHERE) -> None:
        self._keep = keep
        self._in_flight = in_flight
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[str, _Job] = {}
        self._queue = LoadQueue(at_once=1)
        self._room = Room(CAPACITY_US)
        self._numbers = count()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")

    async def predict(self, request: ScoreRequest, plan: Plan, resident: Resident, deadline: float) -> Scored:
        """The outputs as `LoadedModel.predict` gives them, and the microseconds that it took.

        Raises:
            InvalidFeaturesError: as `Plan.read` and the model do.
            OverloadedError: too much waits already.
            DeadlineError: the time was over before the end.
        """
        job = _Job(next(self._numbers), request, plan, resident, deadline)
        if not self._room.take(job.tenant, job.size):
            waiting_ms = (CAPACITY_US - self._room.free) // 1000
            raise OverloadedError("too many long predictions wait already", retry_after_ms=waiting_ms + _LEAST_RETRY_MS)
        job.release = self._keep(job.package)
        self._jobs[job.name] = job
        timer = self._loop.call_at(deadline, _too_late, job) if deadline != inf else None
        self._begin(self._queue.push(job.name, job.tenant, job.cost_us))
        try:
            return await job.done
        finally:
            if timer is not None:
                timer.cancel()
            if not job.has_begun:
                self._begin(self._leave(job, 0.0))

    def _begin(self, names: list[str]) -> None:
        while names:
            job = self._jobs[names.pop()]
            if job.deadline <= self._loop.time():
                _too_late(job)
            if job.done.done():
                names = self._leave(job, 0.0)
            else:
                job.has_begun = True
                self._thread.submit(self._run, job).add_done_callback(partial(self._ran, job))

    def _run(self, job: _Job) -> _Ran:
        """On the thread."""
        rows = job.plan.read(job.request)
        began, cpu_began = perf_counter_ns(), thread_time_ns()
        self._in_flight.enter(PREDICT, job.package)
        try:
            outputs = predict_unlocked(job.resident.model, rows)
        finally:
            self._in_flight.leave(PREDICT)
        cpu_us = (thread_time_ns() - cpu_began) / 1000
        return _Ran(outputs, (perf_counter_ns() - began) // 1000, cpu_us, len(rows.dense))

    def _ran(self, job: _Job, ran: Future[_Ran]) -> None:
        """On the thread, too."""
        self._loop.call_soon_threadsafe(self._finish, job, ran)

    def _finish(self, job: _Job, ran: Future[_Ran]) -> None:
        error = ran.exception()
        took_us = 0.0
        if error is None:
            took_us = ran.result().cpu_us
            job.resident.costs.learn(ran.result().rows, took_us)
        self._begin(self._leave(job, took_us))
        if job.done.done():  # nobody waits any more
            return
        if error is None:
            job.done.set_result(ran.result()[:2])
        else:
            job.done.set_exception(error)

    def _leave(self, job: _Job, took_us: float) -> list[str]:
        """It's over, or was given up. Returns who begins now; nobody where it has left before."""
        if self._jobs.pop(job.name, None) is None:
            return []
        self._room.give(job.tenant, job.size)
        job.release()
        return self._queue.finish(job.name, took_us)

    async def aclose(self) -> None:
        """Wait for the one that runs. Nobody may wait for another one any more."""
        await self._loop.run_in_executor(self._thread, lambda: None)
        self._thread.shutdown()


def _too_late(job: _Job) -> None:
    if not job.done.done():
        what = "was still running" if job.has_begun else "had not begun"
        job.done.set_exception(DeadlineError(f"a long prediction {what} when the deadline passed"))
