"""Requests as bytes, put together of parts that are made once: a request costs a concatenation. Pure.

A protobuf message is the concatenation of its fields, so the bytes that name a model and the bytes that hold rows are
made apart. Rows are drawn from a standard normal distribution: `POOL` different ones for each number of features and
of rows, so that neither a branch predictor nor a cache of answers sees one row again and again.

Sources: protobuf.dev, "Encoding"; Open Inference Protocol v2 (kserve/open-inference-protocol, inference_grpc).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from ops.load.spec import LoadModel, LoadSpec, Oip, Target
from scorer.wire import field, number_field

POOL = 64
PATHS = {
    Target.SCORE: b"/scoremesh.scoring.v1.ScoringService/Score",
    Target.BATCH: b"/scoremesh.scoring.v1.ScoringService/ScoreBatch",
    Target.OIP: b"/inference.GRPCInferenceService/ModelInfer",
}
_DTYPES = {"FP32": "<f4", "FP64": "<f8"}
_V = TypeVar("_V")


class RowPool(Generic[_V]):
    """Rows that were made once, a few of each shape, each as what `make` makes of a float64 array (rows, features)."""

    def __init__(self, seed: int, make: Callable[[np.ndarray], _V]) -> None:
        self._random = np.random.default_rng(seed)
        self._make = make
        self._pools: dict[tuple[int, int], list[_V]] = {}
        self._turn = 0

    def take(self, rows: int, features: int) -> _V:
        """The next ones of this shape."""
        self._turn = (self._turn + 1) % POOL
        pool = self._pools.get((rows, features))
        if pool is None:
            pool = [self._make(self._random.standard_normal((rows, features))) for _ in range(POOL)]
            self._pools[rows, features] = pool
        return pool[self._turn]


class Requests:
    """`one(place, rows)`: a request for a model of `models`. `many(items)`: several in one call."""

    def __init__(self, spec: LoadSpec) -> None:
        oip = spec.oip if spec.target is Target.OIP else None
        self._heads = [_head(model) if oip is None else _oip_head(model, oip) for model in spec.models]
        self._widths = [model.features for model in spec.models]
        self._pool = RowPool(spec.seed, _body if oip is None else lambda rows: _oip_body(rows, oip))

    def one(self, place: int, rows: int) -> bytes:
        """See the class."""
        return self._heads[place] + self._pool.take(rows, self._widths[place])

    def many(self, items: Sequence[tuple[int, int]]) -> bytes:
        """The items of a ScoreBatchRequest."""
        return b"".join([field(1, self.one(place, rows)) for place, rows in items])


def _head(model: LoadModel) -> bytes:
    return field(1, model.tenant.encode()) + field(2, model.model.encode())


def _body(rows: np.ndarray) -> bytes:
    return number_field(5, len(rows)) + field(7, rows.tobytes())


def _oip_head(model: LoadModel, oip: Oip) -> bytes:
    """The protocol knows no tenants: a model that has one is called by both names."""
    name = f"{model.tenant}.{model.model}" if model.tenant else model.model
    return field(1, name.encode()) + (field(2, oip.version.encode()) if oip.version else b"")


def _oip_body(rows: np.ndarray, oip: Oip) -> bytes:
    shape = b"".join(number_field(3, size) for size in rows.shape)
    tensor = field(1, oip.tensor.encode()) + field(2, oip.datatype.encode()) + shape
    return field(5, tensor) + field(7, rows.astype(_DTYPES[oip.datatype]).tobytes())
