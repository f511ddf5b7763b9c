"""Predicts on the event loop's thread and answers: one request, or several for one model together.

Contract: each request that is joined with others gets what it would get alone: its own failure, its own choice of
outputs, its own limit of bytes. The numbers are equal to the last bit where the engine's are for any number of rows
(LightGBM, XGBoost); ONNX Runtime's may differ in the last digits of float32, as they do between one row and two.
Whatever a joined prediction raises, each request is then predicted alone, so that none fails for another one's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter_ns, thread_time_ns

import numpy as np

from registry.status import failure_of
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_HIT, ScoreRequest
from scorer.batch import Sink
from scorer.cost_curve import LONG_US
from scorer.engine import Rows
from scorer.in_flight import LOOP, NOWHERE, InFlight
from scorer.join import join_rows
from scorer.plan import Plan, spent_scoring
from scorer.resident import Resident

# A request for a model in memory, and the sink and index of its answer. A plain tuple, since most are joined with none.
Waiting = tuple[ScoreRequest, Plan, Resident, Sink, int]


def joining_pays(group: Sequence[Waiting]) -> bool:
    """Whether one prediction for all requests for a model is cheaper than one for each."""
    if len(group) == 1:
        return False
    least = group[0][2].costs.batch_from
    return len(group) >= least or sum(request.row_count for request, *_ in group) >= least


class Answers:
    """See the module."""

    def __init__(self, in_flight: InFlight = NOWHERE) -> None:
        self._in_flight = in_flight

    def predict(self, rows: Rows, resident: Resident, package: str) -> tuple[list[np.ndarray], int]:
        """The outputs, and the microseconds that they took."""
        costs = resident.costs
        cpu_began = thread_time_ns() if costs.is_doubtful else 0
        began = perf_counter_ns()
        self._in_flight.enter(LOOP, package)
        try:
            outputs = resident.model.predict(rows)
        finally:
            self._in_flight.leave(LOOP)
        score_us = (perf_counter_ns() - began) // 1000
        if cpu_began:
            costs.check(len(rows.dense), (thread_time_ns() - cpu_began) / 1e3)
        elif score_us > LONG_US:
            costs.is_doubtful = True
        return outputs, score_us

    def alone(self, request: ScoreRequest, plan: Plan, resident: Resident) -> bytes:
        """The answer to a request for a model in memory."""
        outputs, score_us = self.predict(plan.read(request), resident, plan.version.package)
        return plan.write(request, outputs, RESIDENCY_HIT, spent_scoring(score_us))

    def answer(self, groups: Iterable[list[Waiting]]) -> None:
        """Answer or refuse all, together where it pays. `groups`: each of one model's."""
        for group in groups:
            if joining_pays(group):
                self._together(group)
            else:
                self._each(group)

    def _each(self, group: Iterable[Waiting]) -> None:
        for request, plan, resident, sink, index in group:
            try:
                sink.answer(index, self.alone(request, plan, resident))
            except Exception as error:
                sink.refuse(index, failure_of(error))

    def _read(self, group: list[Waiting]) -> tuple[list[Waiting], Rows | None, list[int]]:
        """Those that can be read, the rows of all (None without any), and how many each has; the others are refused."""
        plain = group[0][1].read_all([each[0] for each in group])
        if plain is not None:
            return group, *plain
        waiting, parts = [], []
        for each in group:
            request, plan, _resident, sink, index = each
            try:
                parts.append(plan.read(request))
            except Exception as error:
                sink.refuse(index, failure_of(error))
            else:
                waiting.append(each)
        return waiting, join_rows(parts) if parts else None, [len(part.dense) for part in parts]

    def _together(self, group: list[Waiting]) -> None:
        _request, plan, resident, _sink, _index = group[0]
        group, rows, counts = self._read(group)
        if rows is None:
            return
        try:
            outputs, score_us = self.predict(rows, resident, plan.version.package)
            spent, start = spent_scoring(score_us), 0
            write = plan.writer(outputs, RESIDENCY_HIT, spent)
        except Exception:  # for the rows of one of them, or of all: each finds out alone
            self._each(group)
            return
        for (request, own_plan, _resident, sink, index), count in zip(group, counts, strict=True):
            end = start + count
            try:
                if own_plan is not plan:  # the same bytes under another version's name
                    plan, write = own_plan, own_plan.writer(outputs, RESIDENCY_HIT, spent)
                sink.answer(index, write(request, start, end))
            except Exception as error:
                sink.refuse(index, failure_of(error))
            start = end
