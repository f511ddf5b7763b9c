"""Both clients against the project's own servers: what a front sends as a failure must arrive, and must be retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from client import AsyncClient, Client, ScoreError, Scores
from registry.errors import DrainingError, OverloadedError
from registry.front import Call, Front, Method
from registry.server import listen
from scoremesh.scoring.v1 import scoring_pb2 as pb

_PATIENCE_S = 20.0
_Handler = Callable[[Call], None]


def _answer(call: Call) -> None:
    request = pb.ScoreRequest.FromString(call.payload)
    value = pb.Output(name="value", regression=pb.Regression(values=[0.5] * request.row_count))
    call.respond(pb.ScoreResponse(model_version="1", outputs=[value]).SerializeToString())


@pytest.fixture(params=["native", "aio"])
async def serve(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Starts a front with a handler; gives its address."""
    async with AsyncExitStack() as fronts:

        async def start(handler: _Handler) -> tuple[str, Front]:
            front = listen("127.0.0.1:0", front=request.param)
            fronts.push_async_callback(front.stop)
            await front.start([Method("/scoremesh.scoring.v1.ScoringService/Score", handler)])
            return f"127.0.0.1:{front.port}", front

        yield start


@pytest.fixture(params=["threads", "asyncio"])
def score(request: pytest.FixtureRequest) -> Any:
    """Scores once with a client of its own."""

    def in_thread(addresses: list[str], rows: Any) -> Scores:
        with Client(addresses) as client:
            return client.score("acme", "half", rows, timeout_s=_PATIENCE_S)

    async def in_loop(addresses: list[str], rows: Any) -> Scores:
        async with AsyncClient(addresses) as client:
            return await client.score("acme", "half", rows, timeout_s=_PATIENCE_S)

    return in_loop if request.param == "asyncio" else lambda *args: asyncio.to_thread(in_thread, *args)


async def _error(score: Any, address: str, rows: Any) -> ScoreError:
    with pytest.raises(ScoreError) as caught:
        await score([address], rows)
    return caught.value


async def test_scores(serve: Any, score: Any) -> None:
    address, _ = await serve(_answer)
    assert (await score([address], np.ones((3, 2)))).values.tolist() == [0.5] * 3


async def test_a_draining_server_is_asked_three_times_and_says_why(serve: Any, score: Any) -> None:
    calls = []

    def drain(call: Call) -> None:
        calls.append(call)
        raise DrainingError("this router is shutting down")

    error = await _error(score, (await serve(drain))[0], [1.0])
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert error.message == "this router is shutting down"
    assert len(calls) == 3


async def test_a_draining_server_costs_no_request(serve: Any, score: Any) -> None:
    (draining, front), (staying, _) = await serve(_answer), await serve(_answer)
    front.refuse_new("this router is shutting down")
    for _ in range(6):
        assert (await score([draining, staying], [1.0])).values.tolist() == [0.5]


async def test_a_retry_hint_arrives(serve: Any, score: Any) -> None:
    calls = []

    def refuse(call: Call) -> None:
        calls.append(call)
        raise OverloadedError("the queue is full: äöü", retry_after_ms=70)

    error = await _error(score, (await serve(refuse))[0], [1.0])
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert (error.message, error.retry_after_ms) == ("the queue is full: äöü", 70)
    assert len(calls) == 1


async def test_a_request_over_the_limit_of_the_server(serve: Any, score: Any) -> None:
    error = await _error(score, (await serve(_answer))[0], np.ones((600, 1000)))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
