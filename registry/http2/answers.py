"""What leaves a server on one HTTP/2 connection: answers, cut to what the peer's windows take. Pure.

Contract: a call is answered by `respond`, or by any number of `send` and one `end`, or by `fail`. Answering a stream
that is over does nothing. What is to be written to the peer gathers in `output`.

Invariants:
* no DATA leaves beyond the peer's windows and no frame is over its limit; what doesn't fit waits with its stream, in
  order;
* a stream whose answer is out is dropped from the open streams.

Head of line: a message that fits in a frame leaves at once. Larger ones take turns, a frame each, and `take_output`
gives `TURN_BYTES` of them at most, so that a small answer waits for no more than that on a connection that is written
to until it is full. An answer that waits for the window of its own stream has no turn.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from registry.failure import Failure
from registry.http2 import frames as h2f
from registry.http2.errors import PeerError
from registry.http2.request_head import ANSWER_HEAD, OK_TRAILERS, trailers_block
from registry.http2.server_stream import ServerStream, ServerStreams

TURN_BYTES: Final = 64 * 1024
_PREFIX_BYTES: Final = h2f.PREFIX.size
_END_HEADERS: Final = h2f.END_HEADERS
_END: Final = h2f.END_HEADERS | h2f.END_STREAM
# The frames before the message of an answer that fits in one, and those after it.
_pack_before: Final = struct.Struct(f">IBI{len(ANSWER_HEAD)}sIBIBI").pack
_pack_after: Final = struct.Struct(f">IBI{len(OK_TRAILERS)}s").pack
_HEAD_WORD: Final = len(ANSWER_HEAD) << 8 | h2f.HEADERS
_TRAILERS_WORD: Final = len(OK_TRAILERS) << 8 | h2f.HEADERS


class Answers:
    """The answers of one connection. `blocked`: the streams whose answer isn't out, oldest first."""

    __slots__ = ("_max_frame_bytes", "_open", "_stream_window", "_streams", "_turns", "_window", "blocked", "output")

    def __init__(self, streams: ServerStreams) -> None:
        self._streams = streams
        self._open = streams.by_id
        self._window = self._stream_window = h2f.DEFAULT_WINDOW_BYTES
        self._max_frame_bytes = h2f.MIN_MAX_FRAME_BYTES
        self.blocked: dict[int, ServerStream] = {}
        self._turns: dict[int, ServerStream] = {}  # those of them that have a window, in the order of their turns
        self.output: list[bytes] = []

    @property
    def stream_window(self) -> int:
        """The window that a stream begins with."""
        return self._stream_window

    def respond(self, stream_id: int, payload: bytes) -> None:
        """Answer a call with its one message, and end it."""
        stream = self._open.get(stream_id)
        if stream is None:
            return
        size = len(payload) + _PREFIX_BYTES
        if size > self._window or size > stream.window or size > self._max_frame_bytes or stream.opened:
            self.send(stream_id, payload)
            self.end(stream_id)
            return
        self._window -= size
        if stream.held_bytes:
            self._streams.release(stream)
        del self._open[stream_id]
        # The frames' types and flags stand as numbers, for this is the path of most answers: DATA is 0.
        self.output += (
            _pack_before(
                _HEAD_WORD, _END_HEADERS, stream_id, ANSWER_HEAD, size << 8, 0, stream_id, 0, size - _PREFIX_BYTES
            ),
            payload,
            _pack_after(_TRAILERS_WORD, _END, stream_id, OK_TRAILERS),
        )

    def send(self, stream_id: int, payload: bytes) -> None:
        """Send one message of an answer."""
        stream = self._open.get(stream_id)
        if stream is None or stream.tail:
            return
        if not stream.opened:
            stream.opened = True
            self.output.append(h2f.frame(h2f.HEADERS, h2f.END_HEADERS, stream_id, ANSWER_HEAD))
        size = len(payload) + _PREFIX_BYTES
        if stream.rest or size > self._window or size > stream.window or size > self._max_frame_bytes:
            if stream.rest is None:
                stream.rest = bytearray()
            stream.rest += h2f.PREFIX.pack(0, len(payload))
            stream.rest += payload
            self.blocked[stream_id] = stream
            self._give_turn(stream_id, stream)
            return
        self._window -= size
        stream.window -= size
        self.output += (h2f.HEAD_AND_PREFIX.pack(size << 8 | h2f.DATA, 0, stream_id, 0, len(payload)), payload)

    def end(self, stream_id: int) -> None:
        """End an answer well."""
        self._finish(stream_id, OK_TRAILERS)

    def fail(self, stream_id: int, failure: Failure, extra: Sequence[tuple[str, str | bytes]] = ()) -> None:
        """End a call with a failure; what was sent of its answer stays."""
        self._finish(stream_id, trailers_block(failure.code, failure.message, extra))

    def refuse(self, stream_id: int, block: bytes) -> None:
        """End a call that isn't gRPC with this header block alone."""
        self._open[stream_id].opened = True
        self._finish(stream_id, block)

    def take_output(self) -> bytes:
        """What to write to the peer now; each byte is returned once. A part of it, where there is much: call it until
        it returns nothing.
        """
        if self._turns:
            self._take_turns()
        data = b"".join(self.output)
        self.output.clear()
        return data

    def _finish(self, stream_id: int, trailers: bytes) -> None:
        stream = self._open.get(stream_id)
        if stream is None or stream.tail:
            return
        block = trailers if stream.opened else ANSWER_HEAD + trailers
        stream.tail = h2f.frame(h2f.HEADERS, _END, stream_id, block)
        if not stream.half_closed:  # the rest of the request isn't wanted
            stream.tail += h2f.rst_stream(stream_id, h2f.NO_ERROR)
        self._streams.release(stream)
        if stream.rest is None:
            self._close(stream_id, stream)

    def _close(self, stream_id: int, stream: ServerStream) -> None:
        self.output.append(stream.tail)
        self._streams.drop(stream_id)

    def _give_turn(self, stream_id: int, stream: ServerStream) -> None:
        if stream.rest is not None and stream.window > 0:
            self._turns.setdefault(stream_id, stream)

    def _take_turns(self) -> None:
        turns, left = self._turns, TURN_BYTES
        while turns and left > 0 and self._window > 0:
            stream_id = next(iter(turns))
            stream = turns.pop(stream_id)
            if stream.rest is not None:
                left -= self._send_piece(stream_id, stream, stream.rest, left)

    def _send_piece(self, stream_id: int, stream: ServerStream, rest: bytearray, at_most: int) -> int:
        """Send one frame of a stream, and queue it for its next turn. Returns the bytes that it took."""
        size = min(len(rest), self._window, stream.window, self._max_frame_bytes, at_most)
        if size <= 0:  # the peer has taken the window back
            return 0
        self.output.append(h2f.frame(h2f.DATA, 0, stream_id, bytes(rest[:size])))
        self._window -= size
        stream.window -= size
        del rest[:size]  # a bytearray moves its start, not its bytes
        if rest:
            self._give_turn(stream_id, stream)
        else:
            stream.rest = None
            del self.blocked[stream_id]
            if stream.tail:
                self._close(stream_id, stream)
        return size

    # --- what the peer allows ---

    def drop(self, stream_id: int) -> None:
        """The peer doesn't want this answer."""
        self.blocked.pop(stream_id, None)
        self._turns.pop(stream_id, None)
        self._streams.drop(stream_id)

    def clear(self) -> None:
        """The connection is over: nothing that waits is sent."""
        self.blocked.clear()
        self._turns.clear()

    def apply_settings(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Obey the peer's SETTINGS. Raises PeerError."""
        window = self._stream_window
        for setting, value in pairs:
            if setting == h2f.INITIAL_WINDOW_SIZE:
                if value > h2f.MAX_WINDOW_BYTES:
                    raise PeerError(h2f.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE over the limit")
                window = value
            elif setting == h2f.MAX_FRAME_SIZE:
                if not h2f.MIN_MAX_FRAME_BYTES <= value <= h2f.MAX_MAX_FRAME_BYTES:
                    raise PeerError(h2f.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
                self._max_frame_bytes = value
            elif setting == h2f.ENABLE_PUSH and value > 1:
                raise PeerError(h2f.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        if window != self._stream_window:
            self._resize_windows(window)
        self.output.append(h2f.frame(h2f.SETTINGS, h2f.ACK, 0))

    def _resize_windows(self, size: int) -> None:
        change = size - self._stream_window
        self._stream_window = size
        for stream_id, stream in self._open.items():
            stream.window += change
            self._give_turn(stream_id, stream)
            if stream.window > h2f.MAX_WINDOW_BYTES:
                raise PeerError(h2f.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE makes a window too large")

    def widen(self, grant: int) -> None:
        """The peer takes more on the connection. Raises PeerError."""
        self._window = _widened(self._window, grant)

    def widen_stream(self, stream_id: int, stream: ServerStream, grant: int) -> None:
        """The peer takes more on a stream. Raises PeerError."""
        stream.window = _widened(stream.window, grant)
        self._give_turn(stream_id, stream)


def _widened(window: int, grant: int) -> int:
    if grant == 0:
        raise PeerError(h2f.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
    if window + grant > h2f.MAX_WINDOW_BYTES:
        raise PeerError(h2f.FLOW_CONTROL_ERROR, "WINDOW_UPDATE makes a window too large")
    return window + grant
