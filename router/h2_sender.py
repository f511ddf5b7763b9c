"""The sending half of an HTTP/2 connection: requests out, within the limits that the peer sets. Pure.

Invariants: no DATA leaves beyond the peer's window of the stream or of the connection, nor in a frame over its size
limit. A request that is out is forgotten here.

Head of line: a request that fits in a frame leaves at once. Larger ones take turns, a frame each, and `take` gives
`TURN_BYTES` of them at most; so whoever writes to the socket until it is full holds a small request back by no more
than that. A request that waits for the window of its own stream has no turn.
"""

from __future__ import annotations

from registry.http2 import frames as h2f
from registry.http2.errors import PeerError

TURN_BYTES = 64 * 1024
_PREFIX_BYTES = h2f.PREFIX.size


class _Unsent:
    """The rest of a request, and what the peer still lets its stream send (it may be negative)."""

    __slots__ = ("rest", "window")

    def __init__(self, rest: memoryview, window: int) -> None:
        self.rest = rest
        self.window = window


class Sender:
    """Collects what is to be written."""

    __slots__ = ("_max_frame_bytes", "_stream_window", "_turns", "_unsent", "_window", "output")

    def __init__(self) -> None:
        self.output: list[bytes | memoryview] = []
        self._unsent: dict[int, _Unsent] = {}
        self._turns: dict[int, _Unsent] = {}  # those whose streams have a window, in the order of their turns
        self._window = self._stream_window = h2f.DEFAULT_WINDOW_BYTES
        self._max_frame_bytes = h2f.MIN_MAX_FRAME_BYTES

    def send(self, stream_id: int, block: bytes, payload: bytes) -> None:
        """Send a request of one message: its header block at once, the message now or in its turns."""
        head = h2f.HEAD.pack(len(block) << 8 | h2f.HEADERS, h2f.END_HEADERS, stream_id)
        size = len(payload) + _PREFIX_BYTES
        if size > self._window or size > self._stream_window or size > self._max_frame_bytes:
            self.output += (head, block)
            rest = memoryview(h2f.PREFIX.pack(0, len(payload)) + payload)
            unsent = self._unsent[stream_id] = _Unsent(rest, self._stream_window)
            self._give_turn(stream_id, unsent)
        else:
            self._window -= size
            data = h2f.HEAD_AND_PREFIX.pack(size << 8 | h2f.DATA, h2f.END_STREAM, stream_id, 0, len(payload))
            self.output += (head, block, data, payload)

    def is_sent(self, stream_id: int) -> bool:
        """Whether the whole request of an open stream is in the output or beyond it."""
        return stream_id not in self._unsent

    def forget(self, stream_id: int) -> bool:
        """The stream is over. Returns whether its request was sent wholly."""
        self._turns.pop(stream_id, None)
        return self._unsent.pop(stream_id, None) is None

    def take(self) -> bytes:
        """The output since the last time, with some of what has its turn; to be called until there is no more."""
        if self._turns:
            self._take_turns()
        data = b"".join(self.output)
        self.output.clear()
        return data

    @property
    def has_more(self) -> bool:
        """Whether `take` left something that the peer's windows allow."""
        return bool(self._turns) and self._window > 0

    # --- what the peer says ---

    def set_max_frame(self, size: int) -> None:
        """SETTINGS_MAX_FRAME_SIZE. Raises PeerError."""
        if not h2f.MIN_MAX_FRAME_BYTES <= size <= h2f.MAX_MAX_FRAME_BYTES:
            raise PeerError(h2f.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {size}")
        self._max_frame_bytes = size

    def set_stream_window(self, size: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE. Open streams get the difference, too. Raises PeerError."""
        change = size - self._stream_window
        self._stream_window = size
        for stream_id, unsent in self._unsent.items():
            unsent.window += change
            self._give_turn(stream_id, unsent)
        if max((size, *(unsent.window for unsent in self._unsent.values()))) > h2f.MAX_WINDOW_BYTES:
            raise PeerError(h2f.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE over the limit")

    def widen_connection(self, grant: int) -> None:
        """A WINDOW_UPDATE of the connection. Raises PeerError."""
        self._window += grant
        if grant == 0 or self._window > h2f.MAX_WINDOW_BYTES:
            raise PeerError(h2f.FLOW_CONTROL_ERROR, "a bad WINDOW_UPDATE")

    def widen_stream(self, stream_id: int, grant: int) -> bool:
        """A WINDOW_UPDATE of an open stream. Returns False if the peer may not grant so much."""
        unsent = self._unsent.get(stream_id)
        if unsent is None:  # nothing more will be sent, so the window doesn't matter
            return grant > 0
        unsent.window += grant
        self._give_turn(stream_id, unsent)
        return grant > 0 and unsent.window <= h2f.MAX_WINDOW_BYTES

    # --- inside ---

    def _give_turn(self, stream_id: int, unsent: _Unsent) -> None:
        if unsent.window > 0:
            self._turns.setdefault(stream_id, unsent)

    def _take_turns(self) -> None:
        turns, left = self._turns, TURN_BYTES
        while turns and left > 0 and self._window > 0:
            stream_id = next(iter(turns))
            left -= self._send_piece(stream_id, turns.pop(stream_id), left)

    def _send_piece(self, stream_id: int, unsent: _Unsent, at_most: int) -> int:
        """Send one frame of it, and queue it for its next turn. Returns the bytes that it took."""
        size = min(len(unsent.rest), self._window, unsent.window, self._max_frame_bytes, at_most)
        if size <= 0:  # the peer has taken the window back
            return 0
        last = size == len(unsent.rest)
        head = h2f.HEAD.pack(size << 8 | h2f.DATA, h2f.END_STREAM if last else 0, stream_id)
        self.output += (head, unsent.rest[:size])
        self._window -= size
        unsent.window -= size
        unsent.rest = unsent.rest[size:]
        if last:
            del self._unsent[stream_id]
        else:
            self._give_turn(stream_id, unsent)
        return size
