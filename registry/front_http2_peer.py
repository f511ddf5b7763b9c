"""One connection of the front `registry.front_http2`, and the calls on it.

Backpressure: while a peer reads its answers too slowly, nothing more is read from it, so that what it could still make
this side say is bounded by one read. Silence: a peer that doesn't greet in time, that answers no PING after a long
silence, or that takes nothing of what waits for it, is cut off.

Invariants: an exception of a call's handler or `on_cancel` harms no other call; a call in `Peer.calls` counts as
running in the gate, and is there exactly until it is answered, failed or cancelled.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, NamedTuple, cast

from registry.failure import Code, Failure
from registry.front_http2_call import Call
from registry.http2.server_connection import ServerConnection
from registry.http2.server_events import Cancelled, Request, Unreadable
from registry.http2.sockets import keep_little_unsent
from registry.status import failure_of, trailers

if TYPE_CHECKING:
    from registry.front_http2 import Http2Front

_TOO_LATE = Failure(Code.DEADLINE_EXCEEDED, "the deadline of the call passed", "DEADLINE_EXCEEDED")
_ACCEPTED = ("grpc-accept-encoding", "identity,deflate,gzip")


class Patience(NamedTuple):
    """How long to wait for a peer, in seconds. `greeting_s`: from the connection to its SETTINGS. `silence_s`: before
    it gets a PING. `answer_s`: after the PING, before it is cut off. `goodbye_s`: for it to go once it's told to.
    """

    greeting_s: float
    silence_s: float
    answer_s: float
    goodbye_s: float


DEFAULT_PATIENCE = Patience(greeting_s=10.0, silence_s=60.0, answer_s=20.0, goodbye_s=10.0)


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, front: Http2Front) -> None:
        self._front = front
        self._gate = front.gate
        self._loop = front.loop
        self._h2 = ServerConnection(front.gate.max_message_bytes)
        self.answers = self._h2.answers
        self.calls: dict[int, Call] = {}
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._scheduled = False
        self._heard = False
        self._last_sign_at = self._born_at = self._loop.time()
        self._pinged_at = inf
        self._unwritten_bytes = 0
        self._close_by = inf  # on the way out, when it is to be gone
        self._mute = False  # nothing can be written any more

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        keep_little_unsent(transport)
        self._front.peers.add(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.abort()
            return
        if self._front.draining:  # it was on its way in, with its TLS handshake
            self._h2.go_away()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._mute:
            return
        events = self._h2.receive(data)
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
        if self._h2.failed:
            self._leave()

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
        stream_id, path, timeout_s, payload = request
        found = self._front.table.get(path)
        if found is None:
            text = f"unknown method {path[:200]}"
            self.answers.fail(stream_id, Failure(Code.UNIMPLEMENTED, text, "UNKNOWN_METHOD"))
            return
        handler, kind = found
        deadline = inf if timeout_s is None else self._loop.time() + timeout_s
        call = self.calls[stream_id] = kind(self, stream_id, payload, deadline)
        gate = self._gate
        gate.running += 1  # as `gate.enter` and `run_handler` do: three calls fewer for each request
        gate.entered += 1
        if gate.closed or len(payload) > gate.max_message_bytes:
            refusal = gate.refusal(len(payload))
            if refusal is not None:
                call.fail(refusal)
                return
        try:
            handler(call)
        except Exception as error:
            call.fail(failure_of(error))

    def _refuse(self, event: Unreadable) -> None:
        failure = event.failure
        extra = trailers(failure)
        if failure.code == Code.UNIMPLEMENTED:
            extra = (*extra, _ACCEPTED)
        self.answers.fail(event.stream_id, failure, extra)

    def finish(self, stream_id: int) -> bool:
        """Count a call as finished; False when it was already."""
        if self.calls.pop(stream_id, None) is None:
            return False
        self._gate.leave()
        return True

    def _cancel(self, stream_id: int) -> None:
        call = self.calls.get(stream_id)
        if call is not None:
            self.finish(stream_id)
            call.cancel()

    def expire(self, now: float) -> None:
        """Fail the calls whose deadline is past."""
        if self.calls:
            for call in [call for call in self.calls.values() if call.deadline <= now]:
                call.give_up(_TOO_LATE)

    # --- silence ---

    def check(self, now: float) -> None:
        """Cut the peer off if it is gone or only takes up room; to be called about once a second."""
        self._h2.calm_down()
        patience = self._front.patience
        if self._shows_life():
            self._last_sign_at, self._pinged_at = now, inf
        never_greeted = not self._h2.greeted and now - self._born_at > patience.greeting_s
        if never_greeted or now > self._close_by or now - self._pinged_at > patience.answer_s:
            self.abort()
        elif now - self._last_sign_at > patience.silence_s and self._pinged_at == inf:
            self._pinged_at = now
            self._h2.ping()
            self._flush()

    def _shows_life(self) -> bool:
        """Bytes came, or bytes that wait for the peer became fewer."""
        heard, self._heard = self._heard, False
        before, self._unwritten_bytes = self._unwritten_bytes, self.waiting_bytes()
        return heard or self._unwritten_bytes < before

    def waiting_bytes(self) -> int:
        """What this side holds for the peer, apart from answers that wait for an HTTP/2 window."""
        unwritten = sum(map(len, self.answers.output))
        return unwritten if self._transport is None else unwritten + self._transport.get_write_buffer_size()

    # --- output ---

    def flush_soon(self) -> None:
        """Write what is answered in this turn of the loop, in one piece."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._transport is None or self._paused or self._mute:
            return
        while not self._paused and (data := self.answers.take_output()):  # a write may pause
            self._transport.write(data)
            if not self.answers.blocked:
                break
        if self._close_by != inf and not self._paused and not self.answers.blocked:
            self._hang_up(self._transport)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Closing a socket on which bytes of the peer wait unread would reset the connection, and with it the answers
        that aren't there yet. So end only this direction, and let the peer close. TLS has no such half; there the
        GOAWAY alone tells the peer to close. `check` and `Http2Front.stop` don't wait for ever.
        """
        if self._h2.failed:
            transport.close()
        elif transport.can_write_eof():
            self._mute = True
            try:
                transport.write_eof()
            except (OSError, RuntimeError):  # the peer has closed already, as asyncio and uvloop say it
                transport.abort()

    def go_away(self) -> None:
        """Ask the peer to use another connection."""
        self._h2.go_away()
        self._flush()

    def close(self, failure: Failure) -> None:
        """Fail what is running, and close once what was answered is written."""
        self._h2.go_away()
        for call in list(self.calls.values()):
            call.give_up(failure)
        self._leave()

    def _leave(self) -> None:
        self._close_by = min(self._close_by, self._loop.time() + self._front.patience.goodbye_s)
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.set_write_buffer_limits(0)  # `resume_writing` then means that all is written
        self._flush()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
