"""Reads the few fields of a request's header block that gRPC needs, and skips the others undecoded. Pure.

For blocks of a peer that has no dynamic table (RFC 7541 with a table of size 0): each field then says its own length,
so that what isn't wanted (trace ids, cookies, tokens) costs a step and no Huffman decoding. About 3 us a block, where
decoding it whole takes 40 to 90.

Contract: the same as a whole decoding, for the wanted fields; None for anything unusual (a table-size update, an index
outside the static table, a length over 254 bytes or past the end), which is the whole decoder's to judge.
"""

from __future__ import annotations

from functools import lru_cache

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

WANTED = (b":method", b":path", b"content-type", b"grpc-timeout", b"grpc-encoding")
_STATIC = [(b"", b""), *HeaderTable.STATIC_TABLE]
_BY_INDEX = [name if name in WANTED else None for name, _value in _STATIC]
_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
# A name comes plain or Huffman-coded. The two can't be confused: coded names are no legal plain ones.
_BY_NAME = {name: name for name in WANTED} | {_huffman.encode(name): name for name in WANTED}
_LAST = len(_STATIC) - 1


def scan(block: bytes) -> dict[bytes, bytes] | None:
    """The wanted fields of a block, the last one of each name; None if the whole decoder must look at it."""
    fields: dict[bytes, bytes] = {}
    try:
        at = 0
        while at < len(block):
            at = _read_field(block, at, fields)
    except IndexError:
        return None
    return fields if at == len(block) else None


def _read_field(block: bytes, at: int, fields: dict[bytes, bytes]) -> int:
    """Take one field; returns where the next one begins, or a place past the end to give up."""
    first = block[at]
    at += 1
    if first & 0x80:
        index = first & 0x7F
        if not 0 < index <= _LAST:
            return _give_up(block)
        name = _BY_INDEX[index]
        if name is not None:
            fields[name] = _STATIC[index][1]
        return at
    if first & 0xE0 == 0x20:
        return _give_up(block)
    mask = 0x3F if first & 0x40 else 0x0F
    index = first & mask
    if index == 0:
        size = block[at] & 0x7F
        if size == 0x7F:
            return _give_up(block)
        name = _BY_NAME.get(block[at + 1 : at + 1 + size])
        at += 1 + size
    else:
        if index == mask:
            index += block[at]
            at += 1
        if index > _LAST:
            return _give_up(block)
        name = _BY_INDEX[index]
    return _read_value(block, at, name, fields)


def _read_value(block: bytes, at: int, name: bytes | None, fields: dict[bytes, bytes]) -> int:
    head = block[at]
    at += 1
    size = head & 0x7F
    if size == 0x7F:
        more = block[at]
        at += 1
        if more & 0x80:
            return _give_up(block)
        size += more
    end = at + size
    if name is not None:
        raw = block[at:end]
        fields[name] = _decode_value(raw) if head & 0x80 else raw
    return end


def _give_up(block: bytes) -> int:
    return len(block) + 1


@lru_cache(maxsize=4096)
def _decode_value(raw: bytes) -> bytes:
    """Plain bytes of a Huffman-coded value. Bad codes count as unusual."""
    try:
        return bytes(decode_huffman(raw))
    except Exception as error:
        raise IndexError("not Huffman-coded") from error
