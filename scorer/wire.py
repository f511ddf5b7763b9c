"""Protobuf encoding by hand for answers, which are mostly constant: names and labels are encoded once a model.

Only what an answer needs: varints, length-delimited fields, packed doubles (little-endian, as numpy has them in
memory on every machine that the engines run on). Source: protobuf.dev, "Encoding". A test holds each function against
the generated classes.
"""

from __future__ import annotations

import sys

import numpy as np

if sys.byteorder != "little":
    raise ImportError("answers are encoded from memory, which needs a little-endian machine")


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL = [_encode_varint(number) for number in range(4096)]


def varint(number: int) -> bytes:
    """A non-negative integer, base 128."""
    return _SMALL[number] if number < len(_SMALL) else _encode_varint(number)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: a string, bytes, a message or packed numbers."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def number_field(number: int, value: int) -> bytes:
    """An integer field; nothing when it's 0, as proto3 has it."""
    return varint(number << 3) + varint(value) if value else b""


def doubles(values: np.ndarray) -> bytes:
    """The payload of packed doubles: `values` is float64, any shape, row-major."""
    return values.tobytes()
