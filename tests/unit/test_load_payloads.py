"""The bytes of requests, read back by generated classes."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from ops.load.payloads import POOL, Requests, RowPool
from ops.load.spec import LoadModel, Oip, Target
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchRequest, ScoreRequest
from tests.unit.load_specs import spec_of

_MODELS = (LoadModel("acme", "wide", 300), LoadModel("", "lone", 2))


def test_a_score_request_names_the_model_and_has_its_rows() -> None:
    requests = Requests(spec_of(models=_MODELS))
    found = ScoreRequest.FromString(requests.one(0, 5))
    assert (found.tenant, found.model, found.row_count) == ("acme", "wide", 5)
    assert len(found.dense_double) == 1500
    assert np.isfinite(found.dense_double).all()


def test_rows_differ_from_request_to_request() -> None:
    requests = Requests(spec_of(models=_MODELS))
    assert len({requests.one(1, 1) for _ in range(POOL)}) == POOL


def test_a_batch_has_its_items_in_order() -> None:
    requests = Requests(spec_of(models=_MODELS, target=Target.BATCH))
    found = ScoreBatchRequest.FromString(requests.many([(0, 1), (1, 2), (0, 3)]))
    assert [(item.model, item.row_count) for item in found.items] == [("wide", 1), ("lone", 2), ("wide", 3)]


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", np.float32), ("FP64", np.float64)])
def test_an_oip_request_is_what_triton_reads(datatype: str, dtype: type) -> None:
    oip = Oip(tensor="predict", datatype=datatype, version="v1")
    requests = Requests(spec_of(models=_MODELS, target=Target.OIP, oip=oip))
    found = service_pb2.ModelInferRequest.FromString(requests.one(0, 4))
    assert (found.model_name, found.model_version) == ("acme.wide", "v1")
    [tensor] = found.inputs
    assert (tensor.name, tensor.datatype, [*tensor.shape]) == ("predict", datatype, [4, 300])
    [raw] = found.raw_input_contents
    assert np.isfinite(np.frombuffer(raw, dtype)).all()
    assert len(raw) == 1200 * dtype().itemsize
    other = service_pb2.ModelInferRequest.FromString(requests.one(1, 1))
    assert other.model_name == "lone"


def test_a_pool_makes_each_shape_once() -> None:
    made: list[tuple[int, ...]] = []

    def make(rows: np.ndarray) -> np.ndarray:
        made.append(rows.shape)
        return rows

    pool = RowPool(1, make)
    taken = [pool.take(2, 3) for _ in range(3 * POOL)]
    assert made == [(2, 3)] * POOL
    assert taken[0] is taken[POOL]
    assert pool.take(1, 3).shape == (1, 3)
