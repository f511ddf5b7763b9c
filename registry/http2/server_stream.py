"""One call on the server's side: its request as DATA frames bring it, and what of its answer still waits. Pure."""

from __future__ import annotations

import zlib

from registry.failure import Code, Failure
from registry.http2.frames import PREFIX

_PREFIX_BYTES = PREFIX.size
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


class RequestError(Exception):
    """The request can't be read; the call ends with this failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ServerStream:
    """`partial`: what of the request is here. `window`: bytes that the peer still takes on this stream. `rest`, `tail`:
    what of the answer waits for windows: message bytes, and then the frames that end it. `opened`: the head of the
    answer is out. `half_closed`: the peer has sent all it will.
    """

    __slots__ = ("encoding", "half_closed", "opened", "partial", "path", "rest", "tail", "timeout_s", "window")

    def __init__(self, path: str, timeout_s: float | None, encoding: str, window: int) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.encoding = encoding
        self.window = window
        self.partial = b""
        self.rest = b""
        self.tail = b""
        self.opened = False
        self.half_closed = False

    def add(self, data: bytes, limit_bytes: int) -> None:
        """Take a piece of the request. Raises RequestError as soon as it's known to be too large."""
        self.partial = self.partial + data if self.partial else data
        if len(self.partial) >= _PREFIX_BYTES:
            size = PREFIX.unpack_from(self.partial)[1]
            if size > limit_bytes:
                raise RequestError(too_large(size, limit_bytes))
            if len(self.partial) > _PREFIX_BYTES + size:
                raise RequestError(_broken("the request has more than one message"))

    def message(self, limit_bytes: int) -> bytes:
        """The one message of the request, which is here whole. Raises RequestError."""
        partial, self.partial = self.partial, b""
        if len(partial) < _PREFIX_BYTES:
            raise RequestError(_broken("the request has no message"))
        compressed, size = PREFIX.unpack_from(partial)
        if len(partial) != _PREFIX_BYTES + size:
            raise RequestError(_broken("the request ends inside its message"))
        payload = partial[_PREFIX_BYTES:]
        return self._decompress(payload, limit_bytes) if compressed else payload

    def _decompress(self, payload: bytes, limit_bytes: int) -> bytes:
        bits = _WINDOW_BITS.get(self.encoding)
        if bits is None:
            text = f"compression {self.encoding!r} is not supported; gzip and deflate are"
            raise RequestError(Failure(Code.UNIMPLEMENTED, text, "UNSUPPORTED_COMPRESSION"))
        inflater = zlib.decompressobj(bits)
        try:
            plain = inflater.decompress(payload, limit_bytes + 1)
        except zlib.error as error:
            raise RequestError(_broken(f"the message is not {self.encoding}")) from error
        if len(plain) > limit_bytes:
            raise RequestError(too_large(len(plain), limit_bytes))
        return plain


def too_large(size: int, limit_bytes: int) -> Failure:
    """The failure for a message over the limit."""
    text = f"message of {size} bytes is over the limit of {limit_bytes} bytes; send fewer rows a request"
    return Failure(Code.RESOURCE_EXHAUSTED, text, "MESSAGE_TOO_LARGE")


def _broken(text: str) -> Failure:
    return Failure(Code.INTERNAL, text, "BROKEN_REQUEST")
