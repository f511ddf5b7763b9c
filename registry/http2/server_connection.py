"""The server's side of one HTTP/2 connection (RFC 9113) that carries gRPC calls with one request message each. Pure:
bytes in, events and bytes out; no socket and no clock.

Contract: `receive` never raises, whatever the peer sends; a peer that breaks the protocol makes `failed` true, and the
connection is to be closed once the output is written. A `Request` is answered by `respond`, or by any number of `send`
and one `end`, or by `fail`; an `Unreadable` by `fail` alone. Answering a stream that is over does nothing. `Cancelled`
tells that the peer gave a call up.

Invariants:
* no DATA leaves beyond the peer's windows; what doesn't fit waits with its stream, in order;
* bytes of unfinished requests are granted anew only when the request is whole, so they never exceed the connection's
  window; a request over `max_message_bytes` is refused when its length is known, not when it is here;
* a peer that opens and resets streams faster than it lets them be answered is told to calm down (CVE-2023-44487).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from registry.failure import Failure
from registry.http2 import frames as h2f
from registry.http2.errors import PeerError
from registry.http2.reader import FrameReader, strip_padding
from registry.http2.request_head import (
    ANSWER_HEAD,
    OK_TRAILERS,
    BlockError,
    RequestHeadDecoder,
    http_refusal_block,
    trailers_block,
)
from registry.http2.server_stream import RequestError, ServerStream

MAX_STREAMS = 1000
_CONNECTION_WINDOW_BYTES = 64 * 2**20
_MAX_RESETS = 2000
_PREFIX_BYTES = h2f.PREFIX.size
_END = h2f.END_HEADERS | h2f.END_STREAM


class Request(NamedTuple):
    """A call came. `timeout_s`: what is left of its deadline, None without one."""

    stream_id: int
    path: str
    timeout_s: float | None
    payload: bytes


class Cancelled(NamedTuple):
    """The peer gave a call up."""

    stream_id: int


class Unreadable(NamedTuple):
    """A call came whose request can't be read; it's to be failed with this, at once."""

    stream_id: int
    failure: Failure


Event = Request | Cancelled | Unreadable


class ServerConnection:
    """One connection."""

    __slots__ = (
        "_blocked",
        "_decoder",
        "_events",
        "_last_id",
        "_max_frame_bytes",
        "_max_message_bytes",
        "_preface",
        "_reader",
        "_resets",
        "_stream_window",
        "_streams",
        "_ungranted",
        "_window",
        "failed",
        "failure",
        "output",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._preface = h2f.PREFACE
        self._reader = FrameReader()
        self._decoder = RequestHeadDecoder()
        self._streams: dict[int, ServerStream] = {}
        self._blocked: dict[int, ServerStream] = {}  # those with an answer that waits, oldest first
        self._events: list[Event] = []
        self._last_id = 0
        self._resets = 0
        self._ungranted = 0
        self._window = self._stream_window = h2f.DEFAULT_WINDOW_BYTES
        self._max_frame_bytes = h2f.MIN_MAX_FRAME_BYTES
        self.failed = False
        self.failure = ""
        window = max(h2f.DEFAULT_WINDOW_BYTES, max_message_bytes + 2 * h2f.MIN_MAX_FRAME_BYTES)
        mine = (
            (h2f.HEADER_TABLE_SIZE, 0),
            (h2f.MAX_CONCURRENT_STREAMS, MAX_STREAMS),
            (h2f.INITIAL_WINDOW_SIZE, min(window, h2f.MAX_WINDOW_BYTES)),
            (h2f.MAX_HEADER_LIST_SIZE, 16_384),
        )
        grant = _CONNECTION_WINDOW_BYTES - h2f.DEFAULT_WINDOW_BYTES
        self.output: list[bytes] = [h2f.settings(mine), h2f.window_update(0, grant)]

    @property
    def open_streams(self) -> Sequence[int]:
        """The calls that aren't answered wholly."""
        return list(self._streams)

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the peer, cut anywhere, and return what they mean. Never raises."""
        self._events = events = list[Event]()
        if self.failed:
            return events
        try:
            self._read(data)
        except PeerError as error:
            self._fail_connection(error.code, error.reason)
        return events

    # --- answers ---

    def respond(self, stream_id: int, payload: bytes) -> None:
        """Answer a call with its one message, and end it."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        size = len(payload) + _PREFIX_BYTES
        if size > self._window or size > stream.window or size > self._max_frame_bytes or stream.opened:
            self.send(stream_id, payload)
            self.end(stream_id)
            return
        self._window -= size
        del self._streams[stream_id]
        self.output += (
            h2f.HEAD.pack(len(ANSWER_HEAD) << 8 | h2f.HEADERS, h2f.END_HEADERS, stream_id),
            ANSWER_HEAD,
            h2f.HEAD_AND_PREFIX.pack(size << 8 | h2f.DATA, 0, stream_id, 0, len(payload)),
            payload,
            h2f.HEAD.pack(len(OK_TRAILERS) << 8 | h2f.HEADERS, _END, stream_id),
            OK_TRAILERS,
        )

    def send(self, stream_id: int, payload: bytes) -> None:
        """Send one message of an answer."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not stream.opened:
            stream.opened = True
            self.output.append(h2f.frame(h2f.HEADERS, h2f.END_HEADERS, stream_id, ANSWER_HEAD))
        stream.rest += h2f.PREFIX.pack(0, len(payload)) + payload
        self._push(stream_id, stream)

    def end(self, stream_id: int) -> None:
        """End an answer well."""
        self._finish(stream_id, OK_TRAILERS)

    def fail(self, stream_id: int, failure: Failure, extra: Sequence[tuple[str, str | bytes]] = ()) -> None:
        """End a call with a failure; what was sent of its answer stays."""
        self._finish(stream_id, trailers_block(failure.code, failure.message, extra))

    def go_away(self) -> None:
        """Ask the peer to open no more streams; those that it opens all the same are served."""
        self.output.append(h2f.goaway(h2f.MAX_STREAM_ID, h2f.NO_ERROR))

    def take_output(self) -> bytes:
        """What to write to the peer now; each byte is returned once."""
        data = b"".join(self.output)
        self.output.clear()
        return data

    def _finish(self, stream_id: int, trailers: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.tail:
            return
        block = trailers if stream.opened else ANSWER_HEAD + trailers
        stream.tail = h2f.frame(h2f.HEADERS, _END, stream_id, block)
        if not stream.half_closed:  # the rest of the request isn't wanted
            stream.tail += h2f.rst_stream(stream_id, h2f.NO_ERROR)
        self._push(stream_id, stream)

    def _push(self, stream_id: int, stream: ServerStream) -> None:
        """Send of a stream what the windows allow."""
        rest, at = stream.rest, 0
        while at < len(rest):
            size = min(len(rest) - at, self._window, stream.window, self._max_frame_bytes)
            if size <= 0:
                stream.rest = rest[at:]
                self._blocked[stream_id] = stream
                return
            self.output.append(h2f.frame(h2f.DATA, 0, stream_id, rest[at : at + size]))
            self._window -= size
            stream.window -= size
            at += size
        stream.rest = b""
        self._blocked.pop(stream_id, None)
        if stream.tail:
            self.output.append(stream.tail)
            self._close(stream_id, stream)

    def _push_blocked(self) -> None:
        for stream_id, stream in list(self._blocked.items()):
            if self._window <= 0:
                return
            self._push(stream_id, stream)

    def _close(self, stream_id: int, stream: ServerStream) -> None:
        del self._streams[stream_id]
        self._blocked.pop(stream_id, None)
        self._grant(len(stream.partial))

    # --- frames ---

    def _read(self, data: bytes) -> None:
        if self._preface:
            wanted = self._preface[: len(data)]
            if not data.startswith(wanted):
                raise PeerError(h2f.PROTOCOL_ERROR, "not HTTP/2")
            data, self._preface = data[len(wanted) :], self._preface[len(wanted) :]
        handlers = self._handlers
        for kind, flags, stream_id, payload in self._reader.read(data):
            handlers[kind](self, flags, stream_id, payload)

    def _on_headers(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            head = self._decoder.decode(block)
        except BlockError as error:
            raise PeerError(h2f.COMPRESSION_ERROR, f"a header block can't be decoded: {error}") from error
        if stream_id <= self._last_id or not stream_id & 1:
            self._on_late_headers(flags, stream_id)
            return
        self._last_id = stream_id
        if len(self._streams) >= MAX_STREAMS:
            self.output.append(h2f.rst_stream(stream_id, h2f.REFUSED_STREAM))
            return
        stream = ServerStream(head.path, head.timeout_s, head.encoding, self._stream_window)
        self._streams[stream_id] = stream
        if head.http_status != 200:
            stream.half_closed = bool(flags & h2f.END_STREAM)
            stream.opened = True
            self._finish(stream_id, http_refusal_block(head.http_status))
        elif flags & h2f.END_STREAM:
            self._half_close(stream_id, stream)

    def _on_late_headers(self, flags: int, stream_id: int) -> None:
        """Trailers of a request, which gRPC doesn't use, or a frame of a stream that is over."""
        stream = self._streams.get(stream_id)
        if not stream_id & 1:
            raise PeerError(h2f.PROTOCOL_ERROR, f"a client can't open stream {stream_id}")
        if stream is not None and flags & h2f.END_STREAM and not stream.half_closed:
            self._half_close(stream_id, stream)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.half_closed or stream.tail:
            self._on_unwanted_data(stream_id, stream, len(payload))
            return
        data = strip_padding(payload) if flags & h2f.PADDED else payload
        self._grant(len(payload) - len(data))
        try:
            stream.add(data, self._max_message_bytes)
        except RequestError as error:
            self._events.append(Unreadable(stream_id, error.failure))
            return
        if flags & h2f.END_STREAM:
            self._half_close(stream_id, stream)

    def _on_unwanted_data(self, stream_id: int, stream: ServerStream | None, size: int) -> None:
        self._check_was_opened(stream_id)
        if stream is not None and stream.half_closed:
            raise PeerError(h2f.STREAM_CLOSED, f"data after the end of the request of stream {stream_id}")
        self._grant(size)

    def _half_close(self, stream_id: int, stream: ServerStream) -> None:
        stream.half_closed = True
        self._grant(len(stream.partial))
        try:
            payload = stream.message(self._max_message_bytes)
        except RequestError as error:
            self._events.append(Unreadable(stream_id, error.failure))
            return
        self._events.append(Request(stream_id, stream.path, stream.timeout_s, payload))

    def _grant(self, size: int) -> None:
        self._ungranted += size
        if self._ungranted >= _CONNECTION_WINDOW_BYTES // 2:
            self.output.append(h2f.window_update(0, self._ungranted))
            self._ungranted = 0

    def _on_rst_stream(self, _flags: int, stream_id: int, _payload: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_was_opened(stream_id)
            return
        self._resets += 1
        if self._resets > _MAX_RESETS:
            raise PeerError(h2f.ENHANCE_YOUR_CALM, "too many streams were reset")
        self._close(stream_id, stream)
        if stream.half_closed:
            self._events.append(Cancelled(stream_id))

    def _check_was_opened(self, stream_id: int) -> None:
        if stream_id > self._last_id or not stream_id & 1:
            raise PeerError(h2f.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which was never opened")

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if flags & h2f.ACK:
            return
        for setting, value in h2f.read_settings(payload):
            if setting == h2f.INITIAL_WINDOW_SIZE:
                self._resize_windows(value)
            elif setting == h2f.MAX_FRAME_SIZE:
                if not h2f.MIN_MAX_FRAME_BYTES <= value <= h2f.MAX_MAX_FRAME_BYTES:
                    raise PeerError(h2f.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
                self._max_frame_bytes = value
        self.output.append(h2f.frame(h2f.SETTINGS, h2f.ACK, 0))
        self._push_blocked()

    def _resize_windows(self, size: int) -> None:
        if size > h2f.MAX_WINDOW_BYTES:
            raise PeerError(h2f.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE over the limit")
        change = size - self._stream_window
        self._stream_window = size
        for stream in self._streams.values():
            stream.window += change

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        grant = h2f.read_word(payload) & h2f.MAX_STREAM_ID
        if stream_id == 0:
            self._window += grant
            if grant == 0 or self._window > h2f.MAX_WINDOW_BYTES:
                raise PeerError(h2f.FLOW_CONTROL_ERROR, "a bad WINDOW_UPDATE")
            self._push_blocked()
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_was_opened(stream_id)
            return
        stream.window += grant
        if grant == 0 or stream.window > h2f.MAX_WINDOW_BYTES:
            raise PeerError(h2f.FLOW_CONTROL_ERROR, "a bad WINDOW_UPDATE")
        if stream.rest:
            self._push(stream_id, stream)

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if not flags & h2f.ACK:
            self.output.append(h2f.frame(h2f.PING, h2f.ACK, 0, payload))

    def _on_goaway(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """The peer is about to leave: it closes the connection when its calls are answered."""

    def _fail_connection(self, code: int, reason: str) -> None:
        """Say why, and give up all calls."""
        self.failed = True
        self.failure = reason
        self.output.append(h2f.goaway(self._last_id, code))
        for stream_id, stream in self._streams.items():
            if stream.half_closed and not stream.tail:
                self._events.append(Cancelled(stream_id))
        self._streams.clear()
        self._blocked.clear()

    _handlers: ClassVar[dict[int, Callable[[ServerConnection, int, int, bytes], None]]] = {
        h2f.DATA: _on_data,
        h2f.HEADERS: _on_headers,
        h2f.RST_STREAM: _on_rst_stream,
        h2f.SETTINGS: _on_settings,
        h2f.PING: _on_ping,
        h2f.GOAWAY: _on_goaway,
        h2f.WINDOW_UPDATE: _on_window_update,
    }
