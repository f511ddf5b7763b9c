"""Damage that knows nothing of the format: what a bad disk, a cut connection or a wrong offset leaves."""

from __future__ import annotations

from random import Random

_BLOCK_BYTES = 2000


def flip_bits(data: bytes, chance: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 3, 10, 100])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def replace_bytes(data: bytes, chance: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 20])):
        changed[chance.randrange(len(changed))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    return bytes(changed)


def move_block(data: bytes, chance: Random) -> bytes:
    """A block is gone, there twice, zeroed, or that of another place."""
    start, length = chance.randrange(len(data)), chance.randrange(1, _BLOCK_BYTES)
    block = data[start : start + length]
    elsewhere = chance.randrange(len(data))
    instead = chance.choice([b"", block + block, b"\0" * len(block), data[elsewhere : elsewhere + len(block)]])
    return data[:start] + instead + data[start + length :]


def cut_off(data: bytes, chance: Random) -> bytes:
    return data[: chance.randrange(len(data))]


def splice(data: bytes, chance: Random) -> bytes:
    """The beginning of the file and the end of it, with another length."""
    return data[: chance.randrange(len(data))] + data[chance.randrange(len(data)) :]


BYTES = [flip_bits, replace_bytes, move_block, cut_off, splice]
