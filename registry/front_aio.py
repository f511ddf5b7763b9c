"""A front on grpcio's own `grpc.aio` server, for comparison and as a way out.

A limit of grpcio that the other fronts don't have: it can't ask callers to go elsewhere before it stops, and a call
that it has read but not handed over when it stops ends as CANCELLED, which clients don't retry. So a drain under load
may cost a few requests here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf

import grpc

from registry.failure import Failure
from registry.front import Gate, Handler, Method, run_handler, wait_idle, wait_quiet
from registry.status import status_of, trailers

_GRACE_S = 0.2
# Routers ping a scorer that is silent while it has their items; grpcio by default closes the connection for that.
_PINGS = (("grpc.http2.min_recv_ping_interval_without_data_ms", 50), ("grpc.http2.max_ping_strikes", 0))
_Context = grpc.aio.ServicerContext[bytes, bytes]


class _AioCall:
    """A call whose coroutine waits in `answers` for what is to be sent: bytes, a failure, or None for the end."""

    __slots__ = ("answers", "deadline", "on_cancel", "payload")

    def __init__(self, payload: bytes, deadline: float) -> None:
        self.payload = payload
        self.deadline = deadline
        self.on_cancel: Callable[[], None] | None = None
        self.answers: asyncio.Queue[bytes | Failure | None] = asyncio.Queue()

    def respond(self, payload: bytes) -> None:
        self.answers.put_nowait(payload)

    def end(self) -> None:
        self.answers.put_nowait(None)

    def fail(self, failure: Failure) -> None:
        self.answers.put_nowait(failure)


class AioFront:
    """See `registry.front.Front`."""

    def __init__(
        self,
        address: str,
        gate: Gate,
        credentials: grpc.ServerCredentials | None,
        *,
        reuse_port: bool = False,
    ) -> None:
        self._gate = gate
        # Up to twice the limit the message comes in and is refused with our own words; above it grpcio refuses it.
        limit = ("grpc.max_receive_message_length", 2 * gate.max_message_bytes)
        self._server = grpc.aio.server(options=[limit, *_PINGS, ("grpc.so_reuseport", int(reuse_port))])
        self._port = self._bind(address, credentials)

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is not None:
                return self._server.add_secure_port(address, credentials)
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}: {error}") from error

    def _generic(self, methods: Sequence[Method]) -> grpc.GenericRpcHandler:
        handlers = {method.path: self._method(method) for method in methods}

        class Generic(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
                return handlers.get(details.method)

        return Generic()

    def _method(self, method: Method) -> grpc.RpcMethodHandler[bytes, bytes]:
        run = self._behaviour(method.handler, method.streaming)
        if method.streaming:
            return grpc.unary_stream_rpc_method_handler(run)
        return grpc.unary_unary_rpc_method_handler(run)

    def _behaviour(self, handler: Handler, streaming: bool) -> Callable[[bytes, _Context], Awaitable[bytes | None]]:
        async def run(payload: bytes, context: _Context) -> bytes | None:
            left_s = context.time_remaining()
            now = asyncio.get_running_loop().time()
            call = _AioCall(payload, inf if left_s is None else now + left_s)
            self._gate.enter()
            try:
                self._begin(handler, call)
                return await self._answer(call, context, streaming)
            except asyncio.CancelledError:
                if call.on_cancel is not None:
                    call.on_cancel()
                raise
            finally:
                call.on_cancel = None  # it refers to whoever has the call: a cycle that would keep the request's bytes
                self._gate.leave()

        return run

    def _begin(self, handler: Handler, call: _AioCall) -> None:
        refusal = self._gate.refusal(len(call.payload))
        if refusal is not None:
            call.fail(refusal)
        else:
            run_handler(handler, call)

    async def _answer(self, call: _AioCall, context: _Context, streaming: bool) -> bytes | None:
        while True:
            answer = await call.answers.get()
            if isinstance(answer, Failure):
                await context.abort(status_of(answer.code), answer.message, trailers(answer))
            if answer is None or not streaming:
                return answer
            await context.write(answer)

    @property
    def port(self) -> int:
        return self._port

    async def start(self, methods: Sequence[Method]) -> None:
        self._server.add_generic_rpc_handlers([self._generic(methods)])
        await self._server.start()

    def refuse_new(self, message: str) -> None:
        self._gate.close(message)

    async def idle(self, timeout_s: float) -> bool:
        return await wait_idle(self._gate, timeout_s)

    async def quiet(self, quiet_s: float, timeout_s: float) -> bool:
        return await wait_quiet(self._gate, quiet_s, timeout_s)

    async def stop(self) -> None:
        # A call that came in after the last one had finished is refused in this time, instead of cancelled.
        await self._server.stop(_GRACE_S)
