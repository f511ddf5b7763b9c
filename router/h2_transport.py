"""One HTTP/2 connection on an asyncio transport: carries the bytes of an `H2Connection` and hands its events to calls.

Contract: callbacks of a `Receiver` run in the event loop, one after the other, never inside `Channel.call` and never
after `Handle.cancel`. An exception from a callback is reported to the loop's exception handler and harms no other call.

Invariant: a call is in `calls` of exactly one `H2Transport`, or in the waiting queue of its channel, or ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from registry.failure import Code
from registry.http2.sockets import keep_little_unsent
from router.h2 import H2Connection
from router.h2_events import ConnectionFailed, Ended, Event, GoAway, Message, Ready


class Receiver(Protocol):
    """Whoever made a call. The methods must be quick and must not raise."""

    def on_message(self, payload: bytes) -> None:
        """The next message of the answer."""

    def on_end(self, status: int, message: str, sent: bool) -> None:
        """The call is over; nothing comes after it. `status`: a gRPC status code. `sent`: False where the peer's
        application surely never got the request, so that a retry is safe whatever the method does.
        """


class Handle:
    """A call under way. `receiver` is None once it's over."""

    __slots__ = ("_loop", "deadline", "metadata", "payload", "receiver", "stream_id", "transport")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, payload: bytes, metadata: bytes, deadline: float, receiver: Receiver
    ) -> None:
        self._loop = loop
        self.payload = payload
        self.metadata = metadata
        self.deadline = deadline
        self.receiver: Receiver | None = receiver
        self.transport: H2Transport | None = None
        self.stream_id = 0

    def cancel(self) -> None:
        """Give the call up: the peer is told, the receiver hears nothing more. Does nothing on a call that is over."""
        self.receiver = None
        self.payload = b""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.drop(self)

    def take(self, payload: bytes) -> None:
        """Hand a message to the receiver."""
        if self.receiver is not None:
            try:
                self.receiver.on_message(payload)
            except Exception as error:
                self._report(error)

    def end(self, status: int, message: str, sent: bool) -> None:
        """Tell the receiver that the call is over, if it isn't yet."""
        receiver, self.receiver = self.receiver, None
        self.transport = None
        if receiver is not None:
            try:
                receiver.on_end(status, message, sent)
            except Exception as error:
                self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a receiver of a call raised", "exception": error})


