"""Scores through a router and three scorers are those of the libraries themselves."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from client import AsyncClient, Scores
from client.scores import Residency
from ops.demo_models import DemoModel
from registry.model import Runtime
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_DISK, RESIDENCY_HIT, ScoreRequest, ScoreResponse
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Shelf, wait_answered
from tests.e2e.raw import unary_of

_NAMES = ("acme/tumour", "acme/cultivar", "umbrella/triage", "initech/iris", "initech/body", "acme/tumour-linear")
_PATIENCE_S = 20.0


async def _score(client: AsyncClient, model: DemoModel, rows: np.ndarray, **more: object) -> Scores:
    return await client.score(model.ref.tenant, model.ref.model, rows, timeout_s=_PATIENCE_S, **more)  # type: ignore[arg-type]


def _check(scores: Scores, model: DemoModel, first: int, count: int) -> None:
    for output, expected in zip(scores.outputs.values(), model.expected, strict=True):
        wanted = expected[first : first + count]
        if model.tolerance:
            np.testing.assert_allclose(output.values, wanted, rtol=model.tolerance, atol=model.tolerance)
        else:
            assert output.values.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", _NAMES)
async def test_scores_are_the_librarys_own(client: AsyncClient, models: dict[str, DemoModel], name: str) -> None:
    model = models[name]
    _check(await _score(client, model, model.rows), model, 0, len(model.rows))
    for row in range(3):
        _check(await _score(client, model, model.rows[row : row + 1]), model, row, 1)


@pytest.mark.parametrize("name", ["acme/tumour", "initech/iris"])
async def test_floats_score_as_floats(client: AsyncClient, models: dict[str, DemoModel], name: str) -> None:
    model = models[name]
    narrow = model.rows[:5].astype(np.float32)
    as_float = await _score(client, model, narrow)
    as_double = await _score(client, model, narrow.astype(np.float64))
    for mine, other in zip(as_float.outputs.values(), as_double.outputs.values(), strict=True):
        np.testing.assert_array_equal(mine.values, other.values)
    if model.runtime is Runtime.ONNX:
        _check(as_float, model, 0, 5)


async def test_alias_and_version_choose(client: AsyncClient, models: dict[str, DemoModel]) -> None:
    live, candidate = models["acme/tumour"], models["acme/tumour-small"]
    by_default = await _score(client, live, live.rows[:2])
    assert by_default.version == "2"
    _check(by_default, live, 0, 2)
    for selector in ({"alias": "candidate"}, {"version": "1"}):
        scores = await _score(client, live, candidate.rows[:2], **selector)
        assert scores.version == "1"
        _check(scores, candidate, 0, 2)
    assert (await _score(client, live, live.rows[:1], alias="live")).version == "2"
    assert (await _score(client, live, live.rows[:1], version="2")).version == "2"


async def test_missing_values_score(client: AsyncClient, models: dict[str, DemoModel]) -> None:
    import lightgbm

    model = models["acme/tumour"]
    rows = model.rows[:4].copy()
    rows[:, ::3] = np.nan
    wanted = np.asarray(lightgbm.Booster(model_file=model.path).predict(rows, num_threads=1))
    assert ((await _score(client, model, rows)).probabilities[:, 1] == wanted).all()


async def test_the_answer_says_who_where_and_how_long(
    client: AsyncClient, cluster: Cluster, shelf: Shelf, store: GatedStore
) -> None:
    fresh = await shelf.fresh()
    request_id = uuid.uuid4().hex
    cold = await client.score(*fresh.ref, fresh.rows, timeout_s=_PATIENCE_S, request_id=request_id)
    assert (cold.residency, cold.version, cold.request_id) == (Residency.COLD, fresh.version, request_id)
    assert cold.values.tobytes() == fresh.expected.tobytes()
    assert cold.served_by in {scorer.id for scorer in cluster.scorers}
    assert cold.timing.fetch_us > 0
    assert cold.timing.load_us > 0
    assert cold.timing.wait_us >= cold.timing.fetch_us + cold.timing.load_us

    warm = await client.score(*fresh.ref, fresh.rows, timeout_s=_PATIENCE_S)
    assert (warm.residency, warm.served_by, warm.request_id) == (Residency.HIT, cold.served_by, "")
    assert warm.values.tobytes() == fresh.expected.tobytes()
    assert (warm.timing.wait_us, warm.timing.fetch_us, warm.timing.load_us) == (0, 0, 0)
    assert store.asked.count(fresh.uri) == 1


async def test_one_output_can_be_asked_for(client: AsyncClient, models: dict[str, DemoModel]) -> None:
    model = models["initech/iris"]
    every = await _score(client, model, model.rows[:1])
    for name, output in every.outputs.items():
        chosen = await _score(client, model, model.rows[:1], outputs=[name])
        assert list(chosen.outputs) == [name]
        np.testing.assert_array_equal(chosen.outputs[name].values, output.values)


async def test_a_restarted_scorer_finds_its_models_on_disk(
    cluster: Cluster, shelf: Shelf, store: GatedStore, client: AsyncClient, models: dict[str, DemoModel]
) -> None:
    fresh = await shelf.fresh()
    cold = await client.score(*fresh.ref, fresh.rows, timeout_s=_PATIENCE_S)
    scorer = next(scorer for scorer in cluster.scorers if scorer.id == cold.served_by)
    scorer.terminate()
    assert scorer.wait_end() == 0
    request = ScoreRequest(tenant=fresh.ref.tenant, model=fresh.ref.model, row_count=8, dense_double=fresh.rows.ravel())
    with store.unreachable():
        scorer.restart()
        cluster.wait_ready()
        async with cluster.channel(scorer) as channel:
            payload = await unary_of(channel, "Score")(request.SerializeToString(), timeout=_PATIENCE_S)
    await wait_answered(cluster, models)
    response = ScoreResponse.FromString(payload)
    assert response.residency in {RESIDENCY_HIT, RESIDENCY_DISK}, "loaded by this request, or before it came"
    assert list(response.outputs[0].regression.values) == fresh.expected.tolist()
    after = await client.score(*fresh.ref, fresh.rows, timeout_s=_PATIENCE_S)
    assert after.values.tobytes() == fresh.expected.tobytes()
