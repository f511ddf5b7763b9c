"""Answers requests that also want contributions: what each input adds to a score.

Contract: the answer is of one version, its score and its contributions alike: that which was asked for, or which the
alias means; a rollout beside it isn't asked and counts nothing. The version is loaded a second time from what admission
kept for this (see `registry.manifest.Manifest.annotated`), as a package of its own under the same budget, unless the
engine needs no more than scorers have anyway (XGBoost). Both are computed on the thread for long predictions. What is
to be loaded stands in the manifest alone: it's read once for a version that is explained, and its digest remembered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container
from math import inf
from time import perf_counter_ns
from typing import TypeVar

import numpy as np

from registry.catalog import Catalog
from registry.errors import DeadlineError, InvalidRequestError, MessageTooLargeError, NotExplainableError
from registry.model import ModelRef, ModelVersion, OutputSchema, Runtime
from registry.status import failure_of
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_HIT, ScoreRequest
from scorer.batch import Sink
from scorer.cache import ModelCache
from scorer.contributions import Contributions, contributions_of, encode
from scorer.cost_curve import CostCurve
from scorer.engine import LoadedModel, Rows, predict_unlocked
from scorer.lane import Lane
from scorer.plan import MAX_ANSWER_BYTES, Plan, Spent
from scorer.resident import Resident

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
MOST_ROWS = 256
_REMEMBERED = 10_000
_RETRY_AFTER_MS = 100
# A first guess, for the fairness between tenants: walking all paths of a tree instead of one.
_TIMES_A_PREDICTION, _LEAST_ROW_US = 20.0, 200.0


class Explainer:
    """See the module. `plan`: how a version's requests are read and answered."""

    def __init__(
        self, catalog: Catalog, cache: ModelCache, lane: Lane, plan: Callable[[ModelVersion, Resident], Plan]
    ) -> None:
        self._catalog, self._cache, self._lane, self._plan = catalog, cache, lane, plan
        # By who is asked for, the version, and the package of what scorers load.
        self._annotated: OrderedDict[tuple[ModelRef, str, str], ModelVersion] = OrderedDict()
        self._costs: OrderedDict[str, CostCurve] = OrderedDict()

    async def answer(self, request: ScoreRequest, deadline: float, sink: Sink, index: int) -> None:
        """Answer or refuse a request."""
        try:
            async with asyncio.timeout_at(deadline if deadline != inf else None):
                sink.answer(index, await self._explain(request, deadline))
        except TimeoutError:
            text = "the scores were not explained when the deadline passed"
            sink.refuse(index, failure_of(DeadlineError(text, retry_after_ms=_RETRY_AFTER_MS)))
        except Exception as error:
            sink.refuse(index, failure_of(error))

    async def _explain(self, request: ScoreRequest, deadline: float) -> bytes:
        began = perf_counter_ns()
        if request.row_count > MOST_ROWS:
            raise InvalidRequestError(f"contributions are for at most {MOST_ROWS} rows a request")
        ref = ModelRef(request.tenant, request.model)
        version = await self._annotated_version(ref, request)
        hit = self._cache.peek(version.package) is not None
        async with self._cache.borrow(version, ref=ref, deadline=deadline) as resident:
            plan = self._plan(version, resident)
            explained = _Explained(resident.model, resident.schema.outputs[0])
            explaining = resident._replace(model=explained, costs=self._curve(version.package, resident))
            outputs, score_us = await self._lane.predict(request, plan, explaining, deadline)
        wait_us = (perf_counter_ns() - began) // 1000 - score_us
        spent, residency = Spent(wait_us, score_us=score_us), int(RESIDENCY_HIT)
        if not hit:
            load = (resident.fetch_us, resident.load_us, score_us, resident.verify_us, resident.queue_us)
            spent, residency = Spent(wait_us, *load), resident.residency
        return _whole(plan.write(request, outputs, residency, spent), explained.found)

    async def _annotated_version(self, ref: ModelRef, request: ScoreRequest) -> ModelVersion:
        version = await self._catalog.resolve(ref, request.version, request.alias)
        if version.runtime is Runtime.ONNX:
            raise NotExplainableError(
                "ONNX models can't tell what each input adds to a score; LightGBM and XGBoost can"
            )
        # Not by package alone: of two versions with the same trees one may have been published with its counts.
        key = (ref, version.version, version.package)
        annotated = self._annotated.get(key)
        if annotated is None:
            annotated = await self._read(ref, version)
            _keep(self._annotated, key, annotated)
        return annotated

    async def _read(self, ref: ModelRef, version: ModelVersion) -> ModelVersion:
        manifest = await self._catalog.read_manifest(ref, version.version)
        annotated = manifest.to_annotated() if manifest is not None else None
        if annotated is None:
            raise NotExplainableError(
                f"version {version.version} of model {ref} is stored without what contributions are computed from: its "
                "file doesn't say how many rows came by each node, or it was published before that was kept and must "
                "be published again"
            )
        return annotated

    def forget(self, tenant: str, packages: Container[str]) -> None:
        """Drop what is held of a tenant's models, and of these packages."""
        for key, version in list(self._annotated.items()):
            if tenant in (version.tenant, key[0].tenant) or key[2] in packages or version.package in packages:
                del self._annotated[key]
                self._costs.pop(version.package, None)

    def _curve(self, package: str, resident: Resident) -> CostCurve:
        curve = self._costs.get(package)
        if curve is None:
            row_us = max(resident.costs.one_us * _TIMES_A_PREDICTION, _LEAST_ROW_US)
            curve = CostCurve(row_us, 0.0, row_us)
            _keep(self._costs, package, curve)
        return curve


class _Explained:
    """A loaded model that explains what it predicts, for `scorer.lane`. `found`: of the last prediction."""

    resident_bytes = 0

    def __init__(self, model: LoadedModel, output: OutputSchema) -> None:
        self._model, self._output = model, output
        self.found: list[Contributions] = []

    def predict(self, rows: Rows) -> list[np.ndarray]:
        self.found = contributions_of(self._model, rows, self._output)
        return predict_unlocked(self._model, rows)

    predict_unlocked = predict

    def close(self) -> None:
        raise AssertionError("it is the cache's")


def _whole(scores: bytes, found: list[Contributions]) -> bytes:
    answer = scores + encode(found)
    if len(answer) > MAX_ANSWER_BYTES:
        raise MessageTooLargeError(
            f"the answer has {len(answer)} bytes, over the limit of {MAX_ANSWER_BYTES}; send fewer rows a request"
        )
    return answer


def _keep(held: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    held[key] = value
    if len(held) > _REMEMBERED:
        held.popitem(last=False)
