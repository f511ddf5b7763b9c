"""How much of a process's memory its models may take, by what the process takes in all. Pure.

What models take is measured around each load, and that is not all that they cost: the allocator's gaps, Python's own
objects, connections and the libraries take memory too, and how much is known only by looking at the process from
outside. So the room for models is what the process may take, less whatever it takes besides its models; where the
process is over its limit models go until it isn't.

Invariants: the room is never above `ceiling_bytes`, and never under a tenth of it, so that a wrong measurement can't
evict all; it falls at once and rises by at most a tenth of the ceiling each time, so that memory that was freed and is
on its way back to the kernel doesn't count twice.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
# What a scorer takes besides its models when it has used both engines: 80 MiB measured, and some connections.
OWN_BYTES = 96 * 2**20
LEAST_BYTES = 128 * 2**20
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(%|[KMG]?i?B?)", re.IGNORECASE)
_FLOOR = 10  # a tenth


class MemoryBudget(NamedTuple):
    """Of one process. `limit_bytes`: resident memory that the whole of it may take. `ceiling_bytes`: of this, what its
    models may take at most.
    """

    limit_bytes: int
    ceiling_bytes: int

    def room_bytes(self, room_bytes: int, used_bytes: int, resident_set_bytes: int) -> int:
        """How much models may take from now on. `room_bytes`: until now; `used_bytes`: what they take, as measured
        around their loads; `resident_set_bytes`: what the process takes, after freed memory was given back.
        """
        besides = max(0, resident_set_bytes - used_bytes)
        wanted = min(self.limit_bytes - besides, self.ceiling_bytes, room_bytes + self.ceiling_bytes // _FLOOR)
        return max(wanted, self.ceiling_bytes // _FLOOR)

    def is_over(self, resident_set_bytes: int) -> bool:
        """Whether the process takes more than it may."""
        return resident_set_bytes > self.limit_bytes


def of_process(limit_bytes: int) -> tuple[MemoryBudget, int]:
    """The budget of a process that may take so much in all, and how much models get until it has been looked at. The
    latter is the same at each start, so that it can say how many of the models a member is to own.
    """
    return MemoryBudget(limit_bytes, limit_bytes), max(limit_bytes - OWN_BYTES, limit_bytes // _FLOOR)


def size_bytes(text: str, whole_bytes: int) -> int:
    """Read "512MiB", "1.5GB", "1000000" or "70%" of `whole_bytes`.

    Raises:
        ValueError: it's none of them, or it's nothing, or more than the whole where it's a share.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: wanted bytes, such as 512MiB or 2GiB, or a share, such as 70%")
    number, unit = float(match[1]), match[2].upper()
    if unit == "%" and number > 100:
        raise ValueError(f"{text!r} is more than there is")
    if unit not in {*_UNITS, "%"}:
        raise ValueError(f"{text!r} has an unknown unit: KiB, MiB, GiB, KB, MB and GB are known, and %")
    size = int(number * whole_bytes / 100) if unit == "%" else int(number * _UNITS[unit])
    if size <= 0:
        raise ValueError(f"{text!r} is no memory at all")
    return size
