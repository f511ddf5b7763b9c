"""Whether a worker hangs, and which packages are suspected when it crashed, hung or was killed. Pure.

Suspected is what was in native code where it happened:

- a signal of the process's own fault: what the thread was busy with that got the signal, as the last words tell; what
  all threads were busy with where they don't (a thread that Python doesn't know, or no words at all);
- a hang of the event loop: what the loop gave to native code; where it gave nothing, something else keeps the
  interpreter's lock, so what the other threads are busy with;
- a load or a prediction on a thread that doesn't end: that one;
- a kill by the kernel for want of memory: what was being loaded. What was being scored is suspected of nothing: some
  hot model nearly always is;
- any other end (SIGKILL by hand, an exit): nothing.
"""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from scorer.in_flight import LOAD, LOOP, PREDICT, Seen

_OWN_FAULT = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
_CURRENT_THREAD = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)
_PLACES = ("the event loop", "a load", "a prediction")
# A load or a long prediction may take its time; an event loop that stands still for that long serves nobody.
THREAD_PATIENCE = 6


class Cause(NamedTuple):
    """Why a worker ended, and who is suspected."""

    text: str
    suspects: frozenset[str] = frozenset()


class Liveness:
    """Of one run of a worker. It hangs when its event loop doesn't beat for `hang_s`, or one load or one prediction on
    a thread takes 6 times that. Before the first beat it's starting, which no model has a part in.
    """

    def __init__(self, hang_s: float) -> None:
        self._limits_s = (hang_s, hang_s * THREAD_PATIENCE, hang_s * THREAD_PATIENCE)
        self._marks: tuple[int, ...] = (0, 0, 0)
        self._still_s = [0.0, 0.0, 0.0]

    def observe(self, seen: Seen, passed_s: float) -> int | None:
        """Take a look; the slot that hangs, or None. `passed_s`: time since the last look in which the worker could
        run, so not the time that it, or the machine, was stopped.
        """
        marks = (seen.beat, *(seen.stamps[slot] if seen.packages[slot] else 0 for slot in (LOAD, PREDICT)))
        for slot, (mark, before) in enumerate(zip(marks, self._marks, strict=True)):
            self._still_s[slot] = self._still_s[slot] + passed_s if mark and mark == before else 0.0
        self._marks = marks
        return next((slot for slot in (LOOP, LOAD, PREDICT) if self._still_s[slot] > self._limits_s[slot]), None)


def cause_of_hang(seen: Seen, slot: int) -> Cause:
    """Of a worker whose `slot` hangs."""
    slots = (LOAD, PREDICT) if slot == LOOP and not seen.packages[LOOP] else (slot,)
    return Cause(f"hung in {_PLACES[slot]}", _in_slots(seen, *slots))


def cause_of_end(seen: Seen, status: int, last_words: str, oom_kills: int) -> Cause:
    """Of a worker that ended by itself. `status`: of the exit, -N after signal N. `oom_kills`: how many processes of
    this container the kernel killed for want of memory while the worker ran.
    """
    if status >= 0:
        return Cause(f"ended with status {status}")
    name = _signal_name(-status)
    if -status in _OWN_FAULT:
        return Cause(f"crashed with {name}", _suspects_of_crash(seen, last_words))
    if -status == signal.SIGKILL and oom_kills:
        return Cause("was killed for want of memory", _in_slots(seen, LOAD))
    return Cause(f"was ended by {name}")


def _suspects_of_crash(seen: Seen, last_words: str) -> frozenset[str]:
    found = _CURRENT_THREAD.search(last_words)
    if found is None:
        return _in_slots(seen, LOOP, LOAD, PREDICT)
    return _in_slots(seen, *((LOOP,) if int(found[1], 16) == seen.main_thread else (LOAD, PREDICT)))


def _in_slots(seen: Seen, *slots: int) -> frozenset[str]:
    return frozenset(seen.packages[slot] for slot in slots) - {""}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
