"""Servers for the load generator that stall, refuse, vanish, or read what they get with other people's classes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

from scoremesh.scoring.v1 import scoring_pb2 as pb

Answer = Callable[[int], Awaitable[tuple[grpc.StatusCode, str] | None]]
_SCORED = pb.ScoreResponse(model_version="1", residency=pb.RESIDENCY_HIT, served_by="test")


class Served:
    """A server of grpc.aio that is running. `seen`: the requests that came; `told`: the headers of each."""

    def __init__(self, port: int, server: grpc.aio.Server) -> None:
        self.address = f"127.0.0.1:{port}"
        self.server = server
        self.seen: list[Message] = []
        self.told: list[dict[str, str | bytes]] = []


@contextlib.asynccontextmanager
async def scoring(answer: Answer, port: int = 0) -> AsyncIterator[Served]:
    """ScoringService.Score. `answer` gets the request's number; what it returns is the failure, None for none."""

    async def score(request: pb.ScoreRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.ScoreResponse:
        served.seen.append(request)
        failure = await answer(len(served.seen))
        if failure is not None:
            await context.abort(*failure)
        return _SCORED

    handler = grpc.unary_unary_rpc_method_handler(score, pb.ScoreRequest.FromString, pb.ScoreResponse.SerializeToString)
    async with _served("scoremesh.scoring.v1.ScoringService", {"Score": handler}, port) as served:
        yield served


@contextlib.asynccontextmanager
async def open_inference() -> AsyncIterator[Served]:
    """GRPCInferenceService.ModelInfer, by the classes of Triton's client: answers the first numbers of what came, or
    INVALID_ARGUMENT where the bytes aren't as many as the shape says.
    """

    async def infer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        served.seen.append(request)
        served.told.append(dict(context.invocation_metadata() or ()))
        [tensor], [raw] = request.inputs, request.raw_input_contents
        if len(raw) != 4 * tensor.shape[0] * tensor.shape[1]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the tensor is of another size")
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="first", datatype="FP32", shape=[tensor.shape[0]])
        answer.raw_output_contents.append(raw[: 4 * tensor.shape[0]])
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        infer, service_pb2.ModelInferRequest.FromString, service_pb2.ModelInferResponse.SerializeToString
    )
    async with _served("inference.GRPCInferenceService", {"ModelInfer": handler}) as served:
        yield served


@contextlib.asynccontextmanager
async def _served(
    service: str, methods: dict[str, grpc.RpcMethodHandler[Any, Any]], port: int = 0
) -> AsyncIterator[Served]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    served = Served(server.add_insecure_port(f"127.0.0.1:{port}"), server)
    await server.start()
    try:
        yield served
    finally:
        await server.stop(None)


async def at_once(_number: int) -> None:
    """No failure, no delay."""


def stalls_once(at: int, for_s: float) -> tuple[Answer, list[float]]:
    """Holds every answer for so long, from the request of this number on; and when it did."""
    until: list[float] = []

    async def answer(number: int) -> None:
        if number >= at and not until:
            until.append(time.monotonic() + for_s)
        if until:
            await asyncio.sleep(max(0.0, until[0] - time.monotonic()))

    return answer, until


async def _serve(port: int) -> None:
    async with scoring(at_once, port) as served:
        await served.server.wait_for_termination()


if __name__ == "__main__":  # A process of its own, to be killed: python -m tests.integration.load_servers PORT
    asyncio.run(_serve(int(sys.argv[1])))
