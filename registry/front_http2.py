"""The front that the project serves with: its own HTTP/2 connection on the event loop's own sockets, TLS included.

One thread does all: a burst of requests is read by one system call and its answers leave by one. A request costs about
4 us of CPU in here, against 27 in the native front and 300 in grpcio's (docs/adr/0004-own-http2-server.md).

Backpressure: while a peer reads its answers too slowly, nothing more is read from it. Deadlines: the caller's own clock
is what counts; a sweep every 50 ms fails what was forgotten past its deadline.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from math import inf
from ssl import SSLContext

from registry.failure import Code, Failure
from registry.front import Gate, Method, run_handler, wait_idle, wait_quiet
from registry.http2.server_connection import Cancelled, Request, ServerConnection, Unreadable
from registry.status import trailers

_SWEEP_S = 0.05
_BACKLOG = 1024
_CLOSE_S = 1.0
_TOO_LATE = Failure(Code.DEADLINE_EXCEEDED, "the deadline of the call passed", "DEADLINE_EXCEEDED")


class _Call:
    """A unary call."""

    __slots__ = ("_id", "_peer", "deadline", "on_cancel", "payload")

    def __init__(self, peer: _Peer, stream_id: int, payload: bytes, deadline: float) -> None:
        self._peer = peer
        self._id = stream_id
        self.payload = payload
        self.deadline = deadline
        self.on_cancel: Callable[[], None] | None = None

    def respond(self, payload: bytes) -> None:
        peer = self._peer
        if peer.finish(self._id):
            peer.h2.respond(self._id, payload)
            peer.flush_soon()

    def end(self) -> None:
        raise RuntimeError("a unary call ends with its response")

    def fail(self, failure: Failure) -> None:
        peer = self._peer
        if peer.finish(self._id):
            peer.h2.fail(self._id, failure, trailers(failure))
            peer.flush_soon()


class _StreamCall(_Call):
    """A call that answers with a stream."""

    __slots__ = ()

    def respond(self, payload: bytes) -> None:
        self._peer.h2.send(self._id, payload)
        self._peer.flush_soon()

    def end(self) -> None:
        if self._peer.finish(self._id):
            self._peer.h2.end(self._id)
            self._peer.flush_soon()


class _Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, front: Http2Front) -> None:
        self._front = front
        self._loop = front.loop
        self.h2 = ServerConnection(front.gate.max_message_bytes)
        self.calls: dict[int, _Call] = {}
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._scheduled = False

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker: a stream server's transport
        self._transport = transport
        self._front.peers.add(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        events = self.h2.receive(data)
        # What is answered while the events are handled leaves in one write at the end.
        self._scheduled = True
        for event in events:
            if isinstance(event, Request):
                self._begin(event)
            elif isinstance(event, Cancelled):
                self._cancel(event.stream_id)
            else:
                self._refuse(event)
        self._flush()
        if self.h2.failed and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.peers.discard(self)
        self._transport = None
        for stream_id in list(self.calls):
            self._cancel(stream_id)

    def pause_writing(self) -> None:
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._flush()

    # --- calls ---

    def _begin(self, request: Request) -> None:
        front = self._front
        found = front.table.get(request.path)
        if found is None:
            text = f"unknown method {request.path}"
            self.h2.fail(request.stream_id, Failure(Code.UNIMPLEMENTED, text, "UNKNOWN_METHOD"))
            return
        handler, kind = found
        timeout_s = request.timeout_s
        deadline = inf if timeout_s is None else self._loop.time() + timeout_s
        call = self.calls[request.stream_id] = kind(self, request.stream_id, request.payload, deadline)
        front.gate.enter()
        refusal = front.gate.refusal(len(request.payload))
        if refusal is not None:
            call.fail(refusal)
        else:
            run_handler(handler, call)

    def _refuse(self, event: Unreadable) -> None:
        self.h2.fail(event.stream_id, event.failure, trailers(event.failure))

    def finish(self, stream_id: int) -> bool:
        """Count a call as finished; False when it was already."""
        if self.calls.pop(stream_id, None) is None:
            return False
        self._front.gate.leave()
        return True

    def _cancel(self, stream_id: int) -> None:
        call = self.calls.get(stream_id)
        if call is not None:
            self.finish(stream_id)
            if call.on_cancel is not None:
                call.on_cancel()

    def expire(self, now: float) -> None:
        """Fail the calls whose deadline is past."""
        for call in [call for call in self.calls.values() if call.deadline <= now]:
            on_cancel = call.on_cancel
            call.fail(_TOO_LATE)
            if on_cancel is not None:
                on_cancel()

    # --- output ---

    def flush_soon(self) -> None:
        """Write what is answered in this turn of the loop, in one piece."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._transport is not None and not self._paused and self.h2.output:
            self._transport.write(self.h2.take_output())

    def go_away(self) -> None:
        """Ask the peer to use another connection."""
        self.h2.go_away()
        self._flush()

    def close(self) -> None:
        """Close once what was answered is written."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class Http2Front:
    """See `registry.front.Front`."""

    def __init__(self, address: str, gate: Gate, tls: SSLContext | None) -> None:
        self.gate = gate
        self.peers: set[_Peer] = set()
        self.table: dict[str, tuple[Callable[..., None], type[_Call]]] = {}
        self._tls = tls
        self._socket = _bind(address)
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    async def start(self, methods: Sequence[Method]) -> None:
        self.loop = asyncio.get_running_loop()
        self.table = {m.path: (m.handler, _StreamCall if m.streaming else _Call) for m in methods}
        self._server = await self.loop.create_server(
            lambda: _Peer(self), sock=self._socket, backlog=_BACKLOG, ssl=self._tls
        )
        self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self.loop.time()
            for peer in list(self.peers):
                peer.expire(now)

    def refuse_new(self, message: str) -> None:
        self.gate.close(message)
        if self._server is not None:
            self._server.close()
        for peer in list(self.peers):
            peer.go_away()

    async def idle(self, timeout_s: float) -> bool:
        return await wait_idle(self.gate, timeout_s)

    async def quiet(self, quiet_s: float, timeout_s: float) -> bool:
        return await wait_quiet(self.gate, quiet_s, timeout_s)

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for peer in list(self.peers):
            peer.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + _CLOSE_S
        while self.peers and loop.time() < until:
            await asyncio.sleep(0.01)
        for peer in list(self.peers):
            peer.abort()
        await asyncio.sleep(0)  # let the transports tell their protocols


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _name, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, ValueError) as error:
        raise OSError(f"can't listen on {address}: {error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise OSError(f"can't listen on {address}: {error}") from error
    bound.setblocking(False)
    return bound
