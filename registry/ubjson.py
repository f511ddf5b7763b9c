"""Reads and writes UBJSON as XGBoost writes it. Pure.

Contract: `decode` takes time and memory in proportion to the bytes, whatever they are: every length is checked against
what is left, nesting is bounded, a key comes once, and nothing may follow the value. Typed arrays become numpy arrays
in the machine's byte order, every other array a list. `encode` always writes the same value in the same bytes, with
keys in order.

The format: https://ubjson.org/type-reference, of which XGBoost (src/common/json.cc, UBJReader) uses a part: lengths
are int64, containers have no markers of no-op, and arrays have a type and a count, or a count alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

_MOST_DEPTH = 16
_MOST_KEY_BYTES = 256
_COUNT = struct.Struct(">cq")
_INT32, _FLOAT32 = struct.Struct(">ci"), struct.Struct(">cf")
_NUMBERS: Mapping[int, struct.Struct] = {
    marker: struct.Struct(f">{code}")
    for marker, code in zip(b"iUIlLdD", ("b", "B", "h", "i", "q", "f", "d"), strict=True)
}
_TYPES: Mapping[int, np.dtype[Any]] = {
    marker: np.dtype(f">{code}")
    for marker, code in zip(b"iUIlLdD", ("i1", "u1", "i2", "i4", "i8", "f4", "f8"), strict=True)
}
_CONSTANTS = {ord("T"): True, ord("F"): False, ord("Z"): None, ord("N"): None}


class BadUbjsonError(ValueError):
    """The bytes aren't such a value; the text says where and why."""


def decode(data: bytes) -> Any:
    """The value that the bytes are: dict, list, numpy array, str, int, float, bool or None. Raises BadUbjsonError."""
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise reader.bad("something follows the end of the model")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self._readers: Mapping[int, Callable[[int], Any]] = {
            ord("{"): self._object,
            ord("["): self._array,
            ord("S"): lambda _: self._text(len(self._data)),
        }

    def bad(self, why: str) -> BadUbjsonError:
        return BadUbjsonError(f"byte {self.at}: {why}")

    def value(self, depth: int) -> Any:
        marker = self._byte()
        if marker in self._readers:
            if depth > _MOST_DEPTH:
                raise self.bad("values are nested too deeply")
            return self._readers[marker](depth)
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker not in _NUMBERS:
            raise self.bad(f"no value begins with {bytes([marker])!r}")
        return _NUMBERS[marker].unpack(self._take(_NUMBERS[marker].size))[0]

    def _byte(self) -> int:
        if self.at >= len(self._data):
            raise self.bad("it is cut off")
        self.at += 1
        return self._data[self.at - 1]

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise self.bad("it is cut off")
        self.at += size
        return self._data[self.at - size : self.at]

    def _count(self, most: int) -> int:
        """A length; a value takes at least a byte, so that none is longer than what is left."""
        marker = self._byte()
        if marker not in _NUMBERS or marker in b"dD":
            raise self.bad("a length is missing")
        count = int(_NUMBERS[marker].unpack(self._take(_NUMBERS[marker].size))[0])
        if not 0 <= count <= min(most, len(self._data) - self.at):
            raise self.bad(f"a length is {count}, longer than what is there")
        return count

    def _text(self, most: int) -> str:
        data = self._take(self._count(most))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.bad("a string is not UTF-8") from error

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while True:
            if self.at < len(self._data) and self._data[self.at] == ord("}"):
                self.at += 1
                return found
            key = self._text(_MOST_KEY_BYTES)
            if key in found:
                raise self.bad(f"{key!r} comes twice")
            found[key] = self.value(depth + 1)

    def _array(self, depth: int) -> np.ndarray | list[Any]:
        mark = self._byte()
        if mark == ord("$"):
            return self._typed()
        if mark != ord("#"):
            raise self.bad("an array has no length")
        return [self.value(depth + 1) for _ in range(self._count(len(self._data)))]

    def _typed(self) -> np.ndarray:
        dtype = _TYPES.get(self._byte())
        if dtype is None or self._byte() != ord("#"):
            raise self.bad("an array has an unknown type")
        values = np.frombuffer(self._take(self._count(len(self._data)) * dtype.itemsize), dtype)
        return values.astype(dtype.newbyteorder("="))


class Typed(NamedTuple):
    """An array to be written with a type. `marker`: U, l, L or d, for uint8, int32, int64 and float32."""

    marker: str
    values: np.ndarray


def encode(value: Any) -> bytes:
    """The bytes of a value made of dict, list, `Typed`, str, and int and float of 32 bits."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Any, parts: list[bytes]) -> None:
    if isinstance(value, Typed):
        dtype = _TYPES[ord(value.marker)]
        parts += [b"[$", value.marker.encode(), b"#", _COUNT.pack(b"L", len(value.values))]
        parts.append(value.values.astype(dtype).tobytes())
    elif isinstance(value, dict):
        parts.append(b"{")
        for key in sorted(value):
            parts.append(_text(key))
            _encode(value[key], parts)
        parts.append(b"}")
    elif isinstance(value, list):
        parts += [b"[#", _COUNT.pack(b"L", len(value))]
        for one in value:
            _encode(one, parts)
    elif isinstance(value, str):
        parts += [b"S", _text(value)]
    elif isinstance(value, float):
        parts.append(_FLOAT32.pack(b"d", value))
    else:
        parts.append(_INT32.pack(b"l", value))


def _text(text: str) -> bytes:
    data = text.encode()
    return _COUNT.pack(b"L", len(data)) + data
