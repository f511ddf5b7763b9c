"""What it costs to note which package is in native code: python -m bench.in_flight

CPU nanoseconds of the two notes around a prediction, and of the beat of the event loop (four a second), without the
call itself; the best of several rounds that take turns.
"""

from __future__ import annotations

import math
import time

from bench.registry_common import machine
from registry.process import end_with
from scorer.in_flight import LOOP, InFlight

_CALLS = 20_000
_ROUNDS = 15


def main() -> None:
    in_flight, package = InFlight(), "a" * 64

    def notes() -> None:
        in_flight.enter(LOOP, package)
        in_flight.leave(LOOP)

    works = {"nothing": lambda: None, "notes": notes, "beat": in_flight.beat}
    best = dict.fromkeys(works, math.inf)
    for _ in range(_ROUNDS):
        for name, work in works.items():
            began = time.process_time_ns()
            for _ in range(_CALLS):
                work()
            best[name] = min(best[name], (time.process_time_ns() - began) / _CALLS)
    print(machine())
    notes_ns, beat_ns = (best[name] - best["nothing"] for name in ("notes", "beat"))
    print(f"notes around a prediction {notes_ns:.0f} ns, a beat {beat_ns:.0f} ns")


if __name__ == "__main__":
    end_with(main)
