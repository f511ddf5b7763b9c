"""A channel to one server: calls of one server-streaming gRPC method, over one HTTP/2 connection at a time.

Contract: `call` never blocks and never raises for the network's sake; what becomes of a call is told to its `Receiver`,
exactly once by `on_end` unless the call is cancelled. The callbacks are plain functions: a call costs no task and no
future. A channel belongs to the event loop in which it was made.

Life: the first call, or `connect`, opens the connection. From then on the channel keeps itself connected until
`aclose`. A connection lost after it has served a while is replaced at once; an attempt that fails is repeated after a
backoff. Calls wait while the channel connects; they end with UNAVAILABLE as soon as the attempt fails, and calls made
during a backoff end so at once. After a GOAWAY, new calls go to a new connection while the old one finishes its own.

Deadlines: one timer for all calls; it looks at all open calls when the earliest known deadline comes, but not more
often than every 5 ms.

A server built on the C core of gRPC takes pings for abuse that come too often while it is silent; where calls stay
unanswered for several times `keepalive_s`, let it allow them (grpc.http2.min_recv_ping_interval_without_data_ms).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from ssl import SSLContext, SSLError

from registry.failure import Code
from router.h2 import H2Connection
from router.h2_transport import H2Transport, Handle, Receiver

__all__ = ["Channel", "Handle", "Receiver", "State"]

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
_STABLE_S = 1.0  # a connection that lived less long counts as a failed attempt
_SWEEP_S = 0.005
_CLOSE_TIMEOUT_S = 1.0
_NEVER = float("inf")


class State(Enum):
    """What a channel does now."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    BACKOFF = "backoff"
    CLOSED = "closed"


