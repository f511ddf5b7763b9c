"""One sending process: python -m ops.load.sending SPEC PROCESS OUT

Contract: sends every request when it's due, whatever became of those before. One that is late (this process had no
processor, or too much to do) is sent as soon as it can be, and counts from when it was due. When it has everything
ready it says so on standard output and reads, from standard input, the time of CLOCK_MONOTONIC at which the warm-up
begins, which all processes get alike. Then it says twice a second how far it is, as JSON lines, and writes
`ops.load.outcomes.Notes` to OUT at the end.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from ops.load.alarm import Alarm
from ops.load.arrivals import draw
from ops.load.client_sender import ClientSender
from ops.load.outcomes import Notes
from ops.load.percentiles import nearest_rank
from ops.load.spec import LoadSpec, Target
from ops.load.trace import read_trace
from ops.load.wire_sender import WireSender
from registry.process import end_with, prepare, run

READY = b"ready\n"
_PROGRESS_S = 0.5
_LATEST_S = 0.5  # after the last deadline
_AT_ONCE = 64  # calls, before answers are looked at


class Progress(msgspec.Struct, frozen=True):
    """So far. `late_ms`: how late the latest request since the last time was sent; `p50_ms`, `p99_ms`: of those that
    were answered since then. `cpu_s`: of this process since the warm-up's begin. `examples`: see `Notes`.
    """

    at_s: float = 0.0
    sent: int = 0
    answered: int = 0
    failed: int = 0
    late_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_s: float = 0.0
    examples: dict[int, str] = {}


class Sender(Protocol):
    """How requests are sent; see `ops.load.wire_sender`."""

    @property
    def unfinished(self) -> int: ...

    def connect(self) -> None: ...

    def send(self, first: int, end: int, now: float) -> None: ...

    async def aclose(self) -> None: ...


class Sending:
    """The requests of one process."""

    def __init__(self, spec: LoadSpec, notes: Notes, begin: float, sender: Sender) -> None:
        self._spec, self._notes, self._sender = spec, notes, sender
        self._begin, self._began_cpu_s = begin, time.process_time()
        self._loop = asyncio.get_running_loop()
        self._all_sent: asyncio.Future[None] = self._loop.create_future()
        self._alarm = Alarm(self._on_time)
        self._sent = 0
        self._late_s = 0.0

    async def run(self, say: Callable[[Progress], None]) -> None:
        """Send all, and wait for the answers until the last deadline is over."""
        telling = asyncio.create_task(self._tell(say))
        try:
            self._on_time()
            await self._all_sent
            until = self._spec.total_s + self._spec.deadline_s + _LATEST_S
            while self._sender.unfinished and self._clock() < until:
                await asyncio.sleep(0.005)
        finally:
            telling.cancel()
            self._alarm.close()
        say(self._progress())

    def _clock(self) -> float:
        return time.monotonic() - self._begin

    def _on_time(self) -> None:
        """Send what is due, but answers are looked at in between."""
        try:
            self._send_due()
        except Exception as error:  # It would go to the loop's log, and nothing would ever be sent again.
            if not self._all_sent.done():
                self._all_sent.set_exception(error)

    def _send_due(self) -> None:
        due, sent, batch = self._notes.due_s, self._sent, self._spec.batch
        count, now = len(due), self._clock()
        if sent < count and now > due[sent]:
            self._late_s = max(self._late_s, now - due[sent])
        for _ in range(_AT_ONCE):
            if sent >= count or due[sent] > now:
                break
            end = self._end_of_call(sent, min(sent + batch, count), now)
            self._sender.send(sent, end, now)
            sent = end
            now = self._clock()
        self._sent = sent
        if sent >= count:
            self._all_sent.set_result(None)
        elif due[sent] <= now:
            self._loop.call_soon(self._on_time)
        else:
            self._alarm.set(self._begin + due[sent])

    def _end_of_call(self, first: int, end: int, now: float) -> int:
        """Requests of a trace that aren't due yet are no part of a batch."""
        while end > first + 1 and self._notes.due_s[end - 1] > now:
            end -= 1
        return end

    async def _tell(self, say: Callable[[Progress], None]) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            say(self._progress())

    def _progress(self) -> Progress:
        notes = self._notes
        recent_s, notes.recent_s = sorted(notes.recent_s), []
        late_s, self._late_s = self._late_s, 0.0
        p50_s, p99_s = (recent_s[nearest_rank(q, len(recent_s))] if recent_s else 0.0 for q in (0.5, 0.99))
        return Progress(
            at_s=self._clock(),
            sent=self._sent,
            answered=notes.answered,
            failed=notes.failed,
            late_ms=late_s * 1000,
            p50_ms=p50_s * 1000,
            p99_ms=p99_s * 1000,
            cpu_s=time.process_time() - self._began_cpu_s,
            examples=notes.examples,
        )


async def send(spec: LoadSpec, process: int, out: Path) -> None:
    """See the module."""
    notes = Notes(read_trace(spec, process) if spec.trace else draw(spec, process))
    began: list[float] = [0.0]
    is_client = spec.target is Target.CLIENT
    sender: Sender = (ClientSender if is_client else WireSender)(spec, notes, lambda: time.monotonic() - began[0])
    sender.connect()
    gc.freeze()
    if not is_client:  # The hot path makes no cycles; grpc's tasks and errors do.
        gc.disable()
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    began[0] = float(await asyncio.to_thread(sys.stdin.readline))
    try:
        await Sending(spec, notes, began[0], sender).run(_say)
    finally:
        await sender.aclose()
    notes.save(out)


def _say(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.flush()


def main() -> None:
    """Run."""
    prepare()
    spec, process, out = sys.argv[1:]
    run(send(msgspec.json.decode(Path(spec).read_bytes(), type=LoadSpec), int(process), Path(out)))


if __name__ == "__main__":
    end_with(main)
