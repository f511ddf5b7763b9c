"""Scores requests: what is resident at once, what isn't when it has been loaded.

Contract: `score`, `score_batch` and `stream_score_batch` are handlers of `registry.front`. A request whose model is
resident is answered inside the handler, without a task. Otherwise one task waits for the model, under the request's
deadline; when the caller goes away it's cancelled, and the load goes on for the next one who asks.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from math import inf
from time import perf_counter_ns
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from registry.catalog import Catalog
from registry.errors import DeadlineError, InvalidRequestError, MessageTooLargeError
from registry.failure import Failure
from registry.front import Call
from registry.model import ModelRef, ModelVersion, check_name
from registry.status import failure_of
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch
from scoremesh.scoring.v1.scoring_pb2 import (
    RESIDENCY_HIT,
    ScoreBatchRequest,
    ScoreRequest,
    StreamScoreBatchRequest,
)
from scorer.batch import MAX_BATCH_ITEMS, PartSink, WholeSink
from scorer.cache import ModelCache
from scorer.engine import LoadedModel
from scorer.plan import Plan, Spent

_PLANS = 100_000
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_NO_LOADING = (0, 0, 0)
_RETRY_AFTER_MS = 100
_MAX_REQUEST_ID_BYTES = 128
M = TypeVar("M", bound=Message)
Answer = Callable[[bytes], None]
Refuse = Callable[[Failure], None]


class ScoringService:
    """See the module. `member_id`: put into each answer."""

    def __init__(self, catalog: Catalog, cache: ModelCache, member_id: str) -> None:
        self._catalog = catalog
        self._cache = cache
        self._member_id = member_id
        self._plans: OrderedDict[tuple[str, str, str], Plan] = OrderedDict()
        self._waiting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def score(self, call: Call) -> None:
        """ScoringService.Score."""
        request = _parse(ScoreRequest, call.payload)
        task = self._score(request, call.deadline, call.respond, call.fail)
        if task is not None:
            call.on_cancel = lambda: _cancel([task])

    def score_batch(self, call: Call) -> None:
        """ScoringService.ScoreBatch."""
        items, _ = _parse_batch(ScoreBatchRequest, call.payload)
        self._score_all(call, items, WholeSink(call, len(items)), [])

    def stream_score_batch(self, call: Call) -> None:
        """ScoringService.StreamScoreBatch."""
        items, timeout_ms = _parse_batch(StreamScoreBatchRequest, call.payload)
        if timeout_ms and len(timeout_ms) != len(items):
            raise InvalidRequestError(f"timeout_ms has {len(timeout_ms)} entries for {len(items)} items")
        self._score_all(call, items, PartSink(call, len(items)), timeout_ms)

    def _score_all(
        self, call: Call, items: Sequence[ScoreRequest | None], sink: WholeSink | PartSink, timeout_ms: Sequence[int]
    ) -> None:
        if not 1 <= len(items) <= MAX_BATCH_ITEMS:
            raise InvalidRequestError(f"a batch has 1 to {MAX_BATCH_ITEMS} items, not {len(items)}")
        now = self._loop.time()
        tasks = []
        for index, request in enumerate(items):
            left_ms = timeout_ms[index] if timeout_ms else 0
            deadline = min(call.deadline, now + left_ms / 1000) if left_ms else call.deadline
            task = self._score(request, deadline, *sink.ends(index))
            if task is not None:
                tasks.append(task)
        sink.flush()
        if tasks:
            call.on_cancel = lambda: _cancel(tasks)

    def _score(
        self, request: ScoreRequest | None, deadline: float, answer: Answer, refuse: Refuse
    ) -> asyncio.Task[None] | None:
        """Answer or refuse at once, or return the task that will. None is a request that can't be read."""
        try:
            request = _readable(request)
            ref = ModelRef(request.tenant, request.model)
            version = self._catalog.lookup(ref, request.version, request.alias)
            resident = self._cache.peek(version.digest) if version is not None else None
            if resident is not None and version is not None:
                answer(self._predict(request, self._plan(ref, version), resident.model, RESIDENCY_HIT, _NO_LOADING))
                return None
            check_name("tenant", request.tenant)
            check_name("model", request.model)
        except Exception as error:
            refuse(failure_of(error))
            return None
        return self._wait(self._score_cold(request, ref, deadline, answer, refuse))

    async def _score_cold(
        self, request: ScoreRequest, ref: ModelRef, deadline: float, answer: Answer, refuse: Refuse
    ) -> None:
        began = perf_counter_ns()
        waiting_for = "the catalog had not yet answered"
        try:
            async with asyncio.timeout_at(deadline if deadline != inf else None):
                version = await self._catalog.resolve(ref, request.version, request.alias)
                waiting_for = "the model was still being loaded, which goes on,"
                hit = self._cache.peek(version.digest) is not None
                async with self._cache.borrow(version) as resident:
                    waited_us = (perf_counter_ns() - began) // 1000
                    residency = RESIDENCY_HIT if hit else resident.residency
                    loading = (waited_us, 0, 0) if hit else (waited_us, resident.fetch_us, resident.load_us)
                    answer(self._predict(request, self._plan(ref, version), resident.model, residency, loading))
        except TimeoutError:
            text = f"{waiting_for} when the deadline passed"
            refuse(failure_of(DeadlineError(text, retry_after_ms=_RETRY_AFTER_MS)))
        except Exception as error:
            refuse(failure_of(error))

    def _predict(
        self, request: ScoreRequest, plan: Plan, model: LoadedModel, residency: int, loading: tuple[int, int, int]
    ) -> bytes:
        """`loading`: microseconds waited, fetched and loaded."""
        rows = plan.read(request)
        began = perf_counter_ns()
        outputs = model.predict(rows)
        score_us = (perf_counter_ns() - began) // 1000
        answer = plan.write(request, outputs, residency, Spent(*loading, score_us))
        if len(answer) > MAX_ANSWER_BYTES:
            raise MessageTooLargeError(
                f"the answer has {len(answer)} bytes, over the limit of {MAX_ANSWER_BYTES}; send fewer rows a request"
            )
        return answer

    def _plan(self, ref: ModelRef, version: ModelVersion) -> Plan:
        key = (ref.tenant, ref.model, version.version)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = Plan(version, self._member_id)
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    def _wait(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    async def aclose(self) -> None:
        """Cancel what still waits for a model."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


def _parse(kind: type[M], payload: bytes) -> M:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidRequestError(f"the bytes are not a {kind.DESCRIPTOR.name}") from error


def _parse_batch(
    kind: type[ScoreBatchRequest | StreamScoreBatchRequest], payload: bytes
) -> tuple[Sequence[ScoreRequest | None], Sequence[int]]:
    """The items of a batch and their times; None for an item that can't be read, so that it fails alone. A router puts
    requests of many callers into one batch, and reads no more of each than where it goes.
    """
    try:
        batch = kind.FromString(payload)
    except DecodeError:
        raw = _parse(RawBatch, payload)
        return [_parse_item(item) for item in raw.items], raw.timeout_ms
    return batch.items, batch.timeout_ms if isinstance(batch, StreamScoreBatchRequest) else ()


def _parse_item(payload: bytes) -> ScoreRequest | None:
    try:
        return ScoreRequest.FromString(payload)
    except DecodeError:
        return None


def _readable(request: ScoreRequest | None) -> ScoreRequest:
    """Checks what needs no model."""
    if request is None:
        raise InvalidRequestError("the bytes are not a ScoreRequest")
    if request.request_id and len(request.request_id.encode()) > _MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(f"request_id is over {_MAX_REQUEST_ID_BYTES} bytes")
    return request