class Channel:
    """Calls of one method of one server.

    `address`: `host:port`, an IPv6 host in brackets. `path`: of the method, as `/package.Service/Method`. `ssl`: speak
    TLS; its ALPN protocols are set to h2. `connect_timeout_s`: for one attempt, until the server's SETTINGS are there.
    `keepalive_s`: with calls open and nothing heard for so long, ping; when nothing comes for so long again, the
    connection is lost. `max_message_bytes`: a longer response ends its call with RESOURCE_EXHAUSTED. `jitter`: returns
    numbers in [0, 1).
    """

    def __init__(
        self,
        address: str,
        path: bytes,
        *,
        ssl: SSLContext | None = None,
        connect_timeout_s: float = 1.0,
        keepalive_s: float = 5.0,
        max_message_bytes: int = 64 * 2**20,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._path = path
        self._ssl = ssl
        if ssl is not None:
            ssl.set_alpn_protocols(["h2"])
        self._connect_timeout_s = connect_timeout_s
        self._keepalive_s = keepalive_s
        self._max_message_bytes = max_message_bytes
        self._jitter = jitter
        self._state = State.IDLE
        self.down = False
        """Whether calls that are made now end at once with UNAVAILABLE: in BACKOFF and when CLOSED."""
        self._current: H2Transport | None = None
        self._transports: set[H2Transport] = set()  # the current one, and those that drain
        self._waiting: deque[Handle] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._failure = ""
        self._sweep_at = _NEVER
        self._sweep_timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> State:
        """What the channel does now. In BACKOFF calls fail at once."""
        return self._state

    @property
    def failure(self) -> str:
        """Why calls fail, for a person."""
        return self._failure

    @property
    def heard_at(self) -> float:
        """When anything came from the server, on the loop's clock; 0 where there is no connection."""
        return max((transport.heard_at for transport in self._transports), default=0.0)

    def ping(self) -> None:
        """Ask the server for a sign of life, which shows in `heard_at`."""
        for transport in self._transports:
            transport.ping()

    def connect(self) -> None:
        """Begin to connect, if the channel is idle."""
        if self._state is State.IDLE:
            self._reconnect(0.0)

    def call(self, payload: bytes, timeout_s: float, receiver: Receiver, metadata: bytes = b"") -> Handle:
        """Send one request message and hand the answer to `receiver`.

        `metadata`: more header fields, each encoded by `registry.http2.frames.literal`, at most 8 KiB (ValueError).
        """
        call = Handle(self._loop, payload, metadata, self._loop.time() + timeout_s, receiver)
        current = self._current
        if current is None or self._waiting or not current.start(call, timeout_s):
            self._wait(call)
        if call.deadline < self._sweep_at:
            self._plan_sweep(call.deadline)
        return call

    async def aclose(self) -> None:
        """End all calls with UNAVAILABLE and close the connections. Calls made later end so, too."""
        self._set(State.CLOSED)
        self._failure = "the channel was closed"
        self._current = None
        self._plan_sweep(_NEVER)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        transports = list(self._transports)
        for transport in transports:
            transport.close()
        self._refuse_waiting()
        try:
            if transports:
                await asyncio.wait([transport.lost for transport in transports], timeout=_CLOSE_TIMEOUT_S)
        finally:
            for transport in transports:
                transport.abort()

    def _set(self, state: State) -> None:
        self._state = state
        self.down = state in (State.BACKOFF, State.CLOSED)

    # --- calls that can't start now ---

    def _wait(self, call: Handle) -> None:
        if self._state in (State.BACKOFF, State.CLOSED):
            self._loop.call_soon(call.end, Code.UNAVAILABLE, self._failure, False)
            return
        self._waiting.append(call)
        self.connect()
        if self._current is not None and not self._current.accepts:  # its stream ids are used up
            self._on_change(self._current)

    def _refuse_waiting(self) -> None:
        refused = list(self._waiting)
        self._waiting.clear()
        for call in refused:
            call.end(Code.UNAVAILABLE, self._failure, False)

    # --- connecting ---

    def _reconnect(self, delay_s: float) -> None:
        self._set(State.CONNECTING)
        self._connecting = self._loop.create_task(self._connect(delay_s))

    async def _connect(self, delay_s: float) -> None:
        """Repeat attempts until one succeeds."""
        while True:
            if delay_s > 0:
                self._set(State.BACKOFF)
                self._refuse_waiting()
                await asyncio.sleep(delay_s)
                self._set(State.CONNECTING)
            transport = self._new_transport()
            failure = await self._attempt(transport)
            if transport.accepts:
                self._adopt(transport)
                return
            self._failure = f"can't connect to {self._address}: {failure or transport.failure or 'it is going away'}"
            delay_s = self._next_backoff_s()

    async def _attempt(self, transport: H2Transport) -> str:
        """One attempt; a connection that can't take calls after it is closed. Returns why, as far as is known here."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._loop.create_connection(lambda: transport, self._host, self._port, ssl=self._ssl)
                if self._ssl is not None and not transport.has_alpn:
                    return "the server does not speak HTTP/2 over TLS"
                await transport.became_ready
        except TimeoutError:
            return "no answer in time"
        except SSLError as error:
            return f"TLS: {error.reason}"
        except OSError as error:
            return os.strerror(error.errno) if error.errno else type(error).__name__
        finally:
            if not transport.accepts:
                transport.abort()
        return ""

    def _adopt(self, transport: H2Transport) -> None:
        self._current = transport
        self._transports.add(transport)
        self._set(State.READY)
        transport.start_waiting()

    def _new_transport(self) -> H2Transport:
        h2 = H2Connection(
            self._path,
            self._address.encode(),
            scheme=b"http" if self._ssl is None else b"https",
            max_message_bytes=self._max_message_bytes,
        )
        return H2Transport(h2, self._waiting, self._keepalive_s, self._on_change)

    def _next_backoff_s(self) -> float:
        self._failures += 1
        longest_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10))
        return longest_s * (0.5 + 0.5 * self._jitter())

    def _on_change(self, transport: H2Transport) -> None:
        """A connection takes no new calls any more: it drains, or it is lost."""
        if transport.failure:
            self._transports.discard(transport)
        if transport is self._current:
            self._current = None
            self._replace(transport)

    def _replace(self, transport: H2Transport) -> None:
        self._failure = f"the connection to {self._address} was lost: {transport.failure or 'the server is going away'}"
        lived_s = self._loop.time() - (transport.ready_at or 0.0)
        if lived_s >= _STABLE_S:
            self._failures = 0
        self._reconnect(0.0 if lived_s >= _STABLE_S else self._next_backoff_s())

    # --- deadlines ---

    def _plan_sweep(self, at: float) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._sweep_at = at
        planned = at != _NEVER and self._state is not State.CLOSED
        self._sweep_timer = self._loop.call_at(at, self._sweep) if planned else None

    def _sweep(self) -> None:
        now = self._loop.time()
        self._sweep_at = _NEVER  # calls that are made by the callbacks plan their own
        earliest = min((transport.expire(now) for transport in list(self._transports)), default=_NEVER)
        at = max(min(earliest, self._expire_waiting(now)), now + _SWEEP_S)
        if at < self._sweep_at:
            self._plan_sweep(at)

    def _expire_waiting(self, now: float) -> float:
        """As `H2Transport.expire`, for the queue. Forgets cancelled calls, too."""
        expired = [call for call in self._waiting if call.deadline <= now]
        kept = [call for call in self._waiting if call.deadline > now and call.receiver is not None]
        self._waiting.clear()
        self._waiting.extend(kept)
        for call in expired:
            call.end(Code.DEADLINE_EXCEEDED, "the deadline passed before the call could be sent", False)
        return min((call.deadline for call in kept), default=_NEVER)