class H2Transport(asyncio.Protocol):
    """One connection. `waiting`: the channel's queue of calls, from which this connection takes when it has room.
    `on_change`: called when the connection begins to drain, and when it is lost.
    """

    def __init__(
        self,
        h2: H2Connection,
        waiting: deque[Handle],
        keepalive_s: float,
        on_change: Callable[[H2Transport], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._h2 = h2
        self._waiting = waiting
        self._keepalive_s = keepalive_s
        self._on_change = on_change
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._receiving = False
        self._flush_planned = False
        self._pinged_at = 0.0
        self.heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.calls: dict[int, Handle] = {}
        self.ready_at: float | None = None
        self.failure = ""
        """Why the connection was lost, for a person."""
        self.became_ready: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def accepts(self) -> bool:
        """Whether new calls may ever be started here."""
        return self.ready_at is not None and not self._h2.draining

    @property
    def has_alpn(self) -> bool:
        """Whether the server agreed, in the TLS handshake, to speak HTTP/2."""
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return tls is not None and tls.selected_alpn_protocol() == "h2"

    # --- calls ---

    def start(self, call: Handle, timeout_s: float) -> bool:
        """Open a stream for the call, if there is room now. Allowed once the connection is ready."""
        h2 = self._h2
        if self._paused or not h2.can_open:
            return False
        call.stream_id = stream_id = h2.open_stream(call.payload, timeout_s, call.metadata)
        call.payload = b""
        call.transport = self
        self.calls[stream_id] = call
        if not self._receiving:
            self._flush_soon()
        return True

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._h2.ping()
        self._flush()

    def start_waiting(self) -> None:
        """Start calls of the queue, oldest first, while there is room."""
        now = self._loop.time()
        waiting = self._waiting
        while waiting:
            call = waiting[0]
            if call.receiver is not None and not self.start(call, call.deadline - now):
                return
            waiting.popleft()

    def drop(self, call: Handle) -> None:
        """Reset the stream of a call that its caller gave up."""
        if self.calls.pop(call.stream_id, None) is not None:
            self._h2.cancel(call.stream_id)
            self._settle()

    def expire(self, now: float) -> float:
        """End the calls whose deadline has come. Returns the earliest deadline of the others."""
        expired = [call for call in self.calls.values() if call.deadline <= now]
        for call in expired:
            del self.calls[call.stream_id]
            sent = self._h2.is_sent(call.stream_id)
            self._h2.cancel(call.stream_id)
            call.end(Code.DEADLINE_EXCEEDED, "the deadline of the call passed", sent)
        if expired:
            self._settle()
        return min((call.deadline for call in self.calls.values()), default=float("inf"))

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio has switched TCP_NODELAY on by itself."""
        self._transport = cast("asyncio.Transport", transport)
        keep_little_unsent(transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.heard_at = self._loop.time()
        self._dispatch(self._h2.receive(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed, by either side."""
        if self._watch is not None:
            self._watch.cancel()
        self._dispatch(self._h2.lose("the server closed the connection" if exc is None else type(exc).__name__))
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """The peer reads too slowly: hold output back, and let new calls wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """The buffer is nearly empty again."""
        self._paused = False
        self._settle()

    # --- the end ---

    def close(self) -> None:
        """Say goodbye and close. Ends open calls with UNAVAILABLE. The transport is gone when `lost` is done."""
        self._h2.say_goodbye()
        self._flush()
        self._dispatch(self._h2.lose("the channel was closed"))

    def abort(self) -> None:
        """Close at once, without sending what is still in the buffer."""
        if self._transport is not None:
            self._transport.abort()

    # --- inside ---

    def _dispatch(self, events: Iterable[Event]) -> None:
        calls = self.calls
        self._receiving = True
        for event in events:
            if isinstance(event, Message):
                call = calls.get(event.stream_id)
                if call is not None:
                    call.take(event.payload)
            elif isinstance(event, Ended):
                call = calls.pop(event.stream_id, None)
                if call is not None:
                    call.end(event.status, event.message, event.sent)
            else:
                self._on_connection_event(event)
        self._receiving = False
        self._settle()

    def _on_connection_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.ready_at = self.heard_at
            self._watch = self._loop.call_later(self._keepalive_s, self._check_alive)
            if not self.became_ready.done():
                self.became_ready.set_result(None)
        elif isinstance(event, ConnectionFailed):
            self.failure = event.reason
            self._flush()
            if self._transport is not None:
                self._transport.abort()
            if not self.became_ready.done():
                self.became_ready.set_result(None)
            self._on_change(self)
        elif isinstance(event, GoAway):
            self._on_change(self)

    def _settle(self) -> None:
        """After something has changed: use the room, flush, and leave when drained."""
        if self._receiving:
            return
        if self._waiting and self.accepts:
            self.start_waiting()
        self._flush()
        if self._h2.draining and not self.calls and self._transport is not None:
            self._transport.close()

    def _flush_soon(self) -> None:
        """Write at once for a call that is alone, which saves it a turn of the loop; else once for all of this turn."""
        if len(self.calls) == 1:
            self._flush()
        elif not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        transport = self._transport
        while transport is not None and not self._paused:  # a write may pause
            data = self._h2.take_output()
            if data:
                transport.write(data)
            if not self._h2.has_more:
                break

    def _check_alive(self) -> None:
        """While calls are open and the peer is silent: ping, and give the connection up if even then nothing comes."""
        now = self._loop.time()
        wait_s = self.heard_at + self._keepalive_s - now
        if wait_s <= 0:
            wait_s = self._keepalive_s
            if self.calls and self._pinged_at > self.heard_at:
                self._dispatch(self._h2.lose("the server is silent"))
                return
            if self.calls:
                self._pinged_at = now
                self.ping()
        self._watch = self._loop.call_later(wait_s, self._check_alive)
