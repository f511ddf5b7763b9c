"""Cuts the bytes of an HTTP/2 peer into whole, well-formed frames. Pure.

Contract: bytes may be cut anywhere. What comes out: (type, flags, stream id, payload); a HEADERS frame carries its
whole block, without padding and priority, and CONTINUATION never shows. Frames of a wrong size, on the wrong kind of
stream or at the wrong place raise PeerError; frames of unknown types are dropped.

Invariant: at most one incomplete frame (16 KiB) and one incomplete block (64 KiB) are held.
"""

from __future__ import annotations

from collections.abc import Iterator

from registry.http2 import frames as h2f
from registry.http2.errors import PeerError

_MAX_BLOCK_BYTES = 65_536
_MAX_BLOCK_FRAMES = 64  # empty ones would go on for ever
_ANY = -1  # any type of frame
_SIZES = {h2f.PRIORITY: 5, h2f.RST_STREAM: 4, h2f.PING: 8, h2f.WINDOW_UPDATE: 4}
_OF_CONNECTION = {h2f.SETTINGS, h2f.PING, h2f.GOAWAY}
_KNOWN = {h2f.RST_STREAM, h2f.SETTINGS, h2f.PING, h2f.GOAWAY, h2f.WINDOW_UPDATE}
Frame = tuple[int, int, int, bytes]


class FrameReader:
    """Reads one connection."""

    __slots__ = ("_awaited", "_block", "_block_flags", "_block_frames", "_block_id", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._awaited = h2f.SETTINGS  # the only type of frame that may come now, or _ANY
        self._block = bytearray()  # the beginning of a header block, and where it belongs
        self._block_flags = 0
        self._block_frames = 0
        self._block_id = 0

    def read(self, data: bytes) -> Iterator[Frame]:
        """Take the next bytes and go through the frames that are now whole; the iterator must be run to its end."""
        if self._tail:
            data = self._tail + data
        position, end, unpack = 0, len(data), h2f.HEAD.unpack_from
        while end - position >= h2f.HEAD_BYTES:
            word, flags, stream_id = unpack(data, position)
            start = position + h2f.HEAD_BYTES
            stop, kind = start + (word >> 8), word & 0xFF
            if stop - start > h2f.MIN_MAX_FRAME_BYTES:
                raise PeerError(h2f.FRAME_SIZE_ERROR, "a frame over the size limit, or no HTTP/2 at all")
            if stop > end:
                break
            if self._awaited not in (kind, _ANY):
                raise PeerError(h2f.PROTOCOL_ERROR, f"a frame of type {kind} where {self._awaited} must come")
            position = stop
            stream_id &= h2f.MAX_STREAM_ID
            if kind == h2f.DATA or (kind == h2f.HEADERS and flags & ~h2f.END_STREAM == h2f.END_HEADERS):
                yield kind, flags, stream_id, data[start:stop]
            else:
                yield from self._read_other(kind, flags, stream_id, data[start:stop])
        self._tail = data[position:]

    def _read_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Iterator[Frame]:
        if kind == h2f.HEADERS:
            self._block, self._block_flags, self._block_id = bytearray(), flags, stream_id
            self._block_frames = 0
            yield from self._extend_block(flags, _strip_extras(flags, payload))
        elif kind == h2f.CONTINUATION:
            if self._awaited != h2f.CONTINUATION or self._block_id != stream_id:
                raise PeerError(h2f.PROTOCOL_ERROR, "CONTINUATION without its header block")
            yield from self._extend_block(flags, payload)
        elif kind == h2f.PUSH_PROMISE:
            raise PeerError(h2f.PROTOCOL_ERROR, "PUSH_PROMISE, which is disabled")
        else:
            _check_shape(kind, flags, stream_id, len(payload))
            if self._awaited == h2f.SETTINGS:
                if flags & h2f.ACK:
                    raise PeerError(h2f.PROTOCOL_ERROR, "the first frame was not SETTINGS")
                self._awaited = _ANY
            if kind in _KNOWN:
                yield kind, flags, stream_id, payload

    def _extend_block(self, flags: int, payload: bytes) -> Iterator[Frame]:
        self._block += payload
        self._block_frames += 1
        if len(self._block) > _MAX_BLOCK_BYTES or self._block_frames > _MAX_BLOCK_FRAMES:
            raise PeerError(h2f.ENHANCE_YOUR_CALM, "a header block over the size limit")
        if flags & h2f.END_HEADERS:
            self._awaited = _ANY
            yield h2f.HEADERS, self._block_flags, self._block_id, bytes(self._block)
        else:
            self._awaited = h2f.CONTINUATION


def strip_padding(payload: bytes) -> bytes:
    """The payload of a PADDED frame without its padding. Raises PeerError."""
    if not payload or payload[0] >= len(payload):
        raise PeerError(h2f.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _strip_extras(flags: int, payload: bytes) -> bytes:
    if flags & h2f.PADDED:
        payload = strip_padding(payload)
    if not flags & h2f.WITH_PRIORITY:
        return payload
    if len(payload) < 5:
        raise PeerError(h2f.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
    return payload[5:]


def _check_shape(kind: int, flags: int, stream_id: int, size: int) -> None:
    if kind == h2f.SETTINGS:
        fits = size == 0 if flags & h2f.ACK else size % 6 == 0
    else:
        fits = size >= 8 if kind == h2f.GOAWAY else size == _SIZES.get(kind, size)
    if not fits:
        raise PeerError(h2f.FRAME_SIZE_ERROR, f"a frame of type {kind} with {size} bytes")
    if kind == h2f.PRIORITY and not stream_id:
        raise PeerError(h2f.PROTOCOL_ERROR, "PRIORITY of no stream")
    if stream_id and kind in _OF_CONNECTION:
        raise PeerError(h2f.PROTOCOL_ERROR, f"a frame of type {kind} on a stream")
