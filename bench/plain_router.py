"""The router that one would write first: grpc.aio on both sides, one call to a scorer for each call of a client.

It places models as the real router does and forwards raw bytes; it has no retries, no drain and no coalescing. The
benchmark measures it to show what the real router's data path is worth.
"""

from __future__ import annotations

import argparse
import asyncio

import grpc

from bench.load import PATH
from registry.etcd import Etcd
from registry.keys import Keys
from registry.member_fold import MembersView
from registry.members import follow_members
from registry.placement import Placement
from registry.process import on_stop_signals, prepare
from scoremesh.forwarding.v1.forwarding_pb2 import ScoreRequestHead

DEFAULT_TIMEOUT_S = 5.0


class PlainRouter:
    """Forwards Score calls."""

    def __init__(self) -> None:
        self._placement = Placement(())
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable] = {}

    def on_view(self, view: MembersView) -> None:
        """Route by this view from now on. Members never leave a benchmark."""
        for member in view.members.values():
            if member.id not in self._channels:
                channel = self._channels[member.id] = grpc.aio.insecure_channel(member.address)
                self._methods[member.id] = channel.unary_unary(PATH)
        self._placement = Placement(view.members.values())

    async def score(self, payload: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """ScoringService.Score."""
        head = ScoreRequestHead.FromString(payload)
        candidates = self._placement.candidates(head.tenant, head.model)
        if not candidates:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no scorer is alive")
        try:
            return await self._methods[candidates[0].id](payload, timeout=_left_s(context))
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")

    async def aclose(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def _left_s(context: grpc.aio.ServicerContext) -> float:
    left_s = context.time_remaining()
    return DEFAULT_TIMEOUT_S if left_s is None else left_s


async def serve(listen: str, endpoint: str, cluster: str) -> None:
    """Serve until a signal."""
    stop, router, etcd = on_stop_signals(), PlainRouter(), Etcd([endpoint])
    follower = asyncio.create_task(follow_members(etcd, Keys(cluster), router.on_view))
    server = grpc.aio.server()
    service, method = PATH.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(router.score)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(listen)
    await server.start()
    await stop.wait()
    await server.stop(1.0)
    follower.cancel()
    await asyncio.wait({follower})
    await router.aclose()
    await etcd.aclose()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, help="host:port")
    parser.add_argument("--etcd", required=True, help="host:port")
    parser.add_argument("--cluster", required=True)
    args = parser.parse_args()
    prepare()
    asyncio.run(serve(args.listen, args.etcd, args.cluster))


if __name__ == "__main__":
    main()
