"""The client's side of one HTTP/2 connection (RFC 9113) that carries gRPC calls of one method: one request message out,
any number of response messages back. Pure: bytes in, bytes and events out; no socket and no clock.

Contract: `receive` never raises, whatever the peer sends; a peer that breaks the protocol makes a `ConnectionFailed`,
after an `Ended` for each open stream. A stream gets any number of `Message`s and then exactly one `Ended`, unless this
side cancels it: then it gets nothing more. What is to be written collects until `take_output`.

Invariants:
- No DATA leaves beyond the peer's windows; what doesn't fit waits in `_blocked`, in the order of the calls.
- HEADER_TABLE_SIZE is 0 both ways, so header blocks have no memory: they may be remembered, or skipped on a dead stream.
- DATA is consumed as it comes, and half a window of it is granted anew; so the peer can't fill a window, and the memory
  held for it is bounded by `max_message_bytes` a stream.
"""

from __future__ import annotations

from typing import NamedTuple

from router import h2_frames as h2f
from router.h2_status import BlockError, Code, HeaderDecoder, code_of_reset

_STREAM_WINDOW_BYTES = 16 * 2**20
_CONNECTION_WINDOW_BYTES = 64 * 2**20
_MAX_BLOCK_BYTES = 65_536
_MAX_METADATA_BYTES = 8_192
_PREFIX_BYTES = h2f.PREFIX.size
_MAX_TIMEOUT_US = 99_999_999  # grpc-timeout has at most eight digits
_TIMEOUT_NAME = b"\x00\x0cgrpc-timeout"
_PING_DATA = b"scorelnk"


class Message(NamedTuple):
    """One whole message of a response."""

    stream_id: int
    payload: bytes


class Ended(NamedTuple):
    """The last event of a stream. `status`: a gRPC status code. `sent`: False where the peer's application surely never
    got the request, so that a retry is safe."""

    stream_id: int
    status: int
    message: str
    sent: bool


class Ready(NamedTuple):
    """The peer's first SETTINGS came: it does speak HTTP/2, and its limits are known."""


class PingAcked(NamedTuple):
    """The peer answered `ping`."""


class GoAway(NamedTuple):
    """The peer takes no new streams. Those above `last_stream_id` have ended; the others go on."""

    last_stream_id: int


class ConnectionFailed(NamedTuple):
    """The connection is of no more use; all streams have ended."""

    reason: str


Event = Message | Ended | Ready | PingAcked | GoAway | ConnectionFailed


