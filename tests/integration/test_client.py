"""Both clients against real gRPC servers. Each test runs once with `Client` in a thread and once with `AsyncClient`."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from client import AsyncClient, Client, Residency, ScoreError, ScoreItem, Scores
from scoremesh.scoring.v1 import scoring_pb2 as pb
from tests.fault_proxy import fault_proxy

_PATIENCE_S = 20.0


class _Router:
    """A scoring service that sums rows. `script`: the statuses of the first calls; afterwards it answers."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.calls = 0
        self.script: Callable[[int, grpc.ServicerContext], None] = lambda call, context: None
        self.blocked = threading.Event()
        self.release = threading.Event()
        self.cancelled = threading.Event()
        options = [("grpc.max_receive_message_length", 1 << 26), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(8), options=options)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Score": grpc.unary_unary_rpc_method_handler(
                self._score, pb.ScoreRequest.FromString, pb.ScoreResponse.SerializeToString
            ),
            "ScoreBatch": grpc.unary_unary_rpc_method_handler(
                self._score_batch, pb.ScoreBatchRequest.FromString, pb.ScoreBatchResponse.SerializeToString
            ),
        }
        service = grpc.method_handlers_generic_handler("scoremesh.scoring.v1.ScoringService", handlers)
        self._server.add_generic_rpc_handlers((service,))
        port = (
            self._server.add_insecure_port("127.0.0.1:0")
            if credentials is None
            else self._server.add_secure_port("127.0.0.1:0", credentials)
        )
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def block(self, call: int, context: grpc.ServicerContext) -> None:
        """A script: hold the call until the test releases it or the caller goes away."""
        context.add_callback(self._note_end)
        self.blocked.set()
        assert self.release.wait(_PATIENCE_S)

    def stop(self) -> None:
        self.release.set()
        self._server.stop(None).wait(_PATIENCE_S)

    def _note_end(self) -> None:
        self.cancelled.set()
        self.release.set()

    def _score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        self.calls += 1
        self.script(self.calls, context)
        return _answer(request, self.address)

    def _score_batch(self, request: pb.ScoreBatchRequest, context: grpc.ServicerContext) -> pb.ScoreBatchResponse:
        self.calls += 1
        self.script(self.calls, context)
        results = [_result(index, item, self.address) for index, item in enumerate(request.items)]
        return pb.ScoreBatchResponse(results=reversed([result for result in results if result.code != -1]))


def _answer(request: pb.ScoreRequest, served_by: str) -> pb.ScoreResponse:
    sums = np.array(request.dense_double or request.dense_float).reshape(request.row_count, -1).sum(axis=1)
    value = pb.Output(name="value", regression=pb.Regression(values=sums if request.model != "short" else sums[1:]))
    selector = request.WhichOneof("selector")
    return pb.ScoreResponse(
        model_version=f"{selector}={getattr(request, selector)}" if selector else "live",
        outputs=[value],
        residency=pb.RESIDENCY_HIT,
        request_id=request.request_id,
        served_by=served_by,
    )


def _result(index: int, item: pb.ScoreRequest, served_by: str) -> pb.ScoreResult:
    """Fails items by the name of their model; code -1 stands for an item that gets no answer."""
    if item.model == "absent":
        return pb.ScoreResult(index=index, code=5, reason="MODEL_NOT_FOUND", message="no model acme/absent")
    if item.model == "busy":
        return pb.ScoreResult(index=index, code=8, reason="OVERLOADED", message="queue full", retry_after_ms=40)
    if item.model == "forgotten":
        return pb.ScoreResult(index=index, code=-1)
    return pb.ScoreResult(index=index, response=_answer(item, served_by))


@pytest.fixture
def start() -> Iterator[Callable[..., _Router]]:
    """Starts routers; stops them after the test."""
    with ExitStack() as routers:

        def start_one(credentials: grpc.ServerCredentials | None = None) -> _Router:
            router = _Router(credentials)
            routers.callback(router.stop)
            return router

        yield start_one


@pytest.fixture(params=["threads", "asyncio"])
def caller(request: pytest.FixtureRequest) -> type[_Threads] | type[_Asyncio]:
    return {"threads": _Threads, "asyncio": _Asyncio}[request.param]


