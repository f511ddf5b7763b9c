"""The ResidencyService of a whole scorer, over its own front, with real models from a real store."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import grpc.aio
import lightgbm
import msgspec
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ops.etcd_server import EtcdServer
from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.etcd import Etcd
from registry.keys import Keys
from registry.manifest import Manifest, RolloutSpec
from registry.model import ModelRef, ModelVersion
from registry.offer import Admitted, Offer
from registry.store_urls import open_store
from scoremesh.scorer.v1 import scorer_pb2 as pb
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_COLD, RESIDENCY_DISK, RESIDENCY_HIT, ScoreRequest, ScoreResponse
from scorer.config import parse
from scorer.engine import engine_for
from scorer.residency import Grace
from scorer.server import RESIDENCY_SERVICE, SERVICE, Scorer
from tests.integration import publishing
from tests.integration.publishing import open_ledger

REF = ModelRef("acme", "fraud")
ROWS = np.random.default_rng(1).normal(size=(200, 3))
Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
Purged = tuple[int, int]
M = TypeVar("M", bound=Message)
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]


@cache
def model_text(number: int) -> str:
    """A real model that says about `number` times the first feature."""
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
    text: str = lightgbm.train(settings, lightgbm.Dataset(ROWS, ROWS[:, 0] * number), 3).model_to_string()
    return text


async def known_admit(offer: Offer) -> Admitted:
    return Admitted(offer.data, engine_for(offer.runtime).describe(offer.data), 100_000, {"1": 2.0, "64": 20.0})


class Desk:
    """A scorer of the test's own, its stubs, and how to publish for it."""

    def __init__(self, scorer: Scorer, store: ArtifactStore, etcd: Etcd, keys: Keys, folder: Path) -> None:
        self.scorer = scorer
        self.moves = AliasMoves(open_ledger(store, etcd, keys))
        self._publisher = publishing.publisher(store, etcd, keys, known_admit)
        self._folder = folder
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{scorer.front.port}")

    async def publish(self, number: int, ref: ModelRef = REF, aliases: Sequence[str] = ("live",)) -> Manifest:
        path = self._folder / f"{uuid.uuid4().hex}.txt"
        path.write_text(model_text(number))
        return await self._publisher.publish(path, ref, aliases=aliases)

    async def score(self, ref: ModelRef = REF, *, version: str = "", key: str = "") -> ScoreResponse:
        request = ScoreRequest(tenant=ref.tenant, model=ref.model, row_count=1, dense_double=ROWS[0], entity_key=key)
        if version:
            request.version = version
        return await self._call(f"{SERVICE}/Score", request, ScoreResponse)

    async def prepare(self, where: Sequence[str], *load: ModelVersion) -> pb.Prepared:
        asked = pb.Preparation(where_resident=where, load=[loadable(version) for version in load])
        (prepared,) = (await self.prepare_all([asked])).prepared
        return prepared

    async def prepare_all(self, asked: Sequence[pb.Preparation]) -> pb.PrepareResponse:
        return await self._call(
            f"{RESIDENCY_SERVICE}/Prepare", pb.PrepareRequest(preparations=asked), pb.PrepareResponse
        )

    async def purge(self, tenant: str = "", packages: Sequence[str] = (), artifacts: Sequence[str] = ()) -> Purged:
        """Copies in memory and files on disk that went."""
        request = pb.PurgeRequest(tenant=tenant, packages=packages, artifacts=artifacts)
        answer = await self._call(f"{RESIDENCY_SERVICE}/Purge", request, pb.PurgeResponse)
        return answer.resident_models, answer.disk_files

    async def stats(self, *ids: str) -> Sequence[pb.RolloutStats]:
        request = pb.GetRolloutStatsRequest(rollout_ids=ids)
        return (await self._call(f"{RESIDENCY_SERVICE}/GetRolloutStats", request, pb.GetRolloutStatsResponse)).stats

    async def _call(self, method: str, request: Message, kind: type[M]) -> M:
        call: Unary = self.channel.unary_unary(f"/{method}")
        return kind.FromString(await call(request.SerializeToString(), timeout=30))

    @contextmanager
    def holding(self, artifact: str) -> Iterator[asyncio.Event]:
        """The scorer gets this artifact from the store only after the event is set."""
        gate, store = asyncio.Event(), self.scorer._loader._fetch._store

        class Gated:
            async def get(self, path: str, size_bytes: int = 0) -> bytes:
                if path.endswith(artifact):
                    await gate.wait()
                return await store.get(path, size_bytes)

        self.scorer._loader._fetch._store = cast("ArtifactStore", Gated())
        yield gate
        self.scorer._loader._fetch._store = store

    def files(self) -> list[Path]:
        return [path for path in (self._folder / "cache").rglob("*") if path.is_file() and len(path.name) == 64]


