"""HTTP/2 frames as bytes: the constants of RFC 9113 and the encoders of what a client sends. Pure.

Contract: every function returns bytes that may be written to the connection as they are. Lengths and stream ids are the
caller's to get right; nothing here keeps state.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
MIN_MAX_FRAME_BYTES: Final = 16_384  # of a payload; what both sides may send before SETTINGS say otherwise
MAX_MAX_FRAME_BYTES: Final = 2**24 - 1
MAX_WINDOW_BYTES: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1
DEFAULT_WINDOW_BYTES: Final = 65_535

# Frame types, RFC 9113 section 6.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags; ACK shares its bit with END_STREAM.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

# Settings, RFC 9113 section 6.5.2.
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

# Error codes, RFC 9113 section 7.
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
FLOW_CONTROL_ERROR: Final = 3
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11
INADEQUATE_SECURITY: Final = 12

# A frame's head is length (24 bits), type (8), flags (8), stream id (32): as one word of 32 bits, one of 8, one of 32.
HEAD: Final = struct.Struct(">IBI")
# The five bytes before a gRPC message: compressed or not, and the message's length.
PREFIX: Final = struct.Struct(">BI")
# The head of a DATA frame and the prefix of the message that it carries.
HEAD_AND_PREFIX: Final = struct.Struct(">IBIBI")
_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")
_TWO_WORDS = struct.Struct(">II")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(pairs: Sequence[tuple[int, int]]) -> bytes:
    """A SETTINGS frame of (setting, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in pairs))


def window_update(stream_id: int, grant_bytes: int) -> bytes:
    """A WINDOW_UPDATE that lets the peer send `grant_bytes` more; stream 0 is the whole connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(grant_bytes))


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM with an error code."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def goaway(last_stream_id: int, code: int) -> bytes:
    """A GOAWAY with an error code. `last_stream_id`: of the streams that the peer opened."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream_id, code))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The (setting, value) pairs of a SETTINGS payload, whose length must be a multiple of six."""
    return [(setting, value) for setting, value in _SETTING.iter_unpack(payload)]


def read_word(payload: bytes, at: int = 0) -> int:
    """The unsigned 32-bit number at an offset."""
    word: int = _WORD.unpack_from(payload, at)[0]
    return word


def literal(name: bytes, value: bytes) -> bytes:
    """An HPACK header field that neither side remembers (RFC 7541 section 6.2.2: literal without indexing, new name, no
    Huffman code). `name` must be lower case.
    """
    return b"\x00" + _string(name) + _string(value)


def indexed_name(index: int, value: bytes) -> bytes:
    """As `literal`, with the name taken from HPACK's static table."""
    return _integer(index, 4) + _string(value)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7) + text


def _integer(value: int, prefix_bits: int) -> bytes:
    """RFC 7541 section 5.1, with zeros in the bits before the prefix."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((value,))
    encoded = bytearray((limit,))
    value -= limit
    while value >= 128:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
