"""Rollouts of one model and of many, through the registry's gRPC service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ops.etcd_server import EtcdServer
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.scorer.v1 import scorer_pb2
from tests.integration.conftest import WaitUntil
from tests.integration.registry_calls import MODEL, REF, Rig, onnx_like, refused, running
from tests.integration.residency import Scorer, announce, serving

Status = grpc.StatusCode
GUARDED = {"guarded": True, "max_error_ratio": 0.01, "max_drift": 0.25, "min_requests": 200}


@pytest.fixture
async def rig(tmp_path: Path, etcd_server: EtcdServer) -> AsyncIterator[Rig]:
    async with running(tmp_path, etcd_server, guard_interval_s=0.05) as rig:
        for content in "abc":
            await rig.publish(onnx_like(content))
        yield rig


@pytest.fixture
async def scorer(rig: Rig) -> AsyncIterator[Scorer]:
    async with serving(Scorer("s1")) as scorer:
        await announce(rig.deployment.ledger.etcd, rig.keys, scorer.member)
        yield scorer


async def start(rig: Rig, request_id: str = "", **rollout: Any) -> pb.Rollout:
    wanted = pb.Rollout(**rollout)
    request = pb.StartRolloutRequest(model=MODEL, rollout=wanted, request_id=request_id)
    model: pb.Model = (await rig.stub.StartRollout(request)).model
    [started] = model.rollouts
    return started


def seen(rollout_id: str, *, canary_errors: int) -> scorer_pb2.RolloutStats:
    """1000 requests of each; all scores alike."""
    stable = scorer_pb2.Arm(requests=1000, score_sum=500, score_count=1000, buckets={0: 1000})
    canary = scorer_pb2.Arm(requests=1000, errors=canary_errors, score_sum=500, score_count=1000, buckets={0: 1000})
    shadow = scorer_pb2.Shadow(
        requests=10, errors=1, skipped=3, abs_difference_sum=4.5, abs_difference_max=2.0, score_count=9
    )
    return scorer_pb2.RolloutStats(rollout_id=rollout_id, stable=stable, canary=canary, shadow=shadow)


async def test_a_canary_from_start_to_promotion(rig: Rig, scorer: Scorer) -> None:
    started = await start(rig, canary="2", percent=5, shadow="1", guarded=True)
    assert (started.alias, started.canary, started.shadow, started.percent) == ("live", "2", "1", 5.0)
    assert {name: getattr(started, name) for name in GUARDED} == GUARDED
    assert started.id
    more = await start(rig, canary="2", percent=50, shadow="1", guarded=True)
    assert (more.id, more.percent, more.create_time) == (started.id, 50.0, started.create_time)
    scorer.stats[started.id] = seen(started.id, canary_errors=0)
    found = (await rig.stub.GetRollout(pb.GetRolloutRequest(model=MODEL))).rollout
    assert found.id == started.id
    assert found.verdict.startswith("healthy")
    assert found.stable_stats == pb.ArmStats(requests=1000, mean_score=0.5)
    assert found.canary_stats == pb.ArmStats(requests=1000, mean_score=0.5)
    assert found.shadow_stats == pb.ShadowStats(
        requests=10, errors=1, skipped=3, mean_abs_difference=0.5, max_abs_difference=2.0
    )
    ended = (await rig.stub.EndRollout(pb.EndRolloutRequest(model=MODEL, promote=True))).model
    assert (ended.aliases, list(ended.rollouts)) == ({"live": "2"}, [])
    for call in (
        rig.stub.GetRollout(pb.GetRolloutRequest(model=MODEL)),
        rig.stub.EndRollout(pb.EndRolloutRequest(model=MODEL, promote=True)),
    ):
        assert "has no rollout" in await refused(call, Status.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_a_canary_is_taken_back(rig: Rig) -> None:
    first = await start(rig, canary="2", percent=5)
    other = pb.EndRolloutRequest(model=MODEL, rollout_id="another", promote=True)
    assert [rollout.id for rollout in (await rig.stub.EndRollout(other)).model.rollouts] == [first.id]
    ended = (await rig.stub.EndRollout(pb.EndRolloutRequest(model=MODEL, alias="live", rollout_id=first.id))).model
    assert (ended.aliases, list(ended.rollouts)) == ({"live": "3"}, [])
    assert (await start(rig, canary="2", percent=5)).id != first.id


async def test_repeated_requests(rig: Rig) -> None:
    first = await start(rig, "r1", canary="2", percent=5)
    end = pb.EndRolloutRequest(model=MODEL, promote=True, request_id="r2")
    assert (await rig.stub.EndRollout(end)).model.aliases == {"live": "2"}
    request = pb.StartRolloutRequest(model=MODEL, rollout=pb.Rollout(canary="2", percent=5), request_id="r1")
    assert list((await rig.stub.StartRollout(request)).model.rollouts) == []
    request.rollout.canary = "3"
    assert "request id r1" in await refused(rig.stub.StartRollout(request), Status.ABORTED, "CONFLICT")
    assert (await rig.stub.EndRollout(end)).model.aliases == {"live": "2"}
    assert first.id


async def test_rollouts_that_can_not_be(rig: Rig, scorer: Scorer) -> None:
    for rollout, words in (
        (pb.Rollout(), "a canary or a shadow is missing"),
        (pb.Rollout(canary="2"), "rollout.percent"),
        (pb.Rollout(canary="a b", percent=5), "rollout.canary: version 'a b'"),
        (pb.Rollout(canary="2", percent=5, alias="!"), "alias: alias '!'"),
        (pb.Rollout(canary="3", percent=5), "means version 3 already"),
    ):
        call = rig.stub.StartRollout(pb.StartRolloutRequest(model=MODEL, rollout=rollout))
        assert words in await refused(call, Status.INVALID_ARGUMENT, "INVALID_REQUEST")
    missing = (Status.NOT_FOUND, "MODEL_NOT_FOUND")
    for model, rollout in (
        ("tenants/acme/models/other", pb.Rollout(shadow="2")),
        (MODEL, pb.Rollout(shadow="9")),
        (MODEL, pb.Rollout(shadow="2", alias="candidate")),
    ):
        await refused(rig.stub.StartRollout(pb.StartRolloutRequest(model=model, rollout=rollout)), *missing)
    await rig.stub.RetireVersion(pb.RetireVersionRequest(name=f"{MODEL}/versions/1"))
    retired = pb.StartRolloutRequest(model=MODEL, rollout=pb.Rollout(shadow="1"))
    await refused(rig.stub.StartRollout(retired), Status.FAILED_PRECONDITION, "MODEL_IN_USE")
    packages = {version.name.rpartition("/")[2]: version.package for version in (await rig.model()).versions}
    scorer.resident, scorer.broken = {packages["3"]}, {packages["2"]}
    broken = pb.StartRolloutRequest(model=MODEL, rollout=pb.Rollout(canary="2", percent=5))
    await refused(rig.stub.StartRollout(broken), Status.FAILED_PRECONDITION, "NOT_PREPARED")
    assert list((await rig.model()).rollouts) == []


async def test_the_guard_takes_a_canary_back_and_says_why(rig: Rig, scorer: Scorer, wait_until: WaitUntil) -> None:
    started = await start(rig, canary="2", percent=5, guarded=True)
    scorer.stats[started.id] = seen(started.id, canary_errors=900)
    found = (await rig.stub.GetRollout(pb.GetRolloutRequest(model=MODEL))).rollout
    assert found.verdict.startswith("roll back: ")
    async with rig.deployment.guarding():
        await wait_until(lambda: (said := rig.deployment.guard.last(REF, "live")) is not None and said.ended)
    assert (await rig.model()).aliases == {"live": "3"}
    call = rig.stub.GetRollout(pb.GetRolloutRequest(model=MODEL))
    text = await refused(call, Status.NOT_FOUND, "MODEL_NOT_FOUND")
    assert f"the last one, {started.id}: roll back: " in text


async def test_many_models_at_once(rig: Rig) -> None:
    for number in range(12):
        for version in ("old", "new"):
            await rig.publish(
                onnx_like(f"{number}{version}"),
                f"tenants/t{number % 3}/models/m{number}",
                version=version,
                aliases=["live"] if version == "old" else [],
                training={"run": version},
            )
    request = pb.RolloutBulkRequest(training=["run=new"], stages=[25, 100], dry_run=True)
    steps = [step async for step in rig.stub.RolloutBulk(request)]
    assert (steps[-1].total, steps[-1].failed) == (12, 0)
    name = "tenants/t1/models/m1"
    assert (await rig.model(name)).aliases == {"live": "old"}
    request.dry_run = False
    call = rig.stub.RolloutBulk(request)
    first = await call.read()
    call.cancel()
    request.bulk_id = first.bulk_id
    steps = [step async for step in rig.stub.RolloutBulk(request)]
    assert (steps[-1].done, steps[-1].failed, steps[-1].stage) == (12, 0, 2)
    assert {step.model for step in steps if step.model} == {f"tenants/t{n % 3}/models/m{n}" for n in range(12)}
    assert (await rig.model(name)).aliases == {"live": "new"}
    again = [step async for step in rig.stub.RolloutBulk(request)]
    assert (again[-1].done, again[-1].total) == (12, 12)


async def test_bulk_rollouts_that_can_not_be(rig: Rig) -> None:
    for request in (
        pb.RolloutBulkRequest(),
        pb.RolloutBulkRequest(tenant="tenants/acme"),
        pb.RolloutBulkRequest(tenant="acme", labels=["x"]),
        pb.RolloutBulkRequest(tenant="acme", stages=[50, 10]),
        pb.RolloutBulkRequest(tenant="acme", pause_s=-1),
        pb.RolloutBulkRequest(tenant="acme", max_failed_ratio=float("nan")),
        pb.RolloutBulkRequest(tenant="acme", bulk_id="a/b"),
        pb.RolloutBulkRequest(tenant="acme", alias="!"),
    ):
        await refused(rig.stub.RolloutBulk(request).read(), Status.INVALID_ARGUMENT, "INVALID_REQUEST")
