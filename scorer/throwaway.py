"""Runs a function in a process that is thrown away, and passes on what goes in and what comes out.

Contract: `Throwaway` forks a process that calls `work(taking, telling)` with the two ends of pipes that are its own,
and ends with it. Whatever it does, `end` leaves nothing of it. One thread may use this module, as only that one is
there after a fork.

Invariant: nothing that goes in or comes out is ever on the heap of this process, because the next process that is
forked gets a copy of that, with all that was freed and not yet written over. What goes in is moved by the kernel alone;
what comes out stays in a mapping of memory (`mapping`), which is to be gone before the next fork.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

from registry.probe_wire import BY_ITSELF, OUT_OF_TIME, TOO_TALKATIVE

_FIRST_WORDS_BYTES = select.PIPE_BUF  # so much is written at once
_SKIPPED_BYTES = 1 << 20
_MAP_NORESERVE = 0x4000  # memory is taken when it is written to


@contextlib.contextmanager
def mapping(size: int) -> Iterator[memoryview]:
    """`size` bytes of memory that are no part of the heap, and are the kernel's again afterwards."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    with mmap.mmap(-1, size, flags=flags) as mapped, memoryview(mapped) as view:
        yield view


def skip(source: int, size: int) -> None:
    """Read `size` bytes and forget them; ends the program where `source` has fewer."""
    with mapping(_SKIPPED_BYTES) as view:
        while size:
            got = os.readv(source, [view[:size]])
            if not got:
                raise SystemExit
            size -= got


class Throwaway:
    """One such process; it has until `deadline` (`time.monotonic`). `end` must be called, and nothing after it."""

    def __init__(self, work: Callable[[int, int], None], deadline: float) -> None:
        self._deadline = deadline
        taking, self._giving = os.pipe()
        self._hearing, telling = os.pipe()
        self._pid = _fork(work, taking, telling)
        os.close(taking)
        os.close(telling)
        self._watched = os.pidfd_open(self._pid)

    def first_words(self) -> bytes:
        """What it wrote at once before anything was given to it, which can be trusted; b"" where it ended instead."""
        return os.read(self._hearing, _FIRST_WORDS_BYTES) if self._may(self._hearing, select.POLLIN) else b""

    def give(self, source: int, size: int) -> int:
        """Move `size` bytes of `source` to it. Returns how many it didn't take, as it ended or ran out of time; ends
        the program where `source` has fewer.
        """
        left = size
        with contextlib.suppress(BrokenPipeError):
            while left and self._may(source, select.POLLIN) and self._may(self._giving, select.POLLOUT):
                moved = os.splice(source, self._giving, left, flags=os.SPLICE_F_NONBLOCK)
                if not moved:
                    raise SystemExit
                left -= moved
        return left

    def hear(self, answer: memoryview, source: int) -> tuple[int, int]:
        """(why it ends, length of what it wrote to `answer`). Returns when it is gone, is out of time, or has filled
        `answer`. Ends the program when there is something at `source`: nothing is asked before the last reply, so that
        is the end, and nobody waits for the answer.
        """
        length = 0
        poll = select.poll()
        for number in (self._hearing, self._watched, source):
            poll.register(number, select.POLLIN)
        while ready := {number for number, _ in poll.poll(self._left_ms())}:
            if self._hearing in ready:
                got = os.readv(self._hearing, [answer[length:]])
                length += got
                if not got:
                    poll.unregister(self._hearing)  # it has closed it, and may still run
            elif self._watched in ready:
                return BY_ITSELF, length
            if length == len(answer):
                return TOO_TALKATIVE, 0
            if source in ready:
                raise SystemExit
            if not self._left_ms():
                break  # one that writes without end leaves poll no time to find that out
        return OUT_OF_TIME, length

    def end(self) -> int:
        """Kill what is left of it and of its session; returns its exit code, or minus the signal that ended it."""
        for number in (self._giving, self._hearing, self._watched):
            os.close(number)
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError):
                kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _may(self, number: int, event: int) -> bool:
        """Wait until a file is ready, or at its end; false when the time is over."""
        poll = select.poll()
        poll.register(number, event)
        return bool(poll.poll(self._left_ms()))

    def _left_ms(self) -> int:
        return max(0, math.ceil((self._deadline - time.monotonic()) * 1000))


def _fork(work: Callable[[int, int], None], taking: int, telling: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work(taking, telling)
        status = 0
    finally:
        os._exit(status)  # an exception too ends here: the parent's code isn't this process's to run
