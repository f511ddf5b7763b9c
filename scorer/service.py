"""Scores requests: what is resident at once, what isn't when it has been loaded.

Contract: `score`, `score_batch` and `stream_score_batch` are handlers of `registry.front`. A request whose model is
resident is answered inside the handler, without a task. Otherwise one task waits for the model, under the request's
deadline; when the caller goes away it's cancelled, and the load goes on for the next one who asks.

Where a rollout runs beside an alias, `scorer.trial` says which version is tried and `scorer.shadow` repeats what was
answered; a request of a model without one pays one test for it. Nobody waits for a canary: as long as it isn't in
memory, the alias's version answers.

What waits for the same model is predicted together where that is cheaper (`scorer.answers`): the items of a batch when
all have been looked at, `Score` calls at the end of the turn of the loop in which they came. Neither waits for more to
come. A prediction that is thought to take long (`scorer.cost_curve`) has a task, which waits for `scorer.lane`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Container, Sequence
from math import inf
from time import perf_counter_ns

from registry.catalog import Catalog
from registry.errors import DeadlineError, InvalidRequestError
from registry.front import Call
from registry.model import ModelRef, ModelVersion, check_name
from registry.status import failure_of
from scoremesh.scoring.v1.scoring_pb2 import (
    RESIDENCY_HIT,
    ScoreBatchRequest,
    ScoreRequest,
    StreamScoreBatchRequest,
)
from scorer.answers import Answers, Waiting
from scorer.batch import MAX_BATCH_ITEMS, LoneSink, PartSink, Sink, WholeSink
from scorer.cache import ModelCache, Resident
from scorer.explain import Explainer
from scorer.in_flight import NOWHERE, InFlight
from scorer.join import Gathering
from scorer.lane import Lane, Scored
from scorer.plan import Plan, Spent
from scorer.requests import parse, parse_batch, readable
from scorer.rollout_tally import Tallies
from scorer.shadow import Shadows
from scorer.standby import Standby
from scorer.tasks import Tasks, cancel
from scorer.trial import Trial
from scorer.turn import Turn

_PLANS = 100_000
_RETRY_AFTER_MS = 100
_log = logging.getLogger(__name__)


class ScoringService:
    """See the module. `member_id`: put into each answer."""

    def __init__(self, catalog: Catalog, cache: ModelCache, member_id: str, in_flight: InFlight = NOWHERE) -> None:
        self._answers = Answers(in_flight)
        self._lane = Lane(cache.keep, in_flight)
        self._batch: Gathering[Waiting] = Gathering()  # of the batch that is being looked at
        self._turn = Turn(self._answers, cache.keep).gathering  # of `Score` calls
        self._catalog = catalog
        self._cache = cache
        self._member_id = member_id
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self._waiting = Tasks()
        self._explainer = Explainer(catalog, cache, self._lane, self._plan)
        self._loop = asyncio.get_running_loop()
        self._begun = 0
        self._standby = Standby(cache)
        self._shadows = Shadows(cache, self._standby, self._plan, lambda: self._begun, in_flight)
        self.tallies = Tallies()

    def score(self, call: Call) -> None:
        """ScoringService.Score."""
        self._begun += 1
        request = parse(ScoreRequest, call.payload)
        task = self._score(request, call.deadline, LoneSink(call), 0, self._turn)
        if task is not None:
            call.on_cancel = lambda: cancel([task])

    def score_batch(self, call: Call) -> None:
        """ScoringService.ScoreBatch."""
        items, _ = parse_batch(ScoreBatchRequest, call.payload)
        self._score_all(call, items, WholeSink(call, len(items)), [])

    def stream_score_batch(self, call: Call) -> None:
        """ScoringService.StreamScoreBatch."""
        items, timeout_ms = parse_batch(StreamScoreBatchRequest, call.payload)
        if timeout_ms and len(timeout_ms) != len(items):
            raise InvalidRequestError(f"timeout_ms has {len(timeout_ms)} entries for {len(items)} items")
        self._score_all(call, items, PartSink(call, len(items)), timeout_ms)

    def _score_all(
        self, call: Call, items: Sequence[ScoreRequest | None], sink: WholeSink | PartSink, timeout_ms: Sequence[int]
    ) -> None:
        if not 1 <= len(items) <= MAX_BATCH_ITEMS:
            raise InvalidRequestError(f"a batch has 1 to {MAX_BATCH_ITEMS} items, not {len(items)}")
        self._begun += 1
        now = self._loop.time()
        tasks = []
        for index, request in enumerate(items):
            left_ms = timeout_ms[index] if timeout_ms else 0
            deadline = min(call.deadline, now + left_ms / 1000) if left_ms else call.deadline
            task = self._score(request, deadline, sink, index, self._batch)
            if task is not None:
                tasks.append(task)
        self._answers.answer(self._batch.take())
        sink.flush()
        if tasks:
            call.on_cancel = lambda: cancel(tasks)

    def _score(
        self, request: ScoreRequest | None, deadline: float, sink: Sink, index: int, gathering: Gathering[Waiting]
    ) -> asyncio.Task[None] | None:
        """Answer or refuse at once, leave it to whoever takes what is gathered, or return the task that will. None is
        a request that can't be read.
        """
        try:
            request = readable(request)
            ref = ModelRef(request.tenant, request.model)
            if request.contributions:
                return self._explain(request, deadline, sink, index)
            version = self._catalog.lookup(ref, request.version, request.alias)
            if version is not None:
                if version.rollout is not None:
                    return self._score_beside(request, self._trial(request, version), deadline, sink, index)
                resident = self._cache.peek(version.package)
                if resident is not None:
                    costs = resident.costs
                    if request.row_count > costs.short_rows:
                        return self._waiting.begin(self._score_cold(request, Trial(version), deadline, sink, index))
                    plan = self._plan(version, resident)
                    if costs.batch_from:
                        gathering.add(version.package, (request, plan, resident, sink, index))
                    else:
                        sink.answer(index, self._answers.alone(request, plan, resident))
                    return None
            check_name("tenant", request.tenant)
            check_name("model", request.model)
        except Exception as error:
            sink.refuse(index, failure_of(error))
            return None
        return self._waiting.begin(self._score_cold(request, ref, deadline, sink, index))

    def _explain(self, request: ScoreRequest, deadline: float, sink: Sink, index: int) -> asyncio.Task[None]:
        check_name("tenant", request.tenant)
        check_name("model", request.model)
        return self._waiting.begin(self._explainer.answer(request, deadline, sink, index))

    def _score_beside(
        self, request: ScoreRequest, trial: Trial, deadline: float, sink: Sink, index: int
    ) -> asyncio.Task[None] | None:
        """As `_score`, for an alias that a rollout runs beside."""
        while True:
            resident = self._find(trial)
            if resident is None or request.row_count > resident.costs.short_rows:
                return self._waiting.begin(self._score_cold(request, trial, deadline, sink, index))
            try:
                plan = self._plan(trial.version, resident)
                scored = self._answers.predict(plan.read(request), resident, plan.version.package)
                self._answer(request, trial, plan, scored, RESIDENCY_HIT, Spent(), sink, index)
            except Exception as error:
                if trial.failed(error):
                    continue
                sink.refuse(index, failure_of(error))
            return None

    def _find(self, trial: Trial) -> Resident | None:
        """The version to be tried, if it's in memory; a canary that isn't steps aside, and is brought in meanwhile."""
        resident = self._cache.peek(trial.version.package)
        if resident is None and trial.is_canary:
            trial.step_aside(broken=self._standby.bring(trial.version))
            resident = self._cache.peek(trial.version.package)
        return resident

    def _trial(self, request: ScoreRequest, version: ModelVersion) -> Trial:
        if version.rollout is None:
            return Trial(version)
        return Trial(version, self.tallies.of(version, version.rollout), request.entity_key)

    async def _score_cold(
        self, request: ScoreRequest, asked: ModelRef | Trial, deadline: float, sink: Sink, index: int
    ) -> None:
        """`asked`: the model, or what was begun with it."""
        began = perf_counter_ns()
        waiting_for = "the catalog had not yet answered"
        try:
            if isinstance(asked, ModelRef):
                async with _limit(deadline):
                    version = await self._catalog.resolve(asked, request.version, request.alias)
                asked = self._trial(request, version)
            waiting_for = "the model was still being loaded, which goes on,"
            while not await self._try_cold(request, asked, deadline, began, sink, index):
                pass
        except TimeoutError:
            text = f"{waiting_for} when the deadline passed"
            sink.refuse(index, failure_of(DeadlineError(text, retry_after_ms=_RETRY_AFTER_MS)))
        except Exception as error:
            sink.refuse(index, failure_of(error))

    async def _try_cold(
        self, request: ScoreRequest, trial: Trial, deadline: float, began: int, sink: Sink, index: int
    ) -> bool:
        """Wait for the version to be tried, and answer. False when it failed and another one is to be tried."""
        hit = self._find(trial) is not None
        try:
            ref = ModelRef(request.tenant, request.model)
            async with contextlib.AsyncExitStack() as held:
                async with _limit(deadline):
                    borrowed = self._cache.borrow(trial.version, ref=ref, deadline=deadline)
                    resident = await held.enter_async_context(borrowed)
                plan = self._plan(trial.version, resident)
                scored = await self._predict(request, plan, resident, deadline)
                wait_us = (perf_counter_ns() - began) // 1000 - scored[1]
                if hit:
                    self._answer(request, trial, plan, scored, RESIDENCY_HIT, Spent(wait_us), sink, index)
                else:
                    load = (resident.fetch_us, resident.load_us, 0, resident.verify_us, resident.queue_us)
                    self._answer(request, trial, plan, scored, resident.residency, Spent(wait_us, *load), sink, index)
        except Exception as error:
            if trial.failed(error):
                return False
            raise
        return True

    async def _predict(self, request: ScoreRequest, plan: Plan, resident: Resident, deadline: float) -> Scored:
        """At once, or on the thread for what takes long."""
        if request.row_count > resident.costs.short_rows:
            return await self._lane.predict(request, plan, resident, deadline)
        return self._answers.predict(plan.read(request), resident, plan.version.package)

    def _answer(
        self,
        request: ScoreRequest,
        trial: Trial,
        plan: Plan,
        scored: Scored,
        residency: int,
        spent: Spent,
        sink: Sink,
        index: int,
    ) -> None:
        """Answer with the version to be tried; then count, and repeat with the shadow, what the caller has already.
        `spent`: but for scoring.
        """
        trial.outputs, score_us = scored
        sink.answer(index, plan.write(request, trial.outputs, residency, spent._replace(score_us=score_us)))
        try:
            self._note(request, trial, score_us)
        except Exception:  # The caller has an answer; a second one would be wrong.
            _log.exception("can't count an answer of a rollout")

    def _note(self, request: ScoreRequest, trial: Trial, score_us: int) -> None:
        if trial.tally is None:
            return
        trial.answered()
        rollout = trial.version.rollout
        if rollout is not None and rollout.shadow is not None and trial.is_stable:
            self._shadows.offer(request, rollout.shadow, trial.outputs, score_us, trial.tally.shadow)

    def _plan(self, version: ModelVersion, resident: Resident) -> Plan:
        key = (version.package, version.version)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = Plan(version, resident.schema, self._member_id)
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    def forget(self, tenant: str, packages: Container[str]) -> None:
        """Drop what is held of a tenant's models, and of these packages."""
        self._shadows.forget(tenant, packages)
        self._standby.forget(tenant, packages)
        self._explainer.forget(tenant, packages)
        self.tallies.forget(tenant, packages)
        for key, plan in list(self._plans.items()):
            if plan.version.tenant == tenant or key[0] in packages:
                del self._plans[key]

    async def aclose(self) -> None:
        """Cancel what still waits for a model, and what is still to be repeated."""
        self._shadows.close()
        await self._standby.aclose()
        await self._waiting.aclose()
        await self._lane.aclose()


def _limit(deadline: float) -> asyncio.Timeout:
    return asyncio.timeout_at(deadline if deadline != inf else None)
