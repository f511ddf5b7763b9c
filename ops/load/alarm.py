"""A timer of the event loop that is exact to some 50 us, and sleeps until then.

uvloop's own timers count milliseconds, so that a request that is due in 0.3 ms would leave up to a millisecond late, or
the loop would have to spin. This one is a timerfd of Linux, which the loop watches like a socket (man 2
timerfd_create).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

_CLOCK_MONOTONIC, _ABSOLUTE = 1, 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_NS = 1_000_000_000
_libc = ctypes.CDLL(None, use_errno=True)


class _Timer(ctypes.Structure):
    """`struct itimerspec`: seconds and nanoseconds of the interval, then of the time."""

    _fields_ = (
        *(("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long)),
        *(("at_s", ctypes.c_long), ("at_ns", ctypes.c_long)),
    )


class Alarm:
    """Calls `on_time` in the running loop once for each `set`. Close it. Raises OSError: the system has no timerfd."""

    def __init__(self, on_time: Callable[[], None]) -> None:
        self._on_time = on_time
        self._loop = asyncio.get_running_loop()
        self._timer = _Timer()
        self._timer_ref = ctypes.byref(self._timer)
        self._fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._fd, self._ring)
        self._is_set = False

    def set(self, at: float) -> None:
        """Ring at this time of `time.monotonic`; at once where it has passed."""
        self._timer.at_s, self._timer.at_ns = divmod(max(1, int(at * _NS)), _NS)
        _libc.timerfd_settime(self._fd, _ABSOLUTE, self._timer_ref, None)
        self._is_set = True

    def _ring(self) -> None:
        self._is_set = False
        self._on_time()
        if not self._is_set:  # Setting it also makes the kernel forget that it rang.
            os.read(self._fd, 8)

    def close(self) -> None:
        """Never ring again."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
