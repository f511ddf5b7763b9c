"""The calls of one connection on the server's side: each one's request as DATA frames bring it, and what of its answer
still waits. Pure.

Invariant: `ServerStreams.held_bytes` is the sum of `held_bytes` of the open streams. Requests that came in one frame,
uncompressed, are not counted: a frame's size and the number of streams bound them.
"""

from __future__ import annotations

import zlib

from registry.failure import Code, Failure
from registry.http2.frames import PREFIX
from registry.http2.server_events import Request, Unreadable

MAX_HELD_BYTES = 128 * 2**20
_PREFIX_BYTES = PREFIX.size
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


class RequestError(Exception):
    """The request can't be read; the call ends with this failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ServerStream:
    """One call. `window`: bytes that the peer still takes on this stream. The rest begins as it stands here, for most
    calls never need it: `partial`: what of the request is here; `rest`, `tail`: what of the answer waits for windows,
    message bytes, and then the frames that end it; `opened`: the head of the answer is out; `half_closed`: the peer has
    sent all it will; `deaf`: what still comes of the request isn't wanted; `held_bytes`: of the request, in memory.
    """

    partial: bytes | bytearray = b""
    rest: bytearray | None = None
    tail = b""
    opened = False
    half_closed = False
    deaf = False
    held_bytes = 0

    def __init__(self, path: str, timeout_s: float | None, encoding: str, window: int) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.encoding = encoding
        self.window = window

    def add(self, data: bytes, limit_bytes: int) -> None:
        """Take a piece of the request. Raises RequestError as soon as it's known to be too large."""
        partial = self.partial
        if isinstance(partial, bytearray):
            partial += data
        elif partial:
            self.partial = partial = bytearray(partial + data)
        else:
            self.partial = partial = data
        if len(partial) >= _PREFIX_BYTES:
            size = PREFIX.unpack_from(partial)[1]
            if size > limit_bytes:
                raise RequestError(too_large(size, limit_bytes))
            if len(partial) > _PREFIX_BYTES + size:
                raise RequestError(_broken("the request has more than one message"))

    def message(self, limit_bytes: int) -> bytes:
        """The one message of the request, which is here whole. Raises RequestError."""
        partial, self.partial = self.partial, b""
        if len(partial) < _PREFIX_BYTES:
            raise RequestError(_broken("the request has no message"))
        compressed, size = PREFIX.unpack_from(partial)
        if len(partial) != _PREFIX_BYTES + size:
            raise RequestError(_broken("the request ends inside its message"))
        payload = bytes(memoryview(partial)[_PREFIX_BYTES:])
        return self._decompress(payload, limit_bytes) if compressed else payload

    def _decompress(self, payload: bytes, limit_bytes: int) -> bytes:
        if self.encoding == "identity":
            raise RequestError(_broken("the message is compressed, but no grpc-encoding says how"))
        bits = _WINDOW_BITS.get(self.encoding)
        if bits is None:
            text = f"compression {self.encoding[:100]!r} is not supported; gzip and deflate are"
            raise RequestError(Failure(Code.UNIMPLEMENTED, text, "UNSUPPORTED_COMPRESSION"))
        inflater = zlib.decompressobj(bits)
        try:
            plain = inflater.decompress(payload, limit_bytes + 1)
        except zlib.error as error:
            raise RequestError(_broken(f"the message is not {self.encoding}")) from error
        if len(plain) > limit_bytes:
            raise RequestError(too_large(len(plain), limit_bytes))
        if not inflater.eof or inflater.unused_data:
            raise RequestError(_broken(f"the message is not one whole piece of {self.encoding}"))
        return plain


class ServerStreams:
    """The open streams of a connection."""

    __slots__ = ("_max_message_bytes", "by_id", "held_bytes")

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self.by_id: dict[int, ServerStream] = {}
        self.held_bytes = 0

    def take(self, stream_id: int, stream: ServerStream, data: bytes, ends: bool) -> Request | Unreadable | None:
        """A piece of a request came. Returns the request if this is its end."""
        try:
            self._hold(stream, len(data))
            stream.add(data, self._max_message_bytes)
        except RequestError as error:
            stream.half_closed = ends
            return self._unreadable(stream_id, stream, error)
        return self.finish(stream_id, stream) if ends else None

    def finish(self, stream_id: int, stream: ServerStream) -> Request | Unreadable | None:
        """The peer has sent all it will on a stream. None where the request isn't wanted any more."""
        stream.half_closed = True
        if stream.deaf:
            return None
        try:
            payload = stream.message(self._max_message_bytes)
            # A small message may have become a large one.
            self._hold(stream, max(0, len(payload) - stream.held_bytes))
        except RequestError as error:
            return self._unreadable(stream_id, stream, error)
        return Request(stream_id, stream.path, stream.timeout_s, payload)

    def _unreadable(self, stream_id: int, stream: ServerStream, error: RequestError) -> Unreadable:
        self.release(stream)
        return Unreadable(stream_id, error.failure)

    def _hold(self, stream: ServerStream, size: int) -> None:
        if self.held_bytes + size > MAX_HELD_BYTES:
            text = "this connection has too many large requests open at once"
            raise RequestError(Failure(Code.RESOURCE_EXHAUSTED, text, "OVERLOADED"))
        stream.held_bytes += size
        self.held_bytes += size

    def release(self, stream: ServerStream) -> None:
        """Forget what has come of a request, and of what still comes."""
        stream.deaf = True
        stream.partial = b""
        self.held_bytes -= stream.held_bytes
        stream.held_bytes = 0

    def drop(self, stream_id: int) -> None:
        """The stream is over."""
        self.held_bytes -= self.by_id.pop(stream_id).held_bytes

    def clear(self) -> None:
        """All streams are over."""
        self.by_id.clear()
        self.held_bytes = 0


def too_large(size: int, limit_bytes: int) -> Failure:
    """The failure for a message over the limit."""
    text = f"message of {size} bytes is over the limit of {limit_bytes} bytes; send fewer rows a request"
    return Failure(Code.RESOURCE_EXHAUSTED, text, "MESSAGE_TOO_LARGE")


def _broken(text: str) -> Failure:
    return Failure(Code.INTERNAL, text, "BROKEN_REQUEST")
