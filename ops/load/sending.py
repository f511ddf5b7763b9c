"""One sending process: python -m ops.load.sending SPEC PROCESS BEGIN OUT

Contract: sends every request when it's due, whatever became of those before. One that is late (this process had no
processor, or too much to do) is sent as soon as it can be, and counts from when it was due. Says on standard output
how far it is, twice a second, as JSON lines; writes `Outcomes` to OUT at the end. `BEGIN`: time of CLOCK_MONOTONIC at
which the warm-up begins, the same for all processes.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from ops.load.arrivals import draw
from ops.load.client_sender import ClientSender
from ops.load.outcomes import Outcomes
from ops.load.spec import LoadSpec, Target
from ops.load.trace import read_trace
from ops.load.wire_sender import WireSender
from registry.process import end_with, prepare, run

_PROGRESS_S = 0.5
_LATEST_S = 0.5  # after the last deadline
_NAP_S = 0.0002


class Progress(msgspec.Struct, frozen=True):
    """So far. `late_ms`: how late the last request was sent."""

    at_s: float
    sent: int
    unfinished: int
    late_ms: float
    cpu_s: float


class Sender(Protocol):
    """How requests are sent; see `ops.load.wire_sender`."""

    @property
    def unfinished(self) -> int: ...

    def connect(self) -> None: ...

    def send(self, places: range, now: float) -> None: ...

    async def aclose(self) -> None: ...


class Sending:
    """The requests of one process."""

    def __init__(self, spec: LoadSpec, outcomes: Outcomes, clock: Callable[[], float]) -> None:
        make = ClientSender if spec.target is Target.CLIENT else WireSender
        self._sender: Sender = make(spec, outcomes, clock)
        self._spec, self._outcomes, self._clock = spec, outcomes, clock
        self._sent = 0
        self._late_s = 0.0

    async def run(self) -> None:
        """Send all, and wait for the answers until the last deadline is over."""
        self._sender.connect()
        telling = asyncio.create_task(self._tell())
        try:
            await self._send_all()
            until = self._spec.total_s + self._spec.deadline_s + _LATEST_S
            while self._sender.unfinished and self._clock() < until:
                await asyncio.sleep(0.01)
        finally:
            telling.cancel()
            await self._sender.aclose()
        self._say()

    async def _send_all(self) -> None:
        due: list[float] = self._outcomes.due_s.tolist()
        count, batch = len(due), self._spec.batch
        while self._sent < count:
            now = self._clock()
            if due[self._sent] > now:
                # A sleep ends up to a millisecond late; the last part of the way is watched.
                await asyncio.sleep(max(0.0, due[self._sent] - now - _NAP_S))
                continue
            for place in range(self._sent, bisect_right(due, now, self._sent), batch):
                self._sender.send(range(place, place + batch), self._clock())
                self._sent = place + batch
            self._late_s = now - due[self._sent - 1]
            await asyncio.sleep(0)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            self._say()

    def _say(self) -> None:
        now = Progress(self._clock(), self._sent, self._sender.unfinished, self._late_s * 1000, time.process_time())
        sys.stdout.write(msgspec.json.encode(now).decode() + "\n")
        sys.stdout.flush()


async def send(spec: LoadSpec, process: int, begin: float, out: Path) -> None:
    """See the module."""
    outcomes = Outcomes(read_trace(spec, process) if spec.trace else draw(spec, process))
    gc.freeze()
    gc.disable()
    await Sending(spec, outcomes, lambda: time.monotonic() - begin).run()
    outcomes.save(out)


def main() -> None:
    """Run."""
    prepare()
    spec, process, begin, out = sys.argv[1:]
    loaded = msgspec.json.decode(Path(spec).read_bytes(), type=LoadSpec)
    run(send(loaded, int(process), float(begin), Path(out)))


if __name__ == "__main__":
    end_with(main)