def loadable(version: ModelVersion) -> pb.LoadableVersion:
    return pb.LoadableVersion(
        version=version.version,
        package=version.package,
        tenant=version.tenant,
        artifact=version.artifact,
        schema=version.schema,
        runtime=version.runtime.value,
        artifact_bytes=version.artifact_bytes,
        resident_bytes=version.resident_bytes,
    )


@asynccontextmanager
async def scorer_at(etcd_server: EtcdServer, keys: Keys, folder: Path, *more: str) -> AsyncIterator[Desk]:
    cluster = keys.models_prefix.decode().split("/")[2]
    arguments = ["--listen", "127.0.0.1:0", "--etcd", etcd_server.endpoint, "--cluster", cluster, "--drain-s", "1"]
    arguments += ["--store", f"file://{folder}/store", "--cache-dir", f"{folder}/cache", *more]
    etcd = Etcd([etcd_server.endpoint])
    scorer = Scorer(parse(arguments))
    try:
        async with scorer.running():
            desk = Desk(scorer, open_store(f"file://{folder}/store"), etcd, keys, folder)
            yield desk
            await desk.channel.close()
    finally:
        await etcd.aclose()


@pytest.fixture
async def desk(etcd_server: EtcdServer, keys: Keys, tmp_path: Path) -> AsyncIterator[Desk]:
    async with scorer_at(etcd_server, keys, tmp_path) as desk:
        yield desk


async def test_what_was_prepared_is_warm(desk: Desk) -> None:
    old, new = await desk.publish(1), await desk.publish(2, aliases=())
    assert (await desk.score()).residency == RESIDENCY_COLD
    prepared = await desk.prepare([old.to_version().package], new.to_version())
    assert (prepared.code, prepared.message, prepared.not_resident) == (0, "", False)
    assert (await desk.score(version="2")).residency == RESIDENCY_HIT
    again = await desk.prepare(["somebody-elses", old.to_version().package], new.to_version())
    assert (again.code, again.not_resident) == (0, False)


async def test_where_the_old_version_is_not_nothing_is_loaded(desk: Desk) -> None:
    old, new = await desk.publish(1), await desk.publish(2, aliases=())
    assert (await desk.prepare([old.to_version().package], new.to_version())).not_resident
    assert len(desk.scorer._cache) == 0
    assert (await desk.prepare([], new.to_version())).not_resident


async def test_a_load_that_fails_is_told_and_the_others_are_loaded(desk: Desk) -> None:
    old, new = await desk.publish(1), await desk.publish(2, aliases=())
    await desk.score()
    where, good = [old.to_version().package], new.to_version()
    lost = msgspec.structs.replace(good, version="8", package="lost", artifact="0" * 64)
    prepared = await desk.prepare(where, lost, good)
    assert prepared.code == 9
    assert "version 8: tenants/acme/artifacts/00/000" in prepared.message
    assert desk.scorer._cache.peek(good.package) is not None
    future = loadable(good)
    future.runtime, future.package = "quantum", "future"
    asked = [
        pb.Preparation(where_resident=where, load=[future]),
        pb.Preparation(where_resident=where, load=[loadable(good)]),
    ]
    answer = await desk.prepare_all(asked)
    assert [prepared.code for prepared in answer.prepared] == [9, 0]
    assert "no engine for 'quantum'" in answer.prepared[0].message