class _Asyncio:
    """An `AsyncClient`; the shape that `_Threads` copies."""

    def __init__(self, addresses: str | Sequence[str], **named: Any) -> None:
        self.client: Any = AsyncClient(addresses, **named)

    async def score(self, *args: Any, **named: Any) -> Scores:
        result: Scores = await self.client.score(*args, **named)
        return result

    async def score_batch(self, items: list[ScoreItem]) -> list[Scores | ScoreError]:
        result: list[Scores | ScoreError] = await self.client.score_batch(items, timeout_s=_PATIENCE_S)
        return result

    async def aclose(self) -> None:
        await self.client.aclose()

    async def __aenter__(self) -> _Asyncio:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.client.__aexit__(*exception)


class _Threads(_Asyncio):
    """A `Client`, each call in a thread."""

    def __init__(self, addresses: str | Sequence[str], **named: Any) -> None:
        self.client = Client(addresses, **named)

    async def score(self, *args: Any, **named: Any) -> Scores:
        return await asyncio.to_thread(lambda: self.client.score(*args, **named))

    async def score_batch(self, items: list[ScoreItem]) -> list[Scores | ScoreError]:
        return await asyncio.to_thread(lambda: self.client.score_batch(items, timeout_s=_PATIENCE_S))

    async def aclose(self) -> None:
        self.client.close()

    async def __aenter__(self) -> _Threads:
        self.client.__enter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.client.__exit__(None, None, None)


_Caller = type[_Threads] | type[_Asyncio]
_Start = Callable[..., _Router]
_ROWS = [[1.0, 2.0], [3.0, 4.0]]


def _always(code: grpc.StatusCode, trailers: Any = ()) -> Callable[[int, grpc.ServicerContext], None]:
    def script(call: int, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(trailers)
        context.abort(code, "as the test wants it")

    return script


async def _until(condition: Callable[[], bool], act: Callable[[], Any]) -> None:
    """Repeat an act until it had the wanted effect."""
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        await act()


async def test_scores_come_back(start: _Start, caller: _Caller) -> None:
    router = start()
    async with caller(router.address) as client:
        scores = await client.score("acme", "sum", _ROWS, version="3", request_id="r1", timeout_s=_PATIENCE_S)
        assert scores.values.tolist() == [3.0, 7.0]
        assert (scores.version, scores.request_id) == ("version=3", "r1")
        assert (scores.residency, scores.served_by) == (Residency.HIT, router.address)
        single = np.array(_ROWS, dtype=np.float32)
        by_alias = await client.score("acme", "sum", single, alias="candidate", timeout_s=_PATIENCE_S)
        assert (by_alias.version, by_alias.values.tolist()) == ("alias=candidate", [3.0, 7.0])


async def test_wrong_arguments_are_never_sent(start: _Start, caller: _Caller) -> None:
    router = start()
    async with caller(router.address) as client:
        with pytest.raises(ValueError, match="not for both"):
            await client.score("acme", "sum", _ROWS, version="3", alias="live")
    assert router.calls == 0


async def test_errors_carry_reason_and_retry_hint(start: _Start, caller: _Caller) -> None:
    router = start()
    status = status_pb2.Status(code=8, message="queue full", details=[any_pb2.Any(), any_pb2.Any()])
    status.details[0].Pack(error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="scoremesh"))
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1250)
    status.details[1].Pack(retry)
    trailers = [("grpc-status-details-bin", status.SerializeToString())]
    router.script = _always(grpc.StatusCode.RESOURCE_EXHAUSTED, trailers)
    async with caller(router.address) as client:
        with pytest.raises(ScoreError) as caught:
            await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert (error.message, error.retry_after_ms) == ("as the test wants it", 1250)
    assert router.calls == 1, "a full queue must not be asked again"


@pytest.mark.parametrize("details", [b"\xff\xff garbage", None, "foreign"])
async def test_a_status_without_our_details_still_counts(start: _Start, caller: _Caller, details: Any) -> None:
    router = start()
    if details == "foreign":
        status = status_pb2.Status(code=9, details=[any_pb2.Any()])
        status.details[0].Pack(error_details_pb2.ErrorInfo(reason="PROXY_SAYS_NO", domain="proxy.example"))
        details = status.SerializeToString()
    trailers = [] if details is None else [("grpc-status-details-bin", details)]
    router.script = _always(grpc.StatusCode.FAILED_PRECONDITION, trailers)
    async with caller(router.address) as client:
        with pytest.raises(ScoreError) as caught:
            await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FAILED_PRECONDITION")