class _PeerError(Exception):
    """The peer broke the protocol. Caught in `receive`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Stream:
    """`unsent`: what waits for the peer's window, None when the whole request is out. `window`: what the peer still lets
    this stream send; kept only while there is something unsent. `answered`: the head of the answer came. `partial`: the
    beginning of a message. `ungranted`: bytes received since the last WINDOW_UPDATE."""

    __slots__ = ("answered", "partial", "ungranted", "unsent", "window")

    def __init__(self) -> None:
        self.unsent: memoryview | None = None
        self.window = 0
        self.answered = False
        self.partial: bytearray | None = None
        self.ungranted = 0


def encode_timeout(timeout_s: float) -> bytes:
    """The value of grpc-timeout, rounded down to what eight digits can tell, at least one microsecond."""
    us = max(1, int(timeout_s * 1e6))
    if us <= _MAX_TIMEOUT_US:
        return b"%du" % us
    return b"%dm" % (us // 1000) if us // 1000 <= _MAX_TIMEOUT_US else b"%dS" % min(us // 1_000_000, _MAX_TIMEOUT_US)


def encode_request_head(path: bytes, authority: bytes, scheme: bytes) -> bytes:
    """The HPACK block of a call, without what differs from call to call. The numbers are those of the static table."""
    return b"".join(
        (
            b"\x83",  # :method POST
            b"\x87" if scheme == b"https" else b"\x86",
            h2f.indexed_name(4, path),
            h2f.indexed_name(1, authority),
            h2f.literal(b"te", b"trailers"),
            h2f.indexed_name(31, b"application/grpc"),
            h2f.indexed_name(58, b"scoremesh"),
        )
    )


class H2Connection:
    """One connection. `path`: of the method, as `/package.Service/Method`. `authority`: host and port of the peer.
    `max_message_bytes`: a longer response ends its call with RESOURCE_EXHAUSTED."""

    __slots__ = (
        "_block",
        "_blocked",
        "_decoder",
        "_events",
        "_failed",
        "_greeted",
        "_max_message_bytes",
        "_next_id",
        "_output",
        "_peer_max_frame_bytes",
        "_peer_stream_window",
        "_request_head",
        "_room",
        "_send_window",
        "_streams",
        "_tail",
        "_ungranted",
        "draining",
    )

    def __init__(self, path: bytes, authority: bytes, *, scheme: bytes = b"http", max_message_bytes: int) -> None:
        self._request_head = encode_request_head(path, authority, scheme)
        self._max_message_bytes = max_message_bytes
        self._decoder = HeaderDecoder()
        self._streams: dict[int, _Stream] = {}
        self._blocked: dict[int, _Stream] = {}
        self._next_id = 1
        self._room = h2f.MAX_STREAM_ID  # how many streams may be open at once; 0 once no new ones are allowed
        self._send_window = self._peer_stream_window = h2f.DEFAULT_WINDOW_BYTES
        self._peer_max_frame_bytes = h2f.MIN_MAX_FRAME_BYTES
        self._ungranted = 0
        self._tail = b""
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and start of an unfinished header block
        self._greeted = False
        self._failed = False
        self._events: list[Event] = []
        self.draining = False
        """No new streams, ever: the peer said so, the ids are used up, or the connection failed."""
        grant = _CONNECTION_WINDOW_BYTES - h2f.DEFAULT_WINDOW_BYTES
        mine = ((h2f.HEADER_TABLE_SIZE, 0), (h2f.ENABLE_PUSH, 0), (h2f.INITIAL_WINDOW_SIZE, _STREAM_WINDOW_BYTES))
        self._output: list[bytes | memoryview] = [h2f.PREFACE, h2f.settings(mine), h2f.window_update(0, grant)]

    @property
    def can_open(self) -> bool:
        """Whether the peer's limit of streams leaves room for one more now."""
        return len(self._streams) < self._room

    @property
    def open_streams(self) -> int:
        """How many calls are not ended."""
        return len(self._streams)

    def is_sent(self, stream_id: int) -> bool:
        """Whether the whole request of an open stream has been handed out by `take_output`, or is about to be."""
        return stream_id not in self._blocked

    # --- what this side does ---

    def open_stream(self, payload: bytes, timeout_s: float, metadata: bytes = b"") -> int:
        """Start a call and return its stream's id. Allowed only when `can_open`.

        `timeout_s`: what to tell the peer; nothing here watches it. `metadata`: more header fields, each encoded by
        `h2_frames.literal`. Raises ValueError if they take more than 8 KiB.
        """
        if len(metadata) > _MAX_METADATA_BYTES:
            raise ValueError(f"metadata of {len(metadata)} bytes is over {_MAX_METADATA_BYTES}")
        stream_id = self._take_id()
        timeout = encode_timeout(timeout_s)
        block = b"".join((self._request_head, _TIMEOUT_NAME, bytes((len(timeout),)), timeout, metadata))
        if stream_id == 1:
            block = b"\x20" + block  # HPACK: this side's dynamic table has size 0 from here on
        head = h2f.HEAD.pack(len(block) << 8 | h2f.HEADERS, h2f.END_HEADERS, stream_id) + block
        stream = self._streams[stream_id] = _Stream()
        size = len(payload) + _PREFIX_BYTES
        if self._blocked or size > min(self._send_window, self._peer_stream_window, self._peer_max_frame_bytes):
            self._output.append(head)
            self._send_in_parts(stream_id, stream, payload)
        else:
            self._send_window -= size
            data = h2f.HEAD_AND_PREFIX.pack(size << 8 | h2f.DATA, h2f.END_STREAM, stream_id, 0, len(payload))
            self._output += (head, data, payload)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """End a call; it gets no more events. Does nothing if it has ended already."""
        if stream_id in self._streams:
            self._reset(stream_id, h2f.CANCEL)

    def ping(self) -> None:
        """Ask the peer for a sign of life: `PingAcked`."""
        self._output.append(h2f.frame(h2f.PING, 0, 0, _PING_DATA))

    def say_goodbye(self) -> None:
        """Tell the peer that this side is about to close the connection."""
        self._refuse_streams()
        self._output.append(h2f.goaway(0, h2f.NO_ERROR))

    def take_output(self) -> bytes:
        """What to write to the peer now; each byte is returned once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def lose(self, reason: str) -> list[Event]:
        """The transport is gone: end all streams. Returns the last events; later calls return none."""
        self._events = []
        self._fail(reason)
        return self._events

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the peer, cut anywhere, and return what they mean. Never raises."""
        self._events = events = []
        if not self._failed:
            try:
                self._read_frames(self._tail + data if self._tail else data)
            except _PeerError as error:
                self._output.append(h2f.goaway(0, error.code))
                self._fail(f"HTTP/2 error {error.code}: {error.reason}")
        return events

    # --- sending ---

    def _take_id(self) -> int:
        stream_id = self._next_id
        self._next_id += 2
        if self._next_id > h2f.MAX_STREAM_ID:
            self._refuse_streams()
        return stream_id

    def _refuse_streams(self) -> None:
        self.draining = True
        self._room = 0

    def _send_in_parts(self, stream_id: int, stream: _Stream, payload: bytes) -> None:
        stream.unsent = memoryview(h2f.PREFIX.pack(0, len(payload)) + payload)
        stream.window = self._peer_stream_window
        self._blocked[stream_id] = stream
        if len(self._blocked) == 1:  # else those before it come first, and they wait for the window already
            self._send_blocked()
        elif self._send_window > 0:
            self._send_some(stream_id, stream)

    def _send_blocked(self) -> None:
        for stream_id, stream in list(self._blocked.items()):
            if self._send_window <= 0:
                return
            self._send_some(stream_id, stream)

    def _send_some(self, stream_id: int, stream: _Stream) -> None:
        """Send as much of a request as the windows allow."""
        unsent = stream.unsent
        while unsent:
            size = min(len(unsent), self._send_window, stream.window, self._peer_max_frame_bytes)
            if size <= 0:
                break
            last = size == len(unsent)
            head = h2f.HEAD.pack(size << 8 | h2f.DATA, h2f.END_STREAM if last else 0, stream_id)
            self._output += (head, unsent[:size])
            self._send_window -= size
            stream.window -= size
            unsent = None if last else unsent[size:]
        stream.unsent = unsent
        if unsent is None:
            del self._blocked[stream_id]

    def _forget(self, stream_id: int) -> bool:
        """Drop a stream; returns whether its request was sent wholly."""
        del self._streams[stream_id]
        return self._blocked.pop(stream_id, None) is None

    def _reset(self, stream_id: int, code: int) -> bool:
        self._output.append(h2f.rst_stream(stream_id, code))
        return self._forget(stream_id)

    # --- receiving ---

    def _read_frames(self, data: bytes) -> None:
        position, end, unpack = 0, len(data), h2f.HEAD.unpack_from
        while end - position >= h2f.HEAD_BYTES:
            word, flags, stream_id = unpack(data, position)
            start = position + h2f.HEAD_BYTES
            stop = start + (word >> 8)
            if stop - start > h2f.MIN_MAX_FRAME_BYTES:
                raise _PeerError(h2f.FRAME_SIZE_ERROR, "a frame over the size limit, or no HTTP/2 at all")
            if stop > end:
                break
            self._read_frame(word & 0xFF, flags, stream_id & h2f.MAX_STREAM_ID, data[start:stop])
            position = stop
        self._tail = data[position:]

    def _read_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and kind != h2f.CONTINUATION:
            raise _PeerError(h2f.PROTOCOL_ERROR, "a header block was interrupted")
        if not self._greeted and kind != h2f.SETTINGS:
            raise _PeerError(h2f.PROTOCOL_ERROR, "the first frame was not SETTINGS")
        if kind == h2f.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == h2f.HEADERS:
            self._on_headers(flags, stream_id, payload)
        else:
            handler = _HANDLERS.get(kind)
            if handler is not None:  # frames of an unknown type are to be ignored
                handler(self, flags, stream_id, payload)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._grant(len(payload))
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_was_open(stream_id)
            return
        stream.ungranted += len(payload)
        if flags & h2f.PADDED:
            payload = _strip_padding(payload)
        if not stream.answered:
            self._end_badly(stream_id, Code.INTERNAL, "data before the head of the answer")
        elif not self._read_messages(stream_id, stream, payload):
            return
        elif flags & h2f.END_STREAM:
            self._end(stream_id, Code.INTERNAL, "the server ended the answer without a status")
        elif stream.ungranted >= _STREAM_WINDOW_BYTES // 2:
            self._output.append(h2f.window_update(stream_id, stream.ungranted))
            stream.ungranted = 0

    def _grant(self, size: int) -> None:
        self._ungranted += size
        if self._ungranted >= _CONNECTION_WINDOW_BYTES // 2:
            self._output.append(h2f.window_update(0, self._ungranted))
            self._ungranted = 0

    def _read_messages(self, stream_id: int, stream: _Stream, payload: bytes) -> bool:
        """Cut DATA into messages. Returns False if the stream had to be ended."""
        if stream.partial is None and len(payload) >= _PREFIX_BYTES:
            compressed, size = h2f.PREFIX.unpack_from(payload)
            # Nearly always a frame is exactly one message.
            if size + _PREFIX_BYTES == len(payload) and not compressed and size <= self._max_message_bytes:
                self._events.append(Message(stream_id, payload[_PREFIX_BYTES:]))
                return True
        return self._reassemble(stream_id, stream, payload)

    def _reassemble(self, stream_id: int, stream: _Stream, payload: bytes) -> bool:
        partial = bytearray() if stream.partial is None else stream.partial
        partial += payload
        at = 0
        while len(partial) - at >= _PREFIX_BYTES:
            compressed, size = h2f.PREFIX.unpack_from(partial, at)
            if compressed:
                return self._end_badly(stream_id, Code.INTERNAL, "the server sent a compressed message")
            if size > self._max_message_bytes:
                return self._end_badly(stream_id, Code.RESOURCE_EXHAUSTED, f"a message of {size} bytes is too large")
            start = at + _PREFIX_BYTES
            if len(partial) < start + size:
                break
            with memoryview(partial) as view:
                self._events.append(Message(stream_id, bytes(view[start : start + size])))
            at = start + size
        del partial[:at]
        stream.partial = partial or None
        return True

    def _end(self, stream_id: int, status: int, message: str) -> None:
        """The peer closed its side."""
        partial = self._streams[stream_id].partial is not None
        sent = stream_id not in self._blocked
        if sent:
            del self._streams[stream_id]
        else:
            self._reset(stream_id, h2f.NO_ERROR)  # it doesn't want the rest of the request
        if partial and status == Code.OK:
            status, message = Code.INTERNAL, "the server ended the answer inside a message"
        self._events.append(Ended(stream_id, status, message, sent=True))

    def _end_badly(self, stream_id: int, status: int, message: str) -> bool:
        """The answer is of no use: reset the stream. Returns False."""
        self._reset(stream_id, h2f.CANCEL)
        self._events.append(Ended(stream_id, status, message, sent=True))
        return False

    def _check_was_open(self, stream_id: int) -> None:
        """Late frames of a stream that this side has reset are normal; those of one never opened aren't."""
        if stream_id % 2 == 0 or stream_id >= self._next_id:
            raise _PeerError(h2f.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which was never opened")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & h2f.PADDED:
            payload = _strip_padding(payload)
        if flags & h2f.WITH_PRIORITY:
            _check_size(len(payload) >= 5)
            payload = payload[5:]
        if flags & h2f.END_HEADERS:
            self._on_block(flags, stream_id, payload)
        else:
            self._block = (stream_id, flags, bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise _PeerError(h2f.PROTOCOL_ERROR, "CONTINUATION without a header block")
        _, first_flags, block = self._block
        block += payload
        if len(block) > _MAX_BLOCK_BYTES:
            raise _PeerError(h2f.ENHANCE_YOUR_CALM, "a header block over the size limit")
        if flags & h2f.END_HEADERS:
            self._block = None
            self._on_block(first_flags, stream_id, bytes(block))

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_was_open(stream_id)
            return
        try:
            head = self._decoder.decode(block)
        except BlockError as error:
            raise _PeerError(h2f.COMPRESSION_ERROR, f"a header block can't be decoded: {error}") from error
        if flags & h2f.END_STREAM:
            self._end(stream_id, head.status, head.message)
        elif stream.answered:
            self._end_badly(stream_id, Code.INTERNAL, "trailers that don't end the answer")
        elif head.opens:
            stream.answered = True
        elif not head.interim:
            self._end_badly(stream_id, head.status, head.message)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _check_size(len(payload) == 4)
        if stream_id not in self._streams:
            self._check_was_open(stream_id)
            return
        code = h2f.read_word(payload)
        sent = self._forget(stream_id) and code != h2f.REFUSED_STREAM
        self._events.append(Ended(stream_id, code_of_reset(code), f"the server reset the call: error {code}", sent))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_connection_frame(stream_id)
        if flags & h2f.ACK:
            _check_size(not payload)
            return
        _check_size(len(payload) % 6 == 0)
        for setting, value in h2f.read_settings(payload):
            self._apply(setting, value)
        self._output.append(h2f.frame(h2f.SETTINGS, h2f.ACK, 0))
        if not self._greeted:
            self._greeted = True
            self._events.append(Ready())
        self._send_blocked()

    def _apply(self, setting: int, value: int) -> None:
        if setting == h2f.MAX_CONCURRENT_STREAMS:
            self._room = 0 if self.draining else value
        elif setting == h2f.INITIAL_WINDOW_SIZE:
            self._resize_windows(value)
        elif setting == h2f.MAX_FRAME_SIZE:
            if not h2f.MIN_MAX_FRAME_BYTES <= value <= h2f.MAX_MAX_FRAME_BYTES:
                raise _PeerError(h2f.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self._peer_max_frame_bytes = value
        elif setting == h2f.ENABLE_PUSH and value:
            raise _PeerError(h2f.PROTOCOL_ERROR, "a server can't enable push")

    def _resize_windows(self, size: int) -> None:
        """The change applies to open streams too, and may leave their windows negative."""
        change = size - self._peer_stream_window
        self._peer_stream_window = size
        for stream in self._blocked.values():
            stream.window += change
        if max((size, *(stream.window for stream in self._blocked.values()))) > h2f.MAX_WINDOW_BYTES:
            raise _PeerError(h2f.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE over the limit")

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _check_size(len(payload) == 4)
        grant = h2f.read_word(payload) & h2f.MAX_STREAM_ID
        if stream_id == 0:
            self._send_window += grant
            if grant == 0 or self._send_window > h2f.MAX_WINDOW_BYTES:
                raise _PeerError(h2f.FLOW_CONTROL_ERROR, "a bad WINDOW_UPDATE")
            self._send_blocked()
        elif stream_id in self._blocked:
            self._widen(stream_id, self._blocked[stream_id], grant)
        elif stream_id not in self._streams:
            self._check_was_open(stream_id)

    def _widen(self, stream_id: int, stream: _Stream, grant: int) -> None:
        stream.window += grant
        if grant == 0 or stream.window > h2f.MAX_WINDOW_BYTES:
            self._reset(stream_id, h2f.FLOW_CONTROL_ERROR)
            self._events.append(Ended(stream_id, Code.INTERNAL, "the server sent a bad WINDOW_UPDATE", sent=False))
        else:
            self._send_blocked()

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_connection_frame(stream_id)
        _check_size(len(payload) == 8)
        if not flags & h2f.ACK:
            self._output.append(h2f.frame(h2f.PING, h2f.ACK, 0, payload))
        elif payload == _PING_DATA:
            self._events.append(PingAcked())

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _check_connection_frame(stream_id)
        _check_size(len(payload) >= 8)
        last = h2f.read_word(payload) & h2f.MAX_STREAM_ID
        self._refuse_streams()
        for unread_id in [open_id for open_id in self._streams if open_id > last]:
            self._forget(unread_id)
            self._events.append(Ended(unread_id, Code.UNAVAILABLE, "the server is going away", sent=False))
        self._events.append(GoAway(last))

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise _PeerError(h2f.PROTOCOL_ERROR, "PUSH_PROMISE, which was disabled")

    def _fail(self, reason: str) -> None:
        if self._failed:
            return
        self._failed = True
        self._tail = b""
        self._refuse_streams()
        for stream_id in list(self._streams):
            sent = self._forget(stream_id)
            self._events.append(Ended(stream_id, Code.UNAVAILABLE, f"connection failed: {reason}", sent))
        self._events.append(ConnectionFailed(reason))


_HANDLERS = {
    h2f.RST_STREAM: H2Connection._on_rst_stream,
    h2f.SETTINGS: H2Connection._on_settings,
    h2f.PUSH_PROMISE: H2Connection._on_push_promise,
    h2f.PING: H2Connection._on_ping,
    h2f.GOAWAY: H2Connection._on_goaway,
    h2f.WINDOW_UPDATE: H2Connection._on_window_update,
    h2f.CONTINUATION: H2Connection._on_continuation,
}


def _strip_padding(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _PeerError(h2f.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _check_size(ok: bool) -> None:  # noqa: FBT001
    if not ok:
        raise _PeerError(h2f.FRAME_SIZE_ERROR, "a frame of a wrong size")


def _check_connection_frame(stream_id: int) -> None:
    if stream_id:
        raise _PeerError(h2f.PROTOCOL_ERROR, "a frame of the connection on a stream")
