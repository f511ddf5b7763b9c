"""Scores once more with a shadow version what the alias's version answered, when the loop has nothing else to do.

Contract: `offer` takes a request whose answer has been given away, and never waits; when too much is queued, the
request is skipped and counted so. All that it costs a caller is a copy of the request and of the scores: they may be a
part of a large batch that would stay in memory with them. No caller waits for a shadow but one that comes while a
shadow's predict runs. So after each predict nine times its duration belongs to callers alone, and a request that takes
over `LONG_US` is skipped, too: where the alias's version took so long, and where the shadow would (`scorer.pace`).

How it sees that nobody waits: a timer that is due at once runs after all that the sockets had to say in that turn of
the loop (asyncio puts what timers call behind what sockets call). If no request has begun between setting the timer and
its firing, none was waiting; else it looks again one turn later, so that the answers to those requests go out first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Container
from math import isfinite
from time import perf_counter
from typing import NamedTuple

import numpy as np

from registry.errors import ScoreMeshError
from registry.model import ModelVersion
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest
from scorer.cache import ModelCache, Resident
from scorer.in_flight import LOOP, NOWHERE, InFlight
from scorer.pace import Pace
from scorer.plan import Plan
from scorer.rollout_tally import ShadowTally
from scorer.standby import Standby
from scorer.trial import score_column

CAPACITY_REQUESTS = 256
CAPACITY_BYTES = 16 * 1024 * 1024
LONG_US = 5_000
_REST = 9
_PACES = 20_000
_log = logging.getLogger(__name__)
Plans = Callable[[ModelVersion, Resident], Plan]


class _Repeat(NamedTuple):
    """`scores`: what the alias's version said, one number a row."""

    tenant: str
    payload: bytes
    shadow: ModelVersion
    scores: np.ndarray
    tally: ShadowTally

    @property
    def nbytes(self) -> int:
        return len(self.payload) + self.scores.nbytes


class Shadows:
    """See the module. `begun`: how many requests have begun so far."""

    def __init__(
        self,
        cache: ModelCache,
        standby: Standby,
        plans: Plans,
        begun: Callable[[], int],
        in_flight: InFlight = NOWHERE,
    ) -> None:
        self._in_flight = in_flight
        self._cache = cache
        self._standby = standby
        self._plans = plans
        self._begun = begun
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Repeat] = deque()
        self._queued_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0
        self._paces: OrderedDict[tuple[str, str], Pace] = OrderedDict()  # by tenant and package

    def offer(
        self, request: ScoreRequest, shadow: ModelVersion, outputs: list[np.ndarray], score_us: int, tally: ShadowTally
    ) -> None:
        """Repeat a request with `shadow` some time. `outputs`, `score_us`: of the alias's version."""
        if len(self._queue) >= CAPACITY_REQUESTS or self._queued_bytes >= CAPACITY_BYTES or score_us > LONG_US:
            tally.skipped += 1
            return
        scores = score_column(outputs).copy()
        repeat = _Repeat(request.tenant, request.SerializeToString(), shadow, scores, tally)
        self._queue.append(repeat)
        self._queued_bytes += repeat.nbytes
        if self._timer is None:
            self._look()

    def _look(self) -> None:
        if not self._queue:
            self._timer = None
            return
        self._seen = self._begun()
        self._timer = self._loop.call_later(0, self._step)

    def _step(self) -> None:
        if not self._queue or self._begun() != self._seen:
            self._look()
            return
        repeat = self._queue.popleft()
        self._queued_bytes -= repeat.nbytes
        began = perf_counter()
        self._repeat(repeat)
        self._timer = self._loop.call_later(_REST * (perf_counter() - began), self._look)

    def _repeat(self, repeat: _Repeat) -> None:
        resident = self._cache.peek(repeat.shadow.package)
        if resident is None:
            if self._standby.bring(repeat.shadow):
                repeat.tally.failed()
            else:
                repeat.tally.skipped += 1
            return
        pace = self._pace_of(repeat.shadow)
        if not pace.allows(len(repeat.scores), self._loop.time()):
            repeat.tally.skipped += 1
            return
        began = perf_counter()
        self._compare(repeat, resident)
        pace.saw(len(repeat.scores), (perf_counter() - began) * 1e6)

    def _pace_of(self, shadow: ModelVersion) -> Pace:
        key = (shadow.tenant, shadow.package)
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = Pace(LONG_US)
            if len(self._paces) > _PACES:
                self._paces.popitem(last=False)
        return pace

    def _compare(self, repeat: _Repeat, resident: Resident) -> None:
        try:
            rows = self._plans(repeat.shadow, resident).read(ScoreRequest.FromString(repeat.payload))
            self._in_flight.enter(LOOP, repeat.shadow.package)
            found = difference(repeat.scores, score_column(resident.model.predict(rows)))
        except Exception as error:
            if not isinstance(error, ScoreMeshError):
                _log.warning("shadow version %s can't score: %r", repeat.shadow.version, error)
            repeat.tally.failed()
            return
        finally:
            self._in_flight.leave(LOOP)
        if found is None:
            repeat.tally.failed()
        else:
            repeat.tally.compared(*found)

    def forget(self, tenant: str, packages: Container[str]) -> None:
        """Drop what is queued and known for a tenant's models, and for these packages."""
        kept = [
            r for r in self._queue if tenant not in {r.tenant, r.shadow.tenant} and r.shadow.package not in packages
        ]
        self._queue = deque(kept)
        self._queued_bytes = sum(repeat.nbytes for repeat in kept)
        for owner, package in list(self._paces):
            if owner == tenant or package in packages:
                del self._paces[owner, package]

    def close(self) -> None:
        """Drop what is queued."""
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()


def difference(ours: np.ndarray, others: np.ndarray) -> tuple[float, float, int] | None:
    """Sum, maximum and number of the absolute differences of two columns of scores; equal infinities and NaN beside NaN
    differ by 0. None where they can't be compared: other shapes, or only one of a pair is finite.
    """
    if ours.shape != others.shape:
        return None
    same = (ours == others) | (np.isnan(ours) & np.isnan(others))
    if same.all():
        return 0.0, 0.0, len(ours)
    apart = np.abs(ours[~same] - others[~same])
    total = float(apart.sum())
    return (total, float(apart.max()), len(ours)) if isfinite(total) else None