async def test_unavailable_is_retried_on_another_router(start: _Start, caller: _Caller) -> None:
    bad, good = start(), start()
    bad.script = _always(grpc.StatusCode.UNAVAILABLE)
    async with caller([bad.address, good.address]) as client:

        async def ask() -> None:
            scores = await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
            assert scores.served_by == good.address

        await _until(lambda: bad.calls >= 3, ask)


async def test_calls_go_round_the_routers(start: _Start, caller: _Caller) -> None:
    routers = [start(), start(), start()]
    async with caller([router.address for router in routers]) as client:

        async def ask() -> None:
            await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)

        await _until(lambda: all(router.calls >= 2 for router in routers), ask)


async def test_a_router_that_stops_is_left_out(start: _Start, caller: _Caller) -> None:
    stopping, staying = start(), start()
    async with caller([stopping.address, staying.address]) as client:

        async def ask() -> None:
            await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)

        await _until(lambda: stopping.calls > 0 and staying.calls > 0, ask)
        stopping.stop()
        answers = [await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S) for _ in range(5)]
    assert {scores.served_by for scores in answers} == {staying.address}


async def test_a_router_that_falls_silent_just_after_an_answer_is_given_up(start: _Start, caller: _Caller) -> None:
    """The first answer of a connection makes gRPC send a ping of its own, which keeps back the client's."""
    lost, good = start(), start()
    lost.script = lost.block
    async with fault_proxy(lost.address) as proxy, caller([proxy.address, good.address]) as client:

        async def ask() -> Scores:
            return await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)

        asked = []

        async def ask_one_more() -> None:
            asked.append(asyncio.create_task(ask()))
            await asyncio.sleep(0.01)

        await _until(lambda: lost.calls > 0, ask_one_more)
        # A connection made anew would look well: a server sends its settings without having heard anything.
        proxy.up.dropping = proxy.refusing = True
        lost.release.set()
        await asyncio.gather(*asked)
        answers = await asyncio.gather(*(ask() for _ in range(4)))
    assert {scores.served_by for scores in answers} == {good.address}


async def test_a_large_request_is_retried_too(start: _Start, caller: _Caller) -> None:
    router = start()

    def fail_once(call: int, context: grpc.ServicerContext) -> None:
        if call == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    router.script = fail_once
    rows = np.ones((1000, 1000))
    async with caller(router.address) as client:
        scores = await client.score("acme", "sum", rows, timeout_s=_PATIENCE_S)
    assert scores.values.tolist() == [1000.0] * 1000
    assert router.calls == 2


async def test_an_answer_over_the_default_limit_of_grpc_comes_back(start: _Start, caller: _Caller) -> None:
    rows = np.ones((700_000, 1))
    async with caller(start().address) as client:
        scores = await client.score("acme", "sum", rows, timeout_s=_PATIENCE_S)
    assert scores.values.nbytes == 5_600_000


async def test_at_most_three_attempts_and_none_in_an_outage(start: _Start, caller: _Caller) -> None:
    router = start()
    router.script = _always(grpc.StatusCode.UNAVAILABLE)
    async with caller(router.address) as client:

        async def fail() -> None:
            with pytest.raises(ScoreError) as caught:
                await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
            assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")

        await fail()
        assert router.calls == 3
        await asyncio.gather(*(fail() for _ in range(250)))  # 500 failures are what it takes
        calls_before = router.calls
        for _ in range(5):
            await fail()
        assert router.calls == calls_before + 5, "the throttle must have stopped all retries"


async def test_a_refused_connection_is_unavailable(caller: _Caller) -> None:
    with socket.socket() as bound_but_deaf:
        bound_but_deaf.bind(("127.0.0.1", 0))
        async with caller(f"127.0.0.1:{bound_but_deaf.getsockname()[1]}") as client:
            with pytest.raises(ScoreError) as caught:
                await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


