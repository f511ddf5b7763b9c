"""The front that the project serves with: its own HTTP/2 connection on the event loop's own sockets, TLS included.

One thread does all: a burst of requests is read by one system call and its answers leave by one. What a call costs, and
what it costs in the other fronts, is in docs/adr/0004-own-http2-server.md.

Deadlines: the caller's own clock is what counts; a sweep every 50 ms fails what was forgotten past its deadline.
Draining: each connection is told to take no more calls; those that cross with that are refused so that gRPC clients
repeat them on another connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from ssl import SSLContext

from registry.failure import Code, Failure
from registry.front import Gate, Method, wait_idle, wait_quiet
from registry.front_http2_call import Call, StreamCall
from registry.front_http2_peer import DEFAULT_PATIENCE, Patience, Peer

_SWEEP_S = 0.05
_CHECK_S = 1.0
_BACKLOG = 1024
_HANDSHAKE_S = 10.0  # of TLS
_CLOSE_S = 1.0
_STOPPED = Failure(Code.UNAVAILABLE, "the server has stopped", "STOPPED")


class Http2Front:
    """See `registry.front.Front`. `patience`: with peers that say nothing."""

    def __init__(
        self,
        address: str,
        gate: Gate,
        tls: SSLContext | None,
        patience: Patience = DEFAULT_PATIENCE,
        *,
        reuse_port: bool = False,
    ) -> None:
        self.gate = gate
        self.patience = patience
        self.draining = False
        self.peers: set[Peer] = set()
        self.table: dict[str, tuple[Callable[..., None], type[Call]]] = {}
        self._tls = tls
        self._socket = bind(address, reuse_port=reuse_port)
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._check_at = 0.0

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    async def start(self, methods: Sequence[Method]) -> None:
        self.loop = asyncio.get_running_loop()
        self.table = {m.path: (m.handler, StreamCall if m.streaming else Call) for m in methods}
        handshake_s, shutdown_s = (None, None) if self._tls is None else (_HANDSHAKE_S, _CLOSE_S)
        self._server = await self.loop.create_server(
            lambda: Peer(self),
            sock=self._socket,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=shutdown_s,
        )
        self._timer = self.loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_at(now + _SWEEP_S, self._sweep)
        for peer in list(self.peers):
            peer.expire(now)
        if now >= self._check_at:
            self._check_at = now + _CHECK_S
            for peer in list(self.peers):
                peer.check(now)

    def refuse_new(self, message: str) -> None:
        self.gate.close(message)
        self.draining = True
        if self._server is not None:
            self._server.close()
        for peer in list(self.peers):
            peer.go_away()

    async def idle(self, timeout_s: float) -> bool:
        return await wait_idle(self.gate, timeout_s)

    async def quiet(self, quiet_s: float, timeout_s: float) -> bool:
        return await wait_quiet(self.gate, quiet_s, timeout_s)

    async def stop(self) -> None:
        """Answers that are under way get a second to leave."""
        if self._timer is not None:
            self._timer.cancel()
        self.draining = True
        if self._server is not None:
            self._server.close()
        self._socket.close()
        try:
            for peer in list(self.peers):
                peer.close(_STOPPED)
            await self._wait_closed(_CLOSE_S)
        finally:
            for peer in list(self.peers):
                peer.abort()
        await self._wait_closed(_CLOSE_S)  # the transports tell their protocols in later turns of the loop

    async def _wait_closed(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self.peers and loop.time() < until:
            await asyncio.sleep(0.005)


def bind(address: str, *, reuse_port: bool = False) -> socket.socket:
    """A socket that is bound and doesn't listen yet. `reuse_port`: others may bind the same port, if they say so, too.

    Raises:
        OSError: the address can't be bound.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _name, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, ValueError) as error:
        raise OSError(f"can't listen on {address}: {error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise OSError(f"can't listen on {address}: {error}") from error
    bound.setblocking(False)
    return bound
