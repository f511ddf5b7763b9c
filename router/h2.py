"""The client's side of one HTTP/2 connection (RFC 9113) that carries gRPC calls of one method: one request message out,
any number of response messages back. Pure: bytes in, bytes and events out; no socket and no clock.

Contract: `receive` never raises, whatever the peer sends; a peer that breaks the protocol makes a `ConnectionFailed`,
after an `Ended` for each open stream. A stream gets any number of `Message`s and then exactly one `Ended`, unless this
side cancels it: then it gets nothing more. What is to be written collects until `take_output`.

Invariants:
- HEADER_TABLE_SIZE is 0 both ways: header blocks don't depend on each other, and may be remembered or skipped.
- DATA is consumed as it comes, and half a window of it is granted anew; so the peer can't fill a window, and the memory
  held for it is bounded by `max_message_bytes` a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from registry.failure import Code
from registry.http2 import frames as h2f
from registry.http2.errors import PeerError
from registry.http2.reader import FrameReader, strip_padding
from router.h2_answer import Answer, AnswerError
from router.h2_events import ConnectionFailed, Ended, Event, GoAway, Message, PingAcked, Ready
from router.h2_headers import (
    NO_TABLE,
    BlockError,
    HeaderDecoder,
    code_of_reset,
    encode_request_head,
    encode_timeout,
)
from router.h2_sender import Sender

_STREAM_WINDOW_BYTES = 16 * 2**20
_CONNECTION_WINDOW_BYTES = 64 * 2**20
_MAX_METADATA_BYTES = 8_192
_PREFIX_BYTES = h2f.PREFIX.size
_PING_DATA = b"scorelnk"


class H2Connection:
    """One connection. `path`: of the method, as `/package.Service/Method`. `authority`: host and port of the peer.
    `max_message_bytes`: a longer response ends its call with RESOURCE_EXHAUSTED.
    """

    __slots__ = (
        "_decoder",
        "_events",
        "_failed",
        "_greeted",
        "_max_message_bytes",
        "_next_id",
        "_reader",
        "_request_head",
        "_room",
        "_sender",
        "_streams",
        "_ungranted",
        "draining",
    )

    def __init__(self, path: bytes, authority: bytes, *, scheme: bytes = b"http", max_message_bytes: int) -> None:
        self._request_head = encode_request_head(path, authority, scheme)
        self._max_message_bytes = max_message_bytes
        self._decoder = HeaderDecoder()
        self._sender = Sender()
        self._streams: dict[int, Answer] = {}
        self._next_id = 1
        self._room = h2f.MAX_STREAM_ID  # how many streams may be open at once; 0 once no new ones are allowed
        self._ungranted = 0
        self._reader = FrameReader()
        self._greeted = False
        self._failed = False
        self._events: list[Event] = []
        self.draining = False
        """No new streams, ever: the peer said so, the ids are used up, or the connection failed."""
        mine = ((h2f.HEADER_TABLE_SIZE, 0), (h2f.ENABLE_PUSH, 0), (h2f.INITIAL_WINDOW_SIZE, _STREAM_WINDOW_BYTES))
        grant = _CONNECTION_WINDOW_BYTES - h2f.DEFAULT_WINDOW_BYTES
        self._sender.output += (h2f.PREFACE, h2f.settings(mine), h2f.window_update(0, grant))

    @property
    def can_open(self) -> bool:
        """Whether the peer's limit of streams leaves room for one more now."""
        return len(self._streams) < self._room

    @property
    def open_streams(self) -> int:
        """How many calls are not ended."""
        return len(self._streams)

    def is_sent(self, stream_id: int) -> bool:
        """Whether nothing of the request of an open stream waits for the peer's windows."""
        return self._sender.is_sent(stream_id)

    # --- what this side does ---

    def open_stream(self, payload: bytes, timeout_s: float, metadata: bytes = b"") -> int:
        """Start a call and return its stream's id. Allowed only when `can_open`.

        `timeout_s`: what to tell the peer; nothing here watches it. `metadata`: more header fields, each encoded by
        `registry.http2.frames.literal`. Raises ValueError if they take more than 8 KiB.
        """
        if len(metadata) > _MAX_METADATA_BYTES:
            raise ValueError(f"metadata of {len(metadata)} bytes is over {_MAX_METADATA_BYTES}")
        stream_id = self._take_id()
        self._streams[stream_id] = Answer()
        block = self._request_head + encode_timeout(timeout_s) + metadata
        if stream_id == 1:
            block = NO_TABLE + block
        self._sender.send(stream_id, block, payload)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """End a call; it gets no more events. Does nothing if it has ended already."""
        if stream_id in self._streams:
            self._reset(stream_id, h2f.CANCEL)

    def ping(self) -> None:
        """Ask the peer for a sign of life: `PingAcked`."""
        self._write(h2f.frame(h2f.PING, 0, 0, _PING_DATA))

    def say_goodbye(self) -> None:
        """Tell the peer that this side is about to close the connection."""
        self._refuse_streams()
        self._write(h2f.goaway(0, h2f.NO_ERROR))

    def take_output(self) -> bytes:
        """What to write to the peer now; each byte is returned once. A part of it, where there is much: call it until
        it returns nothing.
        """
        return self._sender.take()

    def lose(self, reason: str) -> list[Event]:
        """The transport is gone: end all streams. Returns the last events; later calls return none."""
        self._events = []
        self._fail(reason)
        return self._events

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the peer, cut anywhere, and return what they mean. Never raises."""
        self._events = events = list[Event]()
        if not self._failed:
            try:
                self._read_frames(data)
            except PeerError as error:
                self._write(h2f.goaway(0, error.code))
                self._fail(f"HTTP/2 error {error.code}: {error.reason}")
        return events

    @property
    def has_more(self) -> bool:
        """Whether `take_output` left something that may be sent."""
        return self._sender.has_more

    # --- streams ---

    def _take_id(self) -> int:
        stream_id = self._next_id
        self._next_id += 2
        if self._next_id > h2f.MAX_STREAM_ID:
            self._refuse_streams()
        return stream_id

    def _refuse_streams(self) -> None:
        self.draining = True
        self._room = 0

    def _write(self, frame: bytes) -> None:
        self._sender.output.append(frame)

    def _forget(self, stream_id: int) -> bool:
        """Drop a stream; returns whether its request was sent wholly."""
        del self._streams[stream_id]
        return self._sender.forget(stream_id)

    def _reset(self, stream_id: int, code: int) -> None:
        self._write(h2f.rst_stream(stream_id, code))
        self._forget(stream_id)

    def _end(self, stream_id: int, answer: Answer, status: int, message: str) -> None:
        """The peer closed its side."""
        if answer.partial is not None and status == Code.OK:
            status, message = Code.INTERNAL, "the server ended the answer inside a message"
        if not self._forget(stream_id):  # it doesn't want the rest of the request
            self._write(h2f.rst_stream(stream_id, h2f.NO_ERROR))
        self._events.append(Ended(stream_id, status, message, True))

    def _end_badly(self, stream_id: int, status: int, message: str) -> None:
        """The answer is of no use."""
        self._reset(stream_id, h2f.CANCEL)
        self._events.append(Ended(stream_id, status, message, True))

    def _check_was_open(self, stream_id: int) -> None:
        """Late frames of a stream that this side has reset are normal; those of one never opened aren't."""
        if stream_id % 2 == 0 or stream_id >= self._next_id:
            raise PeerError(h2f.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which was never opened")

    def _fail(self, reason: str) -> None:
        if self._failed:
            return
        self._failed = True
        self._refuse_streams()
        for stream_id in list(self._streams):
            sent = self._forget(stream_id)
            self._events.append(Ended(stream_id, Code.UNAVAILABLE, f"connection failed: {reason}", sent))
        self._events.append(ConnectionFailed(reason))

    # --- frames ---

    def _read_frames(self, data: bytes) -> None:
        handlers = self._handlers
        for kind, flags, stream_id, payload in self._reader.read(data):
            handlers[kind](self, flags, stream_id, payload)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._ungranted += len(payload)
        if self._ungranted >= _CONNECTION_WINDOW_BYTES // 2:
            self._write(h2f.window_update(0, self._ungranted))
            self._ungranted = 0
        answer = self._streams.get(stream_id)
        if answer is None:
            self._check_was_open(stream_id)
        elif not answer.opened:
            self._end_badly(stream_id, Code.INTERNAL, "data before the head of the answer")
        else:
            answer.ungranted += len(payload)
            self._read_answer(stream_id, answer, strip_padding(payload) if flags & h2f.PADDED else payload)
            if flags & h2f.END_STREAM and stream_id in self._streams:
                self._end(stream_id, answer, Code.INTERNAL, "the server ended the answer without a status")
            elif answer.ungranted >= _STREAM_WINDOW_BYTES // 2 and stream_id in self._streams:
                self._write(h2f.window_update(stream_id, answer.ungranted))
                answer.ungranted = 0

    def _read_answer(self, stream_id: int, answer: Answer, data: bytes) -> None:
        if answer.partial is None and len(data) >= _PREFIX_BYTES:
            compressed, size = h2f.PREFIX.unpack_from(data)
            # Nearly always a frame is exactly one message.
            if size + _PREFIX_BYTES == len(data) and not compressed and size <= self._max_message_bytes:
                self._events.append(Message(stream_id, data[_PREFIX_BYTES:]))
                return
        try:
            messages = answer.read(data, self._max_message_bytes)
        except AnswerError as error:
            self._end_badly(stream_id, error.status, error.message)
            return
        self._events += [Message(stream_id, message) for message in messages]

    def _on_headers(self, flags: int, stream_id: int, block: bytes) -> None:
        answer = self._streams.get(stream_id)
        if answer is None:
            self._check_was_open(stream_id)
            return
        try:
            head = self._decoder.decode(block)
        except BlockError as error:
            raise PeerError(h2f.COMPRESSION_ERROR, f"a header block can't be decoded: {error}") from error
        if flags & h2f.END_STREAM:
            self._end(stream_id, answer, head.status, head.message)
        elif answer.opened:
            self._end_badly(stream_id, Code.INTERNAL, "trailers that don't end the answer")
        elif head.opens:
            answer.opened = True
        elif not head.interim:
            self._end_badly(stream_id, head.status, head.message)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id not in self._streams:
            self._check_was_open(stream_id)
            return
        code = h2f.read_word(payload)
        sent = self._forget(stream_id) and code != h2f.REFUSED_STREAM
        self._events.append(Ended(stream_id, code_of_reset(code), f"the server reset the call: error {code}", sent))

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if flags & h2f.ACK:
            return
        for setting, value in h2f.read_settings(payload):
            self._apply(setting, value)
        self._write(h2f.frame(h2f.SETTINGS, h2f.ACK, 0))
        if not self._greeted:
            self._greeted = True
            self._events.append(Ready())

    def _apply(self, setting: int, value: int) -> None:
        if setting == h2f.MAX_CONCURRENT_STREAMS:
            self._room = 0 if self.draining else value
        elif setting == h2f.INITIAL_WINDOW_SIZE:
            self._sender.set_stream_window(value)
        elif setting == h2f.MAX_FRAME_SIZE:
            self._sender.set_max_frame(value)
        elif setting == h2f.ENABLE_PUSH and value:
            raise PeerError(h2f.PROTOCOL_ERROR, "a server can't enable push")

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        grant = h2f.read_word(payload) & h2f.MAX_STREAM_ID
        if stream_id == 0:
            self._sender.widen_connection(grant)
        elif stream_id not in self._streams:
            self._check_was_open(stream_id)
        elif not self._sender.widen_stream(stream_id, grant):
            self._reset(stream_id, h2f.FLOW_CONTROL_ERROR)
            self._events.append(Ended(stream_id, Code.INTERNAL, "the server sent a bad WINDOW_UPDATE", True))

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if not flags & h2f.ACK:
            self._write(h2f.frame(h2f.PING, h2f.ACK, 0, payload))
        elif payload == _PING_DATA:
            self._events.append(PingAcked())

    def _on_goaway(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        last = h2f.read_word(payload) & h2f.MAX_STREAM_ID
        self._refuse_streams()
        for unread_id in [open_id for open_id in self._streams if open_id > last]:
            self._forget(unread_id)
            self._events.append(Ended(unread_id, Code.UNAVAILABLE, "the server is going away", False))
        self._events.append(GoAway(last))

    # What each type of frame does; it belongs to the class, so that a connection holds no reference to itself.
    _handlers: ClassVar[dict[int, Callable[[H2Connection, int, int, bytes], None]]] = {
        h2f.DATA: _on_data,
        h2f.HEADERS: _on_headers,
        h2f.RST_STREAM: _on_rst_stream,
        h2f.SETTINGS: _on_settings,
        h2f.PING: _on_ping,
        h2f.GOAWAY: _on_goaway,
        h2f.WINDOW_UPDATE: _on_window_update,
    }
