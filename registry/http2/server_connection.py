"""The server's side of one HTTP/2 connection (RFC 9113) that carries gRPC calls with one request message each. Pure:
bytes in, events and bytes out; no socket and no clock.

Contract: `receive` never raises, whatever the peer sends; a peer that breaks the protocol makes `failed` true, and the
connection is to be closed once the output is written. A `Request` is answered through `answers`, an `Unreadable` by
`answers.fail` alone. `Cancelled` tells that the peer gave a call up. Each stream gives at most one `Request` or
`Unreadable`, and at most one `Cancelled`, after it. `calm_down` is to be called about every second.

Invariants:
* the connection's window never runs out, for streams that wait for it could wait for each other for ever; instead,
  requests that are here hold at most `MAX_HELD_BYTES` and one frame for each of `MAX_STREAMS`, answered or not;
* a request over `max_message_bytes` is refused when its length is known, not when it is here;
* a peer that makes much work for few bytes is told to calm down: resets (CVE-2023-44487), SETTINGS, streams over the
  limit. The bytes of a peer that keeps within that are answered with no more than a constant factor of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from registry.http2 import frames as h2f
from registry.http2.answers import Answers
from registry.http2.errors import PeerError
from registry.http2.reader import FrameReader, strip_padding
from registry.http2.request_head import BlockError, RequestHead, RequestHeadDecoder, http_refusal_block
from registry.http2.server_events import Cancelled, Event, Request
from registry.http2.server_stream import ServerStream, ServerStreams

MAX_STREAMS = 1000
_CONNECTION_WINDOW_BYTES = 64 * 2**20
_MAX_STRAIN = 2000  # between two calls of `calm_down`
_SETTINGS_STRAIN = 20  # a SETTINGS frame changes the windows of all streams
_GRANT_BYTES = _CONNECTION_WINDOW_BYTES // 2  # granted anew in pieces of this size
_PREFIX_BYTES = h2f.PREFIX.size
_END_STREAM = h2f.END_STREAM
_unpack_prefix = h2f.PREFIX.unpack_from


class ServerConnection:
    """One connection. `greeted`: the peer has shown that it speaks HTTP/2. `failure`: why it `failed`, for a person."""

    __slots__ = (
        "_decoder",
        "_events",
        "_last_id",
        "_max_message_bytes",
        "_open",
        "_preface",
        "_reader",
        "_refusing",
        "_served_id",
        "_strain",
        "_streams",
        "_ungranted",
        "answers",
        "failed",
        "failure",
        "greeted",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._preface = h2f.PREFACE
        self._reader = FrameReader()
        self._decoder = RequestHeadDecoder()
        self._streams = ServerStreams(max_message_bytes)
        self._open = self._streams.by_id
        self._events: list[Event] = []
        self._last_id = 0  # of the streams that the peer opened
        self._served_id = 0  # of those that were let in
        self._strain = 0
        self._ungranted = 0
        self._refusing = False
        self.greeted = False
        self.failed = False
        self.failure = ""
        self.answers = Answers(self._streams)
        self.answers.output += _greeting(max_message_bytes)

    @property
    def open_streams(self) -> Sequence[int]:
        """The calls that aren't answered wholly."""
        return list(self._open)

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

    def calm_down(self) -> None:
        """Some time has passed: forgive the peer the work that it made."""
        self._strain = 0

    def go_away(self) -> None:
        """Take no more streams: those that the peer opens from now on, or has opened but aren't here yet, are refused
        in a way that lets it repeat them elsewhere (RFC 9113 sections 6.8, 8.7).
        """
        if not self._refusing and not self.failed:
            self._refusing = True
            self.answers.output.append(h2f.goaway(self._served_id, h2f.NO_ERROR))

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self.answers.output.append(h2f.frame(h2f.PING, 0, 0, bytes(8)))

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
            head, timeout_s = self._decoder.decode(block)
        except BlockError as error:
            raise PeerError(h2f.COMPRESSION_ERROR, f"a header block can't be decoded: {error}") from error
        if stream_id <= self._last_id or not stream_id & 1:
            self._on_late_headers(flags, stream_id)
            return
        self._last_id = stream_id
        if self._refusing or len(self._open) >= MAX_STREAMS:
            self._refuse_stream(stream_id)
            return
        self._served_id = stream_id
        stream = ServerStream(head.path, timeout_s, head.encoding, self.answers.stream_window)
        self._open[stream_id] = stream
        if flags & _END_STREAM or head.http_status != 200:
            self._on_odd_headers(flags, stream_id, stream, head)

    def _on_odd_headers(self, flags: int, stream_id: int, stream: ServerStream, head: RequestHead) -> None:
        """A request that isn't gRPC, or that ends before its message."""
        if head.http_status != 200:
            stream.half_closed = bool(flags & h2f.END_STREAM)
            self.answers.refuse(stream_id, http_refusal_block(head.http_status))
        else:
            self._half_close(stream_id, stream)

    def _refuse_stream(self, stream_id: int) -> None:
        if not self._refusing:  # else it may not have heard yet that it should open none
            self._strain_by(1)
        self.answers.output.append(h2f.rst_stream(stream_id, h2f.REFUSED_STREAM))

    def _on_late_headers(self, flags: int, stream_id: int) -> None:
        """Trailers of a request, which gRPC doesn't use, or a frame of a stream that is over."""
        if not stream_id & 1:
            raise PeerError(h2f.PROTOCOL_ERROR, f"a client can't open stream {stream_id}")
        stream = self._open.get(stream_id)
        if stream is not None and flags & h2f.END_STREAM and not stream.half_closed:
            self._half_close(stream_id, stream)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._ungranted += size
        if self._ungranted >= _GRANT_BYTES:
            self.answers.output.append(h2f.window_update(0, self._ungranted))
            self._ungranted = 0
        stream = self._open.get(stream_id)
        if stream is None or stream.deaf or stream.half_closed:
            self._on_unwanted_data(flags, stream_id, stream)
            return
        if flags == _END_STREAM and size >= _PREFIX_BYTES and not stream.partial:
            compressed, message_bytes = _unpack_prefix(payload)
            if not compressed and message_bytes == size - _PREFIX_BYTES and message_bytes <= self._max_message_bytes:
                # The usual request: its message is in one frame.
                stream.half_closed = True
                self._events.append(Request(stream_id, stream.path, stream.timeout_s, payload[_PREFIX_BYTES:]))
                return
        self._on_piece(flags, stream_id, stream, payload)

    def _on_piece(self, flags: int, stream_id: int, stream: ServerStream, payload: bytes) -> None:
        data = strip_padding(payload) if flags & h2f.PADDED else payload
        ends = flags & h2f.END_STREAM
        if len(data) < len(payload) and not ends:  # the stream's window is made for a message without padding
            self.answers.output.append(h2f.window_update(stream_id, len(payload) - len(data)))
        event = self._streams.take(stream_id, stream, data, bool(ends))
        if event is not None:
            self._events.append(event)

    def _on_unwanted_data(self, flags: int, stream_id: int, stream: ServerStream | None) -> None:
        self._check_was_opened(stream_id)
        if stream is None:
            return
        if stream.half_closed:
            raise PeerError(h2f.STREAM_CLOSED, f"data after the end of the request of stream {stream_id}")
        stream.half_closed = bool(flags & h2f.END_STREAM)

    def _half_close(self, stream_id: int, stream: ServerStream) -> None:
        """The whole request is here."""
        event = self._streams.finish(stream_id, stream)
        if event is not None:
            self._events.append(event)

    def _on_rst_stream(self, _flags: int, stream_id: int, _payload: bytes) -> None:
        stream = self._open.get(stream_id)
        if stream is None:
            self._check_was_opened(stream_id)
            return
        self._strain_by(1)
        self.answers.drop(stream_id)
        if stream.half_closed and not stream.deaf:
            self._events.append(Cancelled(stream_id))

    def _strain_by(self, work: int) -> None:
        self._strain += work
        if self._strain > _MAX_STRAIN:
            raise PeerError(h2f.ENHANCE_YOUR_CALM, "too many resets, refused streams or SETTINGS")

    def _check_was_opened(self, stream_id: int) -> None:
        if stream_id > self._last_id or not stream_id & 1:
            raise PeerError(h2f.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which was never opened")

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        self._strain_by(_SETTINGS_STRAIN)
        if flags & h2f.ACK:
            self._decoder.on_table_forbidden()
            return
        self.greeted = True
        self.answers.apply_settings(h2f.read_settings(payload))

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        grant = h2f.read_word(payload) & h2f.MAX_STREAM_ID
        if stream_id == 0:
            self.answers.widen(grant)
            return
        stream = self._open.get(stream_id)
        if stream is None:
            self._check_was_opened(stream_id)
        else:
            self.answers.widen_stream(stream_id, stream, grant)

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if not flags & h2f.ACK:
            self.answers.output.append(h2f.frame(h2f.PING, h2f.ACK, 0, payload))

    def _on_goaway(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """The peer is about to leave: it closes the connection when its calls are answered."""

    def _fail_connection(self, code: int, reason: str) -> None:
        """Say why, and give up all calls."""
        self.failed = True
        self.failure = reason
        self.answers.output.append(h2f.goaway(self._served_id, code))
        for stream_id, stream in self._open.items():
            if stream.half_closed and not stream.deaf:
                self._events.append(Cancelled(stream_id))
        self._streams.clear()
        self.answers.clear()

    _handlers: ClassVar[dict[int, Callable[[ServerConnection, int, int, bytes], None]]] = {
        h2f.DATA: _on_data,
        h2f.HEADERS: _on_headers,
        h2f.RST_STREAM: _on_rst_stream,
        h2f.SETTINGS: _on_settings,
        h2f.PING: _on_ping,
        h2f.GOAWAY: _on_goaway,
        h2f.WINDOW_UPDATE: _on_window_update,
    }


def _greeting(max_message_bytes: int) -> Sequence[bytes]:
    window = max(h2f.DEFAULT_WINDOW_BYTES, max_message_bytes + 2 * h2f.MIN_MAX_FRAME_BYTES)
    mine = (
        (h2f.HEADER_TABLE_SIZE, 0),
        (h2f.MAX_CONCURRENT_STREAMS, MAX_STREAMS),
        (h2f.INITIAL_WINDOW_SIZE, min(window, h2f.MAX_WINDOW_BYTES)),
        (h2f.MAX_HEADER_LIST_SIZE, 16_384),
    )
    grant = _CONNECTION_WINDOW_BYTES - h2f.DEFAULT_WINDOW_BYTES
    return h2f.settings(mine), h2f.window_update(0, grant)
