"""Scorers that only answer what the registry asks of them: real gRPC servers with a memory that a test can look into.

Run as a program it is one that is killed by what it's asked to load; it prints its port.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc.aio

from registry.errors import ScoreMeshError
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.model import Member, ModelVersion, Runtime
from registry.status import failure_of, status_of, trailers
from scoremesh.scorer.v1 import scorer_pb2 as pb
from scoremesh.scorer.v1 import scorer_pb2_grpc

OnPrepare = Callable[[pb.PrepareRequest], Awaitable[None]]


class Scorer(scorer_pb2_grpc.ResidencyServiceServicer):
    """`resident`: packages in memory. `broken`: packages that can't be loaded. `on_prepare`: done before an answer.
    `refusal`: answered instead.
    """

    def __init__(self, member_id: str) -> None:
        self.id = member_id
        self.port = 0
        self.incarnation = "1"
        self.resident: set[str] = set()
        self.broken: set[str] = set()
        self.stats: dict[str, pb.RolloutStats] = {}
        self.asked: list[pb.PrepareRequest] = []
        self.on_prepare: OnPrepare | None = None
        self.refusal: ScoreMeshError | None = None

    async def Prepare(  # noqa: N802
        self, request: pb.PrepareRequest, context: grpc.aio.ServicerContext[pb.PrepareRequest, pb.PrepareResponse]
    ) -> pb.PrepareResponse:
        self.asked.append(request)
        if self.refusal is not None:
            failure = failure_of(self.refusal)
            await context.abort(status_of(failure.code), failure.message, trailers(failure))
        if self.on_prepare is not None:
            await self.on_prepare(request)
        return pb.PrepareResponse(prepared=[self._prepare(preparation) for preparation in request.preparations])

    def _prepare(self, preparation: pb.Preparation) -> pb.Prepared:
        if not self.resident & set(preparation.where_resident):
            return pb.Prepared(not_resident=True)
        for version in preparation.load:
            if version.package in self.broken:
                return pb.Prepared(code=9, message=f"version {version.version} is damaged")
            self.resident.add(version.package)
        return pb.Prepared()

    async def GetRolloutStats(  # noqa: N802
        self, request: pb.GetRolloutStatsRequest, _context: object
    ) -> pb.GetRolloutStatsResponse:
        return pb.GetRolloutStatsResponse(
            stats=[self.stats[name] for name in request.rollout_ids if name in self.stats]
        )

    @property
    def member(self) -> Member:
        return Member(self.id, f"127.0.0.1:{self.port}", "host", "zone", "pool", 1 << 30, self.incarnation)


@asynccontextmanager
async def serving(scorer: Scorer, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Scorer]:
    """Serve on its port, a free one at first."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    scorer_pb2_grpc.add_ResidencyServiceServicer_to_server(scorer, server)  # type: ignore[no-untyped-call]
    address = f"127.0.0.1:{scorer.port}"
    if credentials is None:
        scorer.port = server.add_insecure_port(address)
    else:
        scorer.port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield scorer
    finally:
        await server.stop(None)


async def announce(etcd: Etcd, keys: Keys, member: Member) -> None:
    """Put a member into etcd, without a lease."""
    await etcd.put(keys.member(member.id), encode(member))


def version(name: str) -> ModelVersion:
    """A version that nobody can load, with a package of its own."""
    package, transforms = f"package-{name}", "1" * 64
    return ModelVersion(name, package, "acme", name * 64, "0" * 64, Runtime.LIGHTGBM, 1, 1, transforms=transforms)


async def _die_at_work() -> None:
    async def die(_request: pb.PrepareRequest) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    scorer = Scorer("dying")
    scorer.on_prepare = die
    async with serving(scorer):
        sys.stdout.write(f"{scorer.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_die_at_work())
