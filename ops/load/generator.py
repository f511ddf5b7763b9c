"""Runs the sending processes, and puts together what they saw.

Contract: all processes begin at the same moment, a second after the last one was started. `run` returns when all have
ended; cancelling it ends them. What servers cost is the CPU time of the processes that are named, with their children,
over the measured time without the warm-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from ops.load.outcomes import Outcomes, load_all
from ops.load.sending import Progress
from ops.load.spec import LoadModel, LoadSpec, Target, TenantClass
from ops.task_group import task_group
from registry.errors import UnavailableError

_START_S = 2.0
_LIMIT_REQUESTS = 20_000
_LIMIT_RATE = 1e6
OnProgress = Callable[[list[Progress]], None]


class LoadRun(NamedTuple):
    """A finished run. `busiest`: share of a processor that the busiest sending process took; `server_cpu_s`: of the
    servers over the measured time, NaN where none were named. `limit_per_s`: requests a second that one sending process
    can do when nothing holds it.
    """

    outcomes: Outcomes
    busiest: float
    server_cpu_s: float
    limit_per_s: float


async def generate(spec: LoadSpec, server_pids: Sequence[int], on_progress: OnProgress) -> LoadRun:
    """Measure the generator's own limit, then run.

    Raises:
        UnavailableError: a sending process failed.
    """
    limit_per_s = await measure_limit()
    with tempfile.TemporaryDirectory(prefix="scoremesh-load-") as directory:
        begin = time.monotonic() + _START_S
        servers = asyncio.create_task(_server_cpu_s(server_pids, begin + spec.warm_up_s, spec.duration_s))
        try:
            outcomes, progress = await _send(spec, begin, Path(directory), on_progress)
            server_cpu_s = await servers
        finally:
            servers.cancel()
    busiest = max(each.cpu_s / max(each.at_s, 1e-9) for each in progress)
    return LoadRun(outcomes, busiest, server_cpu_s, limit_per_s)


async def measure_limit() -> float:
    """Requests a second that one sending process gets through to a server that answers at once."""
    async with _null_server() as port, asyncio.timeout(120):
        spec = LoadSpec(
            target=Target.SCORE,
            addresses=(f"127.0.0.1:{port}",),
            models=tuple(LoadModel("nobody", f"m{number}", 30) for number in range(100)),
            classes=(TenantClass(name="all", rate=_LIMIT_RATE),),
            duration_s=_LIMIT_REQUESTS / _LIMIT_RATE,
            warm_up_s=0.0,
            deadline_s=60.0,
        )
        with tempfile.TemporaryDirectory(prefix="scoremesh-load-") as directory:
            outcomes, _ = await _send(spec, time.monotonic() + _START_S, Path(directory), lambda _progress: None)
    done_s = outcomes.done_s[outcomes.status == 0]
    return len(done_s) / float(done_s.max() - outcomes.due_s[0]) if len(done_s) else 0.0


async def _send(
    spec: LoadSpec, begin: float, directory: Path, on_progress: OnProgress
) -> tuple[Outcomes, list[Progress]]:
    path = directory / "spec.json"
    path.write_bytes(msgspec.json.encode(spec))
    outs = [directory / f"{process}.npz" for process in range(spec.processes)]
    seen = [Progress(0.0, 0, 0, 0.0, 0.0)] * spec.processes
    async with task_group() as tasks:
        for process, out in enumerate(outs):
            arguments = [str(path), str(process), repr(begin), str(out)]
            tasks.create_task(_follow(arguments, process, seen, on_progress))
    return load_all(outs), seen


async def _follow(arguments: list[str], process: int, seen: list[Progress], on_progress: OnProgress) -> None:
    async with _child("ops.load.sending", *arguments) as child:
        assert child.stdout is not None  # noqa: S101 - a pipe was asked for
        async for line in child.stdout:
            seen[process] = msgspec.json.decode(line, type=Progress)
            on_progress(seen)
        if await child.wait():
            raise UnavailableError("a sending process ended with an error; standard error has it")


@contextlib.asynccontextmanager
async def _null_server() -> AsyncIterator[int]:
    async with _child("ops.load.null_server") as child:
        assert child.stdout is not None  # noqa: S101 - a pipe was asked for
        yield int(await child.stdout.readline())


@contextlib.asynccontextmanager
async def _child(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdin=pipe, stdout=pipe)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def _server_cpu_s(pids: Sequence[int], begin: float, duration_s: float) -> float:
    if not pids:
        return float("nan")
    await asyncio.sleep(begin - time.monotonic())
    before = cpu_s(pids)
    await asyncio.sleep(begin + duration_s - time.monotonic())
    return cpu_s(pids) - before


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of processes and all that they started, as far as these still run. Raises UnavailableError
    for a process that doesn't.
    """
    try:
        named = [psutil.Process(pid) for pid in pids]
        every = {each.pid: each for one in named for each in (one, *one.children(recursive=True))}
    except psutil.NoSuchProcess as error:
        raise UnavailableError(f"there is no process {error.pid}") from error
    total = 0.0
    for process in every.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