async def test_what_was_prepared_is_not_evicted_until_its_grace_is_over(desk: Desk) -> None:
    old, new = await desk.publish(1), await desk.publish(2, aliases=())
    package = new.to_version().package
    await desk.score()
    await desk.prepare([old.to_version().package], new.to_version())
    assert desk.scorer._cache._residents.is_pinned(package)
    desk.scorer._residency._grace.end(package)
    assert not desk.scorer._cache._residents.is_pinned(package)


async def test_grace_is_bounded_in_bytes_and_time(desk: Desk, wait_until: WaitUntil) -> None:
    packages = []
    for number in range(1, 5):
        packages.append((await desk.publish(number, aliases=(f"a{number}",))).to_version().package)
        await desk.score(version=str(number))
    cache = desk.scorer._cache
    grace = Grace(cache, 200, grace_s=0.05)
    for package in packages[:3]:
        grace.begin(package, 100)
        grace.begin(package, 100)
    grace.begin(packages[3], 500)
    assert [cache._residents.is_pinned(package) for package in packages] == [False, False, False, False]
    for package in packages[:3]:
        grace.begin(package, 100)
    assert [cache._residents.is_pinned(package) for package in packages] == [False, True, True, False]
    await wait_until(lambda: not grace._kept)
    assert not any(cache._residents.is_pinned(package) for package in packages)
    grace.begin(packages[0], 100)
    grace.close()
    assert not cache._residents.is_pinned(packages[0])


async def test_rollout_stats_are_told(desk: Desk, wait_until: WaitUntil) -> None:
    await desk.publish(1)
    await desk.publish(3, aliases=())
    await desk.publish(5, aliases=())
    for version in "123":
        await desk.score(version=version)
    spec = RolloutSpec(id="r1", canary="2", percent=50.0, shadow="3")
    await desk.moves.begin(REF, "live", spec)

    def is_known() -> bool:
        found = desk.scorer._catalog.lookup(REF, "", "")
        return found is not None and found.rollout is not None

    await wait_until(is_known)
    answers = [await desk.score(key=str(number)) for number in range(60)]
    canaries = [answer for answer in answers if answer.model_version == "2"]
    async with asyncio.timeout(30):
        while True:
            (seen,) = await desk.stats("r1", "unknown")
            if seen.shadow.requests + seen.shadow.skipped == 60 - len(canaries):
                break
            await asyncio.sleep(0.01)
    assert seen.rollout_id == "r1"
    assert (seen.stable.requests, seen.stable.errors) == (60 - len(canaries), 0)
    assert (seen.canary.requests, seen.canary.errors) == (len(canaries), 0)
    score = canaries[0].outputs[0].regression.values[0]
    assert seen.canary.score_sum == pytest.approx(score * len(canaries))
    assert sum(seen.canary.buckets.values()) == seen.canary.score_count == len(canaries)
    assert seen.shadow.requests >= 1
    assert seen.shadow.errors == 0
    assert seen.shadow.abs_difference_max > 0


async def test_a_tenant_is_purged_from_memory_and_disk(desk: Desk) -> None:
    mine, other = await desk.publish(1), await desk.publish(2, ModelRef("umbrella", "fraud"))
    await desk.publish(3)
    for ref, version in ((REF, "1"), (REF, "2"), (ModelRef("umbrella", "fraud"), "1")):
        await desk.score(ref, version=version)
    await desk.prepare([mine.to_version().package], mine.to_version())
    assert len(desk.files()) == 4  # three artifacts, and the schema that they have in common
    assert await desk.purge("acme") == (2, 3)
    assert len(desk.scorer._cache) == 1
    assert not any("acme" in str(path) for path in (desk._folder / "cache").rglob("*"))
    assert (await desk.score(ModelRef("umbrella", "fraud"))).residency == RESIDENCY_HIT
    assert desk.scorer._cache.peek(other.to_version().package) is not None
    assert await desk.purge("acme") == (0, 0)


async def test_a_model_in_use_is_purged_after_its_last_use(desk: Desk) -> None:
    version = (await desk.publish(1)).to_version()
    await desk.score()
    cache = desk.scorer._cache
    async with cache.borrow(version), cache.borrow(version):
        assert (await desk.purge("acme"))[0] == 1
        assert cache.peek(version.package) is not None
    assert cache.peek(version.package) is None
    assert cache.used_bytes == 0


