"""Requests as bytes, put together of parts that are made once: a request costs a concatenation. Pure.

A protobuf message is the concatenation of its fields, so the bytes that name a model and the bytes that hold rows are
made apart. Rows are drawn from a standard normal distribution: `_POOL` different ones for each number of features and
of rows, so that neither a branch predictor nor a cache of answers sees one row again and again.

Sources: protobuf.dev, "Encoding"; Open Inference Protocol v2 (kserve/open-inference-protocol, inference_grpc).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ops.load.spec import LoadModel, LoadSpec, Target
from scorer.wire import field, number_field

_POOL = 64
_OIP_NAME, _OIP_SHAPE, _OIP_RAW = 1, 3, 7
PATHS = {
    Target.SCORE: b"/scoremesh.scoring.v1.ScoringService/Score",
    Target.BATCH: b"/scoremesh.scoring.v1.ScoringService/ScoreBatch",
    Target.OIP: b"/inference.GRPCInferenceService/ModelInfer",
}
Payload = Callable[[int, int], bytes]


class Requests:
    """`one(place, rows)`: a request for a model of `models`. `many(items)`: several in one call."""

    def __init__(self, spec: LoadSpec) -> None:
        self._is_oip = spec.target is Target.OIP
        self._random = np.random.default_rng(spec.seed)
        self._heads = [(_oip_head if self._is_oip else _head)(model) for model in spec.models]
        self._widths = [model.features for model in spec.models]
        self._pools: dict[tuple[int, int], list[bytes]] = {}
        self._next = 0

    def one(self, place: int, rows: int) -> bytes:
        """See the class."""
        self._next += 1
        pool = self._pools.get((self._widths[place], rows))
        if pool is None:
            pool = self._pool(self._widths[place], rows)
        return self._heads[place] + pool[self._next % _POOL]

    def many(self, items: Sequence[tuple[int, int]]) -> bytes:
        """The items of a ScoreBatchRequest."""
        return b"".join(field(1, self.one(place, rows)) for place, rows in items)

    def rows(self, place: int, rows: int) -> np.ndarray:
        """The same numbers as an array, for who encodes them himself."""
        return self._random.standard_normal((rows, self._widths[place]))

    def _pool(self, width: int, rows: int) -> list[bytes]:
        make = _oip_body if self._is_oip else _body
        pool = [make(self._random.standard_normal((rows, width))) for _ in range(_POOL)]
        self._pools[width, rows] = pool
        return pool


def _head(model: LoadModel) -> bytes:
    return field(1, model.tenant.encode()) + field(2, model.model.encode())


def _body(rows: np.ndarray) -> bytes:
    return number_field(5, len(rows)) + field(7, rows.tobytes())


def _oip_head(model: LoadModel) -> bytes:
    """The protocol knows no tenants: a model that has one is called by both names."""
    return field(_OIP_NAME, (f"{model.tenant}.{model.model}" if model.tenant else model.model).encode())


def _oip_body(rows: np.ndarray) -> bytes:
    shape = b"".join(number_field(_OIP_SHAPE, size) for size in rows.shape)
    tensor = field(1, b"input-0") + field(2, b"FP32") + shape
    return field(5, tensor) + field(_OIP_RAW, rows.astype("<f4").tobytes())