async def test_the_deadline_ends_a_call(start: _Start, caller: _Caller) -> None:
    router = start()
    router.script = router.block
    async with caller(router.address) as client:
        with pytest.raises(ScoreError) as caught:
            await client.score("acme", "sum", _ROWS, timeout_s=0.2)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_cancelling_the_task_cancels_the_call(start: _Start) -> None:
    router = start()
    router.script = router.block
    async with AsyncClient(router.address) as client:
        task = asyncio.create_task(client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S))
        assert await asyncio.to_thread(router.blocked.wait, _PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(router.cancelled.wait, _PATIENCE_S)


async def test_closing_cancels_what_waits(start: _Start) -> None:
    router = start()
    router.script = router.block
    client = Client(router.address)
    waiting = asyncio.create_task(asyncio.to_thread(client.score, "acme", "sum", _ROWS, timeout_s=_PATIENCE_S))
    assert await asyncio.to_thread(router.blocked.wait, _PATIENCE_S)
    client.close()
    with pytest.raises(ScoreError) as caught:
        await waiting
    assert caught.value.code is grpc.StatusCode.CANCELLED


async def test_a_closed_client_refuses(start: _Start, caller: _Caller) -> None:
    router = start()
    client = caller(router.address)
    await client.aclose()
    await client.aclose()
    with pytest.raises(ScoreError) as caught:
        await client.score("acme", "sum", _ROWS)
    assert caught.value.reason == "CLIENT_CLOSED"
    with pytest.raises(ScoreError):
        await client.score_batch([ScoreItem("acme", "sum", _ROWS)])
    assert router.calls == 0


def test_an_async_client_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient("127.0.0.1:1")


async def test_a_batch_has_a_result_or_an_error_an_item(start: _Start, caller: _Caller) -> None:
    models = ["sum", "absent", "sum", "busy", "forgotten", "short"]
    items = [ScoreItem("acme", model, [[float(place)]]) for place, model in enumerate(models)]
    async with caller(start().address) as client:
        first, absent, third, busy, forgotten, short = await client.score_batch(items)
    assert isinstance(first, Scores)
    assert isinstance(third, Scores)
    assert (first.values.tolist(), third.values.tolist()) == ([0.0], [2.0])
    errors = [error for error in (absent, busy, forgotten, short) if isinstance(error, ScoreError)]
    assert [(error.code, error.reason, error.retry_after_ms) for error in errors] == [
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", 0),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 40),
        (grpc.StatusCode.INTERNAL, "MALFORMED_RESPONSE", 0),
        (grpc.StatusCode.INTERNAL, "MALFORMED_RESPONSE", 0),
    ]


async def test_a_batch_fails_as_a_whole_with_the_status_of_the_call(start: _Start, caller: _Caller) -> None:
    router = start()
    router.script = _always(grpc.StatusCode.PERMISSION_DENIED)
    async with caller(router.address) as client:
        with pytest.raises(ScoreError) as caught:
            await client.score_batch([ScoreItem("acme", "sum", _ROWS)])
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED


async def test_an_answer_of_the_wrong_size_is_an_error(start: _Start, caller: _Caller) -> None:
    async with caller(start().address) as client:
        with pytest.raises(ScoreError) as caught:
            await client.score("acme", "short", _ROWS, timeout_s=_PATIENCE_S)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INTERNAL, "MALFORMED_RESPONSE")


async def test_tls_with_several_routers(start: _Start, caller: _Caller) -> None:
    key, certificate = _self_signed("routers.example")
    server = grpc.ssl_server_credentials([(key, certificate)])
    addresses = [start(server).address, start(server).address]
    trusted = grpc.ssl_channel_credentials(certificate)
    async with caller(addresses, credentials=trusted, server_name="routers.example") as client:
        scores = await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
    assert scores.values.tolist() == [3.0, 7.0]
    with pytest.raises(ValueError, match="server_name"):
        caller(addresses, credentials=trusted)
    async with caller(addresses, credentials=trusted, server_name="somebody.else") as client:
        with pytest.raises(ScoreError) as caught:
            await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_tls_by_ip_address(start: _Start, caller: _Caller) -> None:
    key, certificate = _self_signed("routers.example")
    router = start(grpc.ssl_server_credentials([(key, certificate)]))
    async with caller(router.address, credentials=grpc.ssl_channel_credentials(certificate)) as client:
        scores = await client.score("acme", "sum", _ROWS, timeout_s=_PATIENCE_S)
    assert scores.served_by == router.address


def _self_signed(name: str) -> tuple[bytes, bytes]:
    """A key and a certificate for a name and 127.0.0.1, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)
