"""What a worker's threads are busy with, written where its supervisor can read it after the worker's end.

Contract: a `BlackBox` is memory that the supervisor shares with one worker. The worker writes through `InFlight`: which
package each of its threads has given to native code (`enter`, `leave`), and a beat of the event loop. A crash and
SIGKILL leave it as it was. Behind it the worker's end leaves its last words: the stack that `faulthandler` prints.

`enter` and `leave` are on the hot path: they write into the memory and do nothing else, about 0.1 us each.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import threading
from itertools import count
from typing import NamedTuple

LOOP, LOAD, PREDICT = 0, 1, 2
_SLOTS = 3
_NAME_BYTES = 128  # as long as a name may be
_SIZE = mmap.PAGESIZE
_LAST_WORDS_BYTES = 32 * 1024


class _Shared(ctypes.Structure):
    _fields_ = (
        ("beat", ctypes.c_uint64),
        ("main_thread", ctypes.c_uint64),
        ("stamps", ctypes.c_uint64 * _SLOTS),
        ("packages", (ctypes.c_char * _NAME_BYTES) * _SLOTS),
    )


class Seen(NamedTuple):
    """What a worker wrote. `beat`: 0 before its loop runs. `packages`: by slot, "" for none. `stamps`: by slot,
    another number for each entering of LOAD and PREDICT. `main_thread`: its `threading.get_ident()`, the one with the
    event loop.
    """

    beat: int
    main_thread: int
    stamps: tuple[int, ...]
    packages: tuple[str, ...]


class InFlight:
    """The worker's side. `memory_fd`: of the black box; -1: memory that nobody reads. Each slot is one thread's."""

    def __init__(self, memory_fd: int = -1) -> None:
        self._shared = _Shared.from_buffer(mmap.mmap(memory_fd, _SIZE))
        self._shared.main_thread = threading.main_thread().ident or 0
        self._packages = list(self._shared.packages)
        self._stamps = self._shared.stamps
        self._next = count(1).__next__

    def enter(self, slot: int, package: str) -> None:
        """Note that the slot's thread gives a package to native code. Raises ValueError for one over 128 bytes, which
        is no package's name.
        """
        self._packages[slot].value = package.encode()
        if slot:  # The loop's beat tells whether it goes on, so that the hot path needs no stamp.
            self._stamps[slot] = self._next()

    def leave(self, slot: int) -> None:
        """Note that the slot's thread is back."""
        self._packages[slot].value = b""

    def beat(self) -> None:
        """Note that the event loop runs."""
        self._shared.beat += 1


NOWHERE = InFlight()


def open_in_flight(memory_fd: int) -> InFlight:
    """The worker's side of the black box that its supervisor passed on; this process's crash is written to it, too.
    `memory_fd` -1: there is no supervisor.
    """
    if memory_fd < 0:
        return NOWHERE
    faulthandler.enable(memory_fd)
    return InFlight(memory_fd)


def read_seen(memory: bytes) -> Seen:
    """What is in the memory of a black box."""
    shared = _Shared.from_buffer_copy(memory)
    packages = tuple(each.value.decode(errors="replace") for each in shared.packages)
    return Seen(shared.beat, shared.main_thread, tuple(shared.stamps), packages)


class BlackBox:
    """The supervisor's side, for one run of a worker. `memory_fd` is to be passed to it. To be closed."""

    def __init__(self) -> None:
        self.memory_fd = os.memfd_create("scoremesh-in-flight")
        os.ftruncate(self.memory_fd, _SIZE)
        os.lseek(self.memory_fd, _SIZE, os.SEEK_SET)  # the worker shares the position: here go its last words

    def read(self) -> Seen:
        """What the worker has written by now."""
        return read_seen(os.pread(self.memory_fd, _SIZE, 0))

    def last_words(self) -> str:
        """What the worker wrote when a signal of its own fault ended it, "" for none."""
        return os.pread(self.memory_fd, _LAST_WORDS_BYTES, _SIZE).decode(errors="replace")

    def close(self) -> None:
        """Give the memory back; the worker's side keeps its own."""
        os.close(self.memory_fd)
