"""All fronts behave alike: what the code behind a front may rely on, whichever server carries the calls."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.errors import error_of_call
from registry.errors import OverloadedError
from registry.front import Call, Front, Method
from registry.health import Health
from registry.server import FRONTS, listen
from registry.status import failure_of

_UNARY, _STREAM = "/test.Test/Unary", "/test.Test/Stream"
_PATIENCE_S = 20.0
_LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


def _unary(channel: grpc.aio.Channel, path: str = _UNARY) -> _Unary:
    return channel.unary_unary(path)


class Served:
    """A front with one unary and one streaming method, and a channel to it. `calls`: those that came in."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.calls: list[Call] = []
        self.cancelled: list[Call] = []
        self.unary_handler: Callable[[Call], None] = lambda call: call.respond(call.payload)
        self.stream_handler: Callable[[Call], None] = lambda call: call.end()
        self.health = Health(["test.Test"])

    async def start(self) -> None:
        methods = [Method(_UNARY, self._unary), Method(_STREAM, self._stream, streaming=True)]
        await self.front.start([*methods, *self.health.methods()])
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.front.port}", _LARGE)
        self.unary: _Unary = self.channel.unary_unary(_UNARY)
        self.stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(_STREAM)

    def _unary(self, call: Call) -> None:
        self._take(call)
        self.unary_handler(call)

    def _stream(self, call: Call) -> None:
        self._take(call)
        self.stream_handler(call)

    def _take(self, call: Call) -> None:
        self.calls.append(call)
        call.on_cancel = lambda: self.cancelled.append(call)

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture(params=FRONTS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    served = Served(listen("127.0.0.1:0", front=request.param, max_message_bytes=1 << 20))
    await served.start()
    yield served
    await served.channel.close()
    await served.front.stop()


async def _failure(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def _hold(_call: Call) -> None:
    """Leave the call open."""


async def test_an_answer_comes_back(served: Served) -> None:
    assert await served.unary(b"hello", timeout=_PATIENCE_S) == b"hello"
    assert await served.unary(b"", timeout=_PATIENCE_S) == b""
    assert await served.unary(b"x" * (1 << 20), timeout=_PATIENCE_S) == b"x" * (1 << 20)


async def test_the_deadline_of_the_caller_is_known(served: Served) -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await served.unary(b"", timeout=50)
    assert before + 49 < served.calls[0].deadline <= loop.time() + 51  # gRPC rounds up on the wire
    await served.unary(b"")
    assert served.calls[1].deadline == inf


async def test_an_answer_may_come_later_and_in_any_order(served: Served) -> None:
    served.unary_handler = _hold
    waiting = [asyncio.ensure_future(served.unary(b"%d" % number, timeout=_PATIENCE_S)) for number in range(200)]
    await served.wait(lambda: len(served.calls) == 200)
    for call in reversed(served.calls):
        call.respond(call.payload)
    assert await asyncio.gather(*waiting) == [b"%d" % number for number in range(200)]
    assert served.cancelled == []


async def test_many_calls_from_many_connections(served: Served) -> None:
    target = f"127.0.0.1:{served.front.port}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(10)]
    methods = [_unary(channel) for channel in channels]
    calls = [method(b"%d" % i, timeout=_PATIENCE_S) for i in range(50) for method in methods]
    assert await asyncio.gather(*calls) == [b"%d" % i for i in range(50) for _ in channels]
    for channel in channels:
        await channel.close()


async def test_a_failure_carries_reason_and_hint(served: Served) -> None:
    def refuse(_call: Call) -> None:
        raise OverloadedError("the queue is full: äöü\n100 %", retry_after_ms=70)

    served.unary_handler = served.stream_handler = refuse
    stream = served.stream(b"", timeout=_PATIENCE_S)
    for call in (served.unary(b"", timeout=_PATIENCE_S), anext(aiter(stream))):
        error = error_of_call(await _failure(call))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert (error.message, error.retry_after_ms) == ("the queue is full: äöü\n100 %", 70)


async def test_a_handler_that_raises_shows_an_incident_only(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_call: Call) -> None:
        raise RuntimeError("the password is 1234")

    served.unary_handler = fail
    with caplog.at_level(logging.ERROR):
        error = await _failure(served.unary(b"", timeout=_PATIENCE_S))
    assert error.code() is grpc.StatusCode.INTERNAL
    text = error.details() or ""
    assert text.startswith("internal error, incident ")
    assert "1234" not in text + str(error.trailing_metadata())
    assert text.rpartition(" ")[2] in caplog.text, "an operator finds the incident in the log"
    served.unary_handler = lambda call: call.respond(b"fine")
    assert await served.unary(b"", timeout=_PATIENCE_S) == b"fine"


async def test_a_stream_arrives_in_order(served: Served) -> None:
    def answer(call: Call) -> None:
        for number in range(50):
            call.respond(b"%d" % number)
        call.end()

    served.stream_handler = answer
    parts = [part async for part in served.stream(b"", timeout=_PATIENCE_S)]
    assert parts == [b"%d" % number for number in range(50)]


async def test_a_stream_may_end_without_a_message_or_fail_after_some(served: Served) -> None:
    assert [part async for part in served.stream(b"", timeout=_PATIENCE_S)] == []
    served.stream_handler = _hold
    parts = aiter(served.stream(b"", timeout=_PATIENCE_S))
    reading = asyncio.ensure_future(anext(parts))
    await served.wait(lambda: len(served.calls) == 2)
    served.calls[1].respond(b"first")
    assert await reading == b"first"
    served.calls[1].fail(failure_of(OverloadedError("enough")))
    assert (await _failure(anext(parts))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_slow_readers_get_all_and_hold_nobody(served: Served) -> None:
    """More slow readers than a thread pool has threads, each with far more on its way than a window takes."""
    piece, count, readers = bytes(200_000), 40, 12

    def answer(call: Call) -> None:
        for number in range(count):
            call.respond(b"%03d" % number + piece)
        call.end()

    served.stream_handler = answer
    slow = [aiter(served.stream(b"", timeout=_PATIENCE_S)) for _ in range(readers)]
    firsts = [await anext(stream) for stream in slow]
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{served.front.port}", [("grpc.use_local_subchannel_pool", 1)]
    ) as other:
        assert await _unary(other)(b"quick", timeout=_PATIENCE_S) == b"quick"
    for first, stream in zip(firsts, slow, strict=True):
        parts = [first, *[part async for part in stream]]
        assert [int(part[:3]) for part in parts] == list(range(count))
        assert {len(part) for part in parts} == {len(piece) + 3}


async def test_stopping_does_not_wait_for_slow_readers(served: Served) -> None:
    def answer(call: Call) -> None:
        for _ in range(40):
            call.respond(bytes(200_000))
        call.end()

    served.stream_handler = answer
    slow = [aiter(served.stream(b"", timeout=_PATIENCE_S)) for _ in range(12)]
    for stream in slow:
        assert await anext(stream)
    async with asyncio.timeout(_PATIENCE_S / 2):
        await served.front.stop()


async def test_a_cancelled_call_is_told_once(served: Served) -> None:
    served.unary_handler = served.stream_handler = _hold
    for method in (served.unary, served.stream):
        known = len(served.calls)
        call = method(b"", timeout=_PATIENCE_S)
        reading = asyncio.ensure_future(call.read() if hasattr(call, "read") else _value(call))
        await served.wait(lambda: len(served.calls) > known)  # noqa: B023
        assert call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await served.wait(lambda: len(served.cancelled) > known)  # noqa: B023
    for taken in served.calls:  # answers that cross with the cancellation are ignored
        taken.respond(b"late")
    assert await served.front.idle(_PATIENCE_S)
    assert served.cancelled == served.calls


async def _value(call: Awaitable[bytes]) -> bytes:
    return await call


async def test_a_deadline_is_told_once(served: Served) -> None:
    served.unary_handler = served.stream_handler = _hold
    assert (await _failure(served.unary(b"", timeout=0.2))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await _failure(anext(aiter(served.stream(b"", timeout=0.2))))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await served.wait(lambda: len(served.cancelled) == 2)
    served.calls[0].respond(b"late")
    served.calls[1].end()
    assert await served.front.idle(_PATIENCE_S)
    assert served.cancelled == served.calls


async def test_a_connection_that_breaks_cancels_its_calls(served: Served) -> None:
    served.unary_handler = _hold
    other = grpc.aio.insecure_channel(f"127.0.0.1:{served.front.port}", [("grpc.use_local_subchannel_pool", 1)])
    waiting = asyncio.ensure_future(_value(_unary(other)(b"", timeout=_PATIENCE_S)))
    await served.wait(lambda: len(served.calls) == 1)
    await other.close()
    await asyncio.gather(waiting, return_exceptions=True)
    await served.wait(lambda: served.cancelled == served.calls)


async def test_an_answered_call_is_not_cancelled(served: Served) -> None:
    await served.unary(b"", timeout=_PATIENCE_S)
    served.calls[0].respond(b"again")
    await served.channel.close()
    await served.front.stop()
    assert served.cancelled == []


async def test_new_calls_are_refused_while_running_ones_go_on(served: Served) -> None:
    served.unary_handler = _hold
    waiting = asyncio.ensure_future(_value(served.unary(b"", timeout=_PATIENCE_S)))
    await served.wait(lambda: len(served.calls) == 1)
    assert not await served.front.idle(0.05)
    served.front.refuse_new("this server is shutting down")
    error = await _failure(served.unary(b"", timeout=_PATIENCE_S))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    served.calls[0].respond(b"done")
    assert await waiting == b"done"
    assert await served.front.idle(_PATIENCE_S)
    assert len(served.calls) == 1, "the refused call did not reach the handler"


async def test_quiet_is_when_nobody_calls(served: Served) -> None:
    stopped = False

    async def keep_calling() -> None:
        while not stopped:
            await served.unary(b"", timeout=_PATIENCE_S)

    calling = asyncio.create_task(keep_calling())
    assert not await served.front.quiet(0.2, 0.5)
    stopped = True
    await calling
    assert await served.front.quiet(0.05, _PATIENCE_S)


async def test_stopping_ends_running_calls(served: Served) -> None:
    served.unary_handler = _hold
    waiting = asyncio.ensure_future(_value(served.unary(b"", timeout=_PATIENCE_S)))
    await served.wait(lambda: len(served.calls) == 1)
    await served.front.stop()
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await waiting
    await served.wait(lambda: served.cancelled == served.calls)


async def test_a_message_over_the_limit(served: Served) -> None:
    for size in ((1 << 20) + 1, 5 << 20):
        error = await _failure(served.unary(bytes(size), timeout=_PATIENCE_S))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.calls == []
    assert await served.unary(b"small", timeout=_PATIENCE_S) == b"small"


async def test_an_unknown_method(served: Served) -> None:
    error = await _failure(_unary(served.channel, "/test.Test/None")(b"", timeout=_PATIENCE_S))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_check_and_watch(served: Served) -> None:
    stub = health_pb2_grpc.HealthStub(served.channel)
    for service in ("", "test.Test"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert (await stub.Check(request, timeout=_PATIENCE_S)).status == 2
    watch = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="test.Test"), timeout=_PATIENCE_S))
    assert (await anext(watch)).status == 2
    served.health.set_ready(True)
    assert (await anext(watch)).status == 1
    assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)).status == 1
    served.health.set_ready(False)
    assert (await anext(watch)).status == 2
    served.health.end_watches()
    assert [part async for part in watch] == []
    unknown = stub.Check(health_pb2.HealthCheckRequest(service="none"), timeout=_PATIENCE_S)
    assert (await _failure(unknown)).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("front", FRONTS)
async def test_an_address_in_use(served: Served, front: str) -> None:
    with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{served.front.port}"):
        listen(f"127.0.0.1:{served.front.port}", front=front)


@pytest.mark.parametrize("front", FRONTS)
async def test_a_front_that_never_started_stops(front: str) -> None:
    await listen("127.0.0.1:0", front=front).stop()


async def test_nothing_is_left_behind(served: Served) -> None:
    assert await served.unary(b"", timeout=_PATIENCE_S) == b""
    await served.channel.close()
    await served.front.stop()
    await served.wait(lambda: not any(t.name == "front-receive" for t in threading.enumerate()))
