"""Whole scorers in this process, over one etcd and one store, asked directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc.aio
import msgspec
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys, decode_member
from registry.model import Member, MemberState, ModelRef, ModelVersion
from registry.store_urls import open_store
from scoremesh.scorer.v1 import scorer_pb2 as pb
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, ScoreResponse
from scorer.config import parse
from scorer.server import RESIDENCY_SERVICE, SERVICE, Scorer
from tests.integration import publishing
from tests.integration.test_scorer_residency import ROWS, known_admit, model_text

M = TypeVar("M", bound=Message)


class Asked:
    """One scorer, and calls to it."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.id = scorer.member.id
        self.member = msgspec.structs.replace(scorer.member, state=MemberState.READY)
        self.channel = grpc.aio.insecure_channel(scorer.member.address)

    @property
    def packages(self) -> set[str]:
        """What it has in memory."""
        return {version.package for version, _ref, _demand in self.scorer._cache.hottest(0)}

    async def score(self, ref: ModelRef) -> ScoreResponse:
        request = ScoreRequest(tenant=ref.tenant, model=ref.model, row_count=1, dense_double=ROWS[0])
        return await self.call(f"{SERVICE}/Score", request, ScoreResponse)

    async def list_resident(self, limit: int = 0) -> list[pb.ResidentModel]:
        request = pb.ListResidentRequest(limit=limit)
        answer = await self.call(f"{RESIDENCY_SERVICE}/ListResident", request, pb.ListResidentResponse)
        return list(answer.models)

    async def health(self) -> str:
        answer = await self.call("grpc.health.v1.Health/Check", HealthCheckRequest(), HealthCheckResponse)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))

    async def call(self, method: str, request: Message, kind: type[M]) -> M:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{method}")
        return kind.FromString(await ask(request.SerializeToString(), timeout=60))


class Place:
    """Where scorers of one cluster run. `models`: what was published, by name."""

    def __init__(self, server: EtcdServer, etcd: Etcd, keys: Keys, folder: Path) -> None:
        self.etcd, self.keys, self.folder = etcd, keys, folder
        self._server = server
        self._store = open_store(f"file://{folder}/store")
        self.models: dict[ModelRef, ModelVersion] = {}

    async def publish(self, count: int) -> list[ModelRef]:
        """So many different models, each live."""
        publisher = publishing.publisher(self._store, self.etcd, self.keys, known_admit)
        for _ in range(count):
            path = self.folder / "model.txt"
            path.write_text(model_text(len(self.models) + 1))
            ref = ModelRef("acme", f"m{len(self.models)}")
            self.models[ref] = (await publisher.publish(path, ref, aliases=("live",))).to_version()
        return list(self.models)

    def packages(self, refs: Sequence[ModelRef]) -> set[str]:
        return {self.models[ref].package for ref in refs}

    async def member(self, member_id: str) -> Member | None:
        """As etcd has it."""
        _, found = await self.etcd.get(self.keys.member(member_id))
        return decode_member(found.value) if found is not None else None

    async def wait_state(self, member_id: str, state: MemberState | None) -> None:
        """Wait until etcd has it in a state; None: until it's gone."""
        async with asyncio.timeout(60):
            while (found := await self.member(member_id)) is None or found.state is not state:
                if found is None and state is None:
                    return
                await asyncio.sleep(0.01)

    async def wait_ready(self, *scorers: Asked) -> None:
        """Wait until etcd has them as ready."""
        for scorer in scorers:
            await self.wait_state(scorer.id, MemberState.READY)

    @asynccontextmanager
    async def scorer(self, name: str, *more: str) -> AsyncIterator[Asked]:
        """A scorer of this id, which drains when the context ends."""
        cluster = self.keys.models_prefix.decode().split("/")[2]
        arguments = ["--listen", "127.0.0.1:0", "--id", name, "--host", name, "--cluster", cluster, "--drain-s", "2"]
        arguments += ["--etcd", self._server.endpoint, "--store", f"file://{self.folder}/store"]
        scorer = Scorer(parse([*arguments, "--cache-dir", f"{self.folder}/cache-{name}", *more]))
        asked = Asked(scorer)
        try:
            async with scorer.running():
                yield asked
        finally:
            await asked.channel.close()


@asynccontextmanager
async def place_at(server: EtcdServer, keys: Keys, folder: Path) -> AsyncIterator[Place]:
    etcd = Etcd([server.endpoint])
    try:
        yield Place(server, etcd, keys, folder)
    finally:
        await etcd.aclose()
