"""What this process has in memory, as glibc's allocator and the kernel see it.

Contract: `allocated_bytes` counts what is allocated by malloc and not yet freed, so the difference around a load is
what the model takes, as long as nothing else allocates meanwhile. Resident memory is more: glibc keeps what was freed
until `release_free_memory`. Linux with glibc 2.33 or newer.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")


class _MallInfo2(ctypes.Structure):
    """`struct mallinfo2` of malloc.h; all in bytes but the counts."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _MallInfo2
    libc.malloc_trim.argtypes = [ctypes.c_size_t]
    return libc


def allocated_bytes() -> int:
    """Bytes in use on the heaps of malloc and in its own mappings. Takes 10 us, and up to 1 ms with many gaps."""
    info = _libc().mallinfo2()
    return int(info.uordblks + info.hblkhd)


def resident_set_bytes() -> int:
    """What the kernel has in memory for this process, shared libraries included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def release_free_memory() -> None:
    """Give freed memory back to the kernel (`malloc_trim`). Takes 1-10 ms and gives up the interpreter lock."""
    _libc().malloc_trim(0)


def measure_load(load: Callable[[], _Result]) -> tuple[_Result, int]:
    """Run `load`; return its result and the bytes that it left allocated. Nothing else may allocate meanwhile."""
    before = allocated_bytes()
    result = load()
    return result, max(0, allocated_bytes() - before)