@pytest.mark.parametrize("tenant", ["acme", ""])
async def test_what_comes_back_while_a_purge_waits_goes_too(desk: Desk, tenant: str, wait_until: WaitUntil) -> None:
    quick, slow = await desk.publish(1), await desk.publish(2, aliases=())
    package, packages = quick.to_version().package, [quick.to_version().package, slow.to_version().package]
    await desk.score()
    cache = desk.scorer._cache
    with desk.holding(slow.artifact) as gate:
        waiting = asyncio.create_task(desk.score(version="2"))
        await wait_until(lambda: bool(cache._loads.begun_of("acme", ())))
        purging = asyncio.create_task(desk.purge(tenant, packages, [quick.artifact, slow.artifact]))
        await wait_until(lambda: not cache.holds(package))
        assert (await desk.score()).residency == RESIDENCY_DISK
        assert cache.holds(package)
        gate.set()
        assert (await purging)[0] == 3
    assert (await waiting).model_version == "2"
    assert not any(cache.holds(package) for package in packages)
    assert {path.name for path in desk.files()} <= {quick.schema}
    if tenant:
        assert desk.scorer._catalog.lookup(REF, "", "") is None
        assert not desk.scorer._service._plans
        assert not desk.files()


async def test_what_is_purged_while_it_is_prepared_is_not_kept(desk: Desk, wait_until: WaitUntil) -> None:
    old, new = await desk.publish(1), await desk.publish(2, aliases=())
    await desk.score()
    cache = desk.scorer._cache
    with desk.holding(new.artifact) as gate:
        preparing = asyncio.create_task(desk.prepare([old.to_version().package], new.to_version()))
        await wait_until(lambda: bool(cache._loads.begun_of("acme", ())))
        purging = asyncio.create_task(desk.purge("acme"))
        await wait_until(lambda: not cache.holds(old.to_version().package))
        gate.set()
        assert (await purging)[0] == 2
    assert (await preparing).code == 0
    assert len(cache) == cache.used_bytes == 0
    assert not desk.scorer._residency._grace._kept
    assert not desk.files()


async def test_packages_of_other_owners_that_are_named_go_too(desk: Desk) -> None:
    """Equal bytes are one package, whoever loaded it first."""
    await desk.publish(1)
    same = (await desk.publish(1, ModelRef("umbrella", "fraud"))).to_version()
    await desk.score()
    assert await desk.purge("umbrella", [same.package], [same.artifact, same.schema]) == (1, 2)
    assert (await desk.score()).residency == RESIDENCY_COLD


async def test_without_a_tenant_only_what_is_named_goes(desk: Desk) -> None:
    gone, kept = await desk.publish(1, aliases=()), await desk.publish(2)
    await desk.score(version="1")
    await desk.score(version="2")
    assert await desk.purge() == (0, 0)
    assert await desk.purge("", [gone.to_version().package], [gone.artifact]) == (1, 1)
    assert {path.name for path in desk.files()} == {kept.artifact, kept.schema}
    assert (await desk.score()).residency == RESIDENCY_HIT


async def test_garbage_is_refused_and_the_service_is_announced_by_health(desk: Desk) -> None:
    health = health_pb2_grpc.HealthStub(desk.channel)
    await health.Check(health_pb2.HealthCheckRequest(service=RESIDENCY_SERVICE), timeout=30)
    for method in ("Prepare", "Purge", "GetRolloutStats"):
        call: Unary = desk.channel.unary_unary(f"/{RESIDENCY_SERVICE}/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff", timeout=30)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError, match="is not a valid name"):
        await desk.purge("../acme")


async def test_after_a_restart_the_disk_still_knows_whose_is_what(
    etcd_server: EtcdServer, keys: Keys, tmp_path: Path
) -> None:
    async with scorer_at(etcd_server, keys, tmp_path) as desk:
        await desk.publish(1)
        await desk.score()
        assert len(desk.files()) == 2
    async with scorer_at(etcd_server, keys, tmp_path) as desk:
        assert await desk.purge("acme") == (0, 2)
        assert not desk.files()
