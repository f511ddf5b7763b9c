"""Header blocks of gRPC requests, and those of the answers to them. Pure.

Source: PROTOCOL-HTTP2.md of the gRPC project; RFC 7541 (HPACK).

This side announces HEADER_TABLE_SIZE 0. Once the peer has acknowledged that and has shrunk its table to 0, blocks no
longer depend on each other, and a decoded block is remembered by its bytes. A deadline differs from request to request,
so the field `grpc-timeout`, where it stands in plain bytes, is cut out of the block before it's looked up. A block
that isn't remembered, as with trace ids, is scanned for the fields that count; HPACK's whole decoder takes the unusual.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from hpack import Decoder, HPACKError, OversizedHeaderListError

from registry.http2.field_scan import scan
from registry.http2.frames import indexed_name, literal

_MAX_REMEMBERED = 256
_MAX_REMEMBERED_BYTES = 1024
_MAX_HEADER_LIST_BYTES = 16_384
_MAX_MESSAGE_BYTES = 1024  # of grpc-message, before it's percent-encoded
_MAX_TRAILERS_BYTES = 7168  # gRPC clients refuse more than 8 KiB of metadata, and a frame takes 16
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_TIMEOUT_NAME = b"\x0cgrpc-timeout"
_LITERALS = (0x00, 0x10, 0x40)  # a literal with a new name follows: not remembered, never, to be remembered
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

ANSWER_HEAD = b"\x88" + indexed_name(31, b"application/grpc")
"""The block that begins an answer: `:status 200`, `content-type application/grpc`."""
OK_TRAILERS = literal(b"grpc-status", b"0")
"""The block that ends an answer well."""


class RequestHead(NamedTuple):
    """`http_status`: 200 for a request that gRPC can answer, else what to refuse it with. `encoding`: of compressed
    messages.
    """

    path: str
    encoding: str
    http_status: int


Decoded = tuple[RequestHead, float | None]
"""A head, and the seconds of its `grpc-timeout`: None without one."""
_TOO_LONG: Decoded = (RequestHead("", "", 431), None)


class BlockError(Exception):
    """The peer sent a header block that can't be decoded; the connection is lost."""


class RequestHeadDecoder:
    """Decodes the header blocks of one connection, in the order in which they came."""

    __slots__ = ("_forbidden", "_hpack", "_remembered", "_tableless")

    def __init__(self) -> None:
        self._hpack = Decoder(max_header_list_size=_MAX_HEADER_LIST_BYTES)
        self._forbidden = False
        self._tableless = False
        self._remembered: dict[bytes, Decoded] = {}

    def on_table_forbidden(self) -> None:
        """The peer knows that it may have no table. It says in its next block that it has none."""
        self._forbidden = True

    def decode(self, block: bytes) -> Decoded:
        """What a block says. Raises BlockError."""
        if not self._tableless:
            return self._decode_with_table(block)
        at = block.find(_TIMEOUT_NAME)
        if at <= 0 or block[at - 1] not in _LITERALS:
            return self._look_up(block)
        start = at + len(_TIMEOUT_NAME) + 1
        size = block[start - 1] if start <= len(block) else 0xFF
        if size > 9 or start + size > len(block):  # Huffman-coded, or no timeout at all
            return self._decode(block)
        head = self._look_up(block[: at - 1] + block[start + size :])[0]
        return head, parse_timeout(block[start : start + size])

    def _decode_with_table(self, block: bytes) -> Decoded:
        decoded = self._decode(block)
        if self._forbidden and self._hpack.header_table_size == 0:
            self._hpack.max_allowed_table_size = 0
            self._tableless = True
        return decoded

    def _look_up(self, block: bytes) -> Decoded:
        decoded = self._remembered.get(block)
        if decoded is None:
            decoded = self._decode(block)
            if len(block) <= _MAX_REMEMBERED_BYTES:
                if len(self._remembered) >= _MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[block] = decoded
        return decoded

    def _decode(self, block: bytes) -> Decoded:
        scanned = scan(block) if self._tableless else None
        if scanned is not None:
            return read_request_head(scanned)
        try:
            fields = dict(self._hpack.decode(block, raw=True))
        except OversizedHeaderListError as error:
            if not self._tableless:  # the table is in an unknown state
                raise BlockError("too many fields") from error
            return _TOO_LONG
        except (HPACKError, IndexError) as error:
            raise BlockError(type(error).__name__) from error
        return read_request_head(fields)


def read_request_head(fields: dict[bytes, bytes]) -> Decoded:
    """Interpret the fields of a request."""
    http_status = 200
    if not _is_grpc(fields.get(b"content-type", b"")):
        http_status = 415
    elif fields.get(b":method") != b"POST":
        http_status = 405
    path = fields.get(b":path", b"").decode(errors="replace")
    encoding = fields.get(b"grpc-encoding", b"identity").decode(errors="replace")
    return RequestHead(path, encoding, http_status), parse_timeout(fields.get(b"grpc-timeout", b""))


def _is_grpc(content_type: bytes) -> bool:
    """Not so for grpc-web, which frames its trailers differently."""
    return content_type.startswith(b"application/grpc") and content_type[16:17] in (b"", b"+", b";")


def parse_timeout(text: bytes) -> float | None:
    """Seconds of a `grpc-timeout`; None for one that isn't well formed, which is ignored."""
    unit_s = _UNIT_S.get(text[-1:])
    digits = text[:-1]
    return int(digits) * unit_s if unit_s is not None and digits.isdigit() and len(digits) <= 8 else None


def trailers_block(code: int, message: str, extra: Sequence[tuple[str, str | bytes]]) -> bytes:
    """The fields that end an answer: status, message, and further metadata (bytes under names that end in -bin). A long
    message is cut, and metadata that would make the block too long for a client is left out.
    """
    block = literal(b"grpc-status", b"%d" % code)
    if message:
        short = message.encode(errors="replace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
        block += literal(b"grpc-message", quote(short, safe=_PRINTABLE).encode())
    for name, value in extra:
        raw = base64.b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode()
        field = literal(name.encode(), raw)
        if len(block) + len(field) <= _MAX_TRAILERS_BYTES:
            block += field
    return block


def http_refusal_block(http_status: int) -> bytes:
    """The whole answer to a request that isn't gRPC."""
    return indexed_name(8, b"%d" % http_status)
