"""Admission: tries each model file in a process that is thrown away after it.

Contract: whatever a file does to the process that loads it (crash, hang, eat memory, print garbage, start others),
the caller gets either what was found or an ArtifactRejectedError that says what happened, and no process is left: not
when the caller is cancelled, and not when this process is killed. The program that does it is `python -m
scorer.probe`. It is started by command line, as this package imports nothing of the scorer, has the engines loaded,
and forks a throw-away process for each model; so a model costs milliseconds, not the start of an interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from registry.errors import AdmissionUnavailableError
from registry.offer import Admitted, Offer
from registry.probe_verdict import CPU_SHARE, Ended, judge
from registry.probe_wire import ENDED, FRAME, HEAD, Hello, Order
from registry.process import PARENT_VARIABLE

PROGRAM = "scorer.probe"
TIMEOUT_S = 30.0
_BYTES_PER_S = 4 << 20  # a large model gets more time, as much as it takes to check, rewrite and load it
_START_S = 60.0
_GRACE_S = 5.0
_END_S = 1.0  # a program that is well ends in milliseconds
_PIECE_BYTES = 1 << 16
_LONG_BYTES = 1 << 16  # of an answer; reading it may take 10 ms

_LOG = logging.getLogger(__name__)
_told: set[str] = set()


class _Prober:
    """One running program; tries one model at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101 -- both were opened as pipes
        assert process.stdout is not None  # noqa: S101
        self._process = process
        self._requests = process.stdin
        self._replies = process.stdout

    async def hello(self) -> Hello:
        (length,) = FRAME.unpack(await self._replies.readexactly(FRAME.size))
        return msgspec.msgpack.decode(await self._replies.readexactly(length), type=Hello)

    async def attempt(self, offer: Offer, timeout_s: float) -> Ended:
        """Raises EOFError or OSError where the program is gone, TimeoutError where it hangs."""
        async with asyncio.timeout(timeout_s + _GRACE_S):
            order = msgspec.json.encode(Order(offer.runtime, offer.golden, offer.transforms))
            self._requests.write(HEAD.pack(len(order), len(offer.data), timeout_s * CPU_SHARE, timeout_s))
            self._requests.write(order)
            self._requests.write(offer.data)
            await self._requests.drain()
            ending, exit_code, length = ENDED.unpack(await self._replies.readexactly(ENDED.size))
            return Ended(ending, exit_code, await self._replies.readexactly(length))

    async def aclose(self) -> None:
        """End the program, which ends the process that it has at work."""
        self._requests.close()
        # It may be in the middle of a reply that nobody wants, and the pipe is only closed when all is read.
        reading = asyncio.ensure_future(self._read_to_end())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await self._process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # the kernel then kills its child
            await self._process.wait()
            await reading

    async def _read_to_end(self) -> None:
        while await self._replies.read(_PIECE_BYTES):
            pass


class ProbePool:
    """Admits models, up to `workers` at once; more wait. Starts a program when it is first wanted and again when it has
    died; holds no task of its own. `timeout_s`: for a small model; 4 MiB more take a second more. `program`: the module
    that is run. Use as an async context manager, or `aclose`.
    """

    def __init__(self, workers: int = 2, *, timeout_s: float = TIMEOUT_S, program: str = PROGRAM) -> None:
        self._timeout_s = timeout_s
        self._program = program
        self._turns = asyncio.Semaphore(workers)
        self._idle: list[_Prober] = []

    async def admit(self, offer: Offer) -> Admitted:
        """Try a model; a `registry.offer.Admit`.

        Raises:
            ArtifactRejectedError: no scorer may load it, and why.
            AdmissionUnavailableError: the program can't be started, or dies by itself.
        """
        async with self._turns:
            for last in (False, True):
                try:
                    ended = await self._attempt(offer)
                except (EOFError, OSError) as error:  # TimeoutError is an OSError
                    if last:
                        raise AdmissionUnavailableError("the program that tries models ends by itself") from error
                else:
                    return await self._judge(offer, ended)
        raise AssertionError("unreachable")

    async def _judge(self, offer: Offer, ended: Ended) -> Admitted:
        if len(ended.answer) < _LONG_BYTES:
            return judge(offer, ended, self._limit_s(offer))
        return await asyncio.to_thread(judge, offer, ended, self._limit_s(offer))

    async def _attempt(self, offer: Offer) -> Ended:
        prober = self._idle.pop() if self._idle else await _start(self._program)
        try:
            ended = await prober.attempt(offer, self._limit_s(offer))
        except BaseException:
            await prober.aclose()
            raise
        self._idle.append(prober)
        return ended

    def _limit_s(self, offer: Offer) -> float:
        return self._timeout_s + len(offer.data) / _BYTES_PER_S

    async def aclose(self) -> None:
        """End the programs. No `admit` may run or follow."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(prober.aclose() for prober in idle))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def probe(offer: Offer, *, timeout_s: float = TIMEOUT_S) -> Admitted:
    """Try one model; for a second one a `ProbePool` is faster. Raises as `ProbePool.admit`."""
    async with ProbePool(1, timeout_s=timeout_s) as pool:
        return await pool.admit(offer)


async def _start(program: str) -> _Prober:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-B", "-m", program),
        env=_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    prober = _Prober(process)
    try:
        async with asyncio.timeout(_START_S):
            _warn_once((await prober.hello()).missing)
    except BaseException:
        await prober.aclose()
        raise
    return prober


def _environment() -> dict[str, str]:
    """Only what Python and the engines need: no secret of this process is readable for a file that takes over an
    engine. The libraries start no thread by themselves, as a process with threads can't be forked safely.
    """
    return {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        PARENT_VARIABLE: str(os.getpid()),
    }


def _warn_once(missing: tuple[str, ...]) -> None:
    for what in missing:
        if what not in _told:
            _told.add(what)
            _LOG.warning("models are tried without a part of the sandbox that this system doesn't offer: %s", what)
