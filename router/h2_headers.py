"""Header blocks: those of a request as bytes, and what those of a gRPC server mean for its call. Pure.

Sources: PROTOCOL-HTTP2.md ("Errors") and http-grpc-status-mapping.md of the gRPC project.

Invariant: a `HeaderDecoder` belongs to a connection on which this side has announced HEADER_TABLE_SIZE 0. The peer then
has no dynamic table, a block always means the same, and so a decoded block is remembered by its bytes: a server sends
the same two or three blocks again and again, and decoding them costs one look-up.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from hpack import Decoder, HPACKError

from registry.failure import Code
from registry.http2 import frames as h2f

_MAX_REMEMBERED = 256
_MAX_REMEMBERED_BYTES = 1024
_MAX_HEADER_LIST_BYTES = 65_536


NO_TABLE = b"\x20"
"""Begins the first block of a connection: this side's dynamic table has size 0 from here on (RFC 7541 section 6.3)."""
_MAX_TIMEOUT = 99_999_999  # grpc-timeout has at most eight digits


def encode_timeout(timeout_s: float) -> bytes:
    """The field grpc-timeout, rounded down to what eight digits can tell, at least one microsecond."""
    us = max(1, int(timeout_s * 1e6))
    if us <= _MAX_TIMEOUT:
        return b"\x00\x0cgrpc-timeout%c%du" % (len(str(us)) + 1, us)
    ms = us // 1000
    value = b"%dm" % ms if ms <= _MAX_TIMEOUT else b"%dS" % min(ms // 1000, _MAX_TIMEOUT)
    return h2f.literal(b"grpc-timeout", value)


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


_CODE_OF_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
_CODE_OF_RESET = {
    h2f.REFUSED_STREAM: Code.UNAVAILABLE,
    h2f.CANCEL: Code.CANCELLED,
    h2f.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    h2f.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


def code_of_reset(error: int) -> Code:
    """The status of a call whose stream the peer reset with this error code."""
    return _CODE_OF_RESET.get(error, Code.INTERNAL)


class Head(NamedTuple):
    """A decoded block. `status`, `message`: how the call ended, if the block ends the stream or doesn't open an answer.
    `opens`: it's the head of a gRPC answer. `interim`: a 1xx answer, to be skipped.
    """

    status: int
    message: str
    opens: bool
    interim: bool


class BlockError(Exception):
    """The peer sent a header block that can't be decoded; the connection is lost."""


class HeaderDecoder:
    """Decodes the header blocks of one connection."""

    __slots__ = ("_hpack", "_remembered")

    def __init__(self) -> None:
        self._hpack = Decoder(max_header_list_size=_MAX_HEADER_LIST_BYTES)
        self._hpack.max_allowed_table_size = self._hpack.header_table_size = 0
        self._remembered: dict[bytes, Head] = {}

    def decode(self, block: bytes) -> Head:
        """What a block says. Raises BlockError."""
        head = self._remembered.get(block)
        if head is None:
            head = self._decode(block)
            if len(block) <= _MAX_REMEMBERED_BYTES:
                if len(self._remembered) >= _MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[block] = head
        return head

    def _decode(self, block: bytes) -> Head:
        try:
            fields = dict(self._hpack.decode(block, raw=True))
        except HPACKError as error:
            raise BlockError(type(error).__name__) from error
        return read_head(fields)


def read_head(fields: dict[bytes, bytes]) -> Head:
    """Interpret the fields of a response's head, of its trailers, or of both in one block."""
    http = fields.get(b":status", b"")
    content_type = fields.get(b"content-type", b"")
    is_grpc = content_type.startswith(b"application/grpc")
    status, message = _status(fields, http, content_type)
    return Head(status, message, http == b"200" and is_grpc, len(http) == 3 and http.startswith(b"1"))


def _status(fields: dict[bytes, bytes], http: bytes, content_type: bytes) -> tuple[int, str]:
    raw = fields.get(b"grpc-status")
    if raw is not None:
        message = unquote_to_bytes(fields.get(b"grpc-message", b"")).decode(errors="replace")
        return (int(raw) if raw.isdigit() and len(raw) < 5 else Code.UNKNOWN), message
    if http in (b"", b"200"):
        return Code.UNKNOWN, f"the server sent no grpc-status (content-type {content_type.decode(errors='replace')!r})"
    code = int(http) if http.isdigit() and len(http) == 3 else 0
    return _CODE_OF_HTTP.get(code, Code.UNKNOWN), f"HTTP status {code}"
