"""Runs the sending processes, and puts together what they saw.

Contract: all processes begin at the same moment, when the last one has everything ready. `generate` returns when all
have ended; cancelling it ends them. What servers cost is the CPU time of the processes that are named, with their
children, over the measured time without the warm-up; one that ends meanwhile makes it unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import psutil

from ops.load.outcomes import LoadRun, Outcomes, load_all
from ops.load.sending import READY, Progress
from ops.load.spec import LoadSpec, TenantClass
from ops.task_group import task_group
from registry.errors import UnavailableError

_SETTLE_S = 0.2  # for connections
_LIMIT_REQUESTS = 20_000
_LEAST_LIMIT_REQUESTS = 500
_LIMIT_BYTES = 64 << 20
_LIMIT_RATE = 1e6
_LIMIT_MODELS = 1_000
_LONGEST_LIMIT_S = 120.0
OnProgress = Callable[[list[Progress]], None]


async def generate(spec: LoadSpec, server_pids: Sequence[int], on_progress: OnProgress) -> LoadRun:
    """Measure the generator's own limit, then run.

    Raises:
        UnavailableError: a sending process failed, or there is no such server process.
    """
    cpu_s(server_pids)
    limit_per_s = await measure_limit(spec)
    cpu: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    async with task_group() as tasks:

        def watch(begin: float) -> None:
            tasks.create_task(_watch_cpu(cpu, server_pids, begin + spec.warm_up_s, spec.duration_s))

        outcomes, progress = await run_spec(spec, on_progress, watch)
    examples: dict[int, str] = {}
    for each in progress:
        examples = each.examples | examples
    return LoadRun(
        outcomes,
        busiest=max(each.cpu_s / max(each.at_s, 1e-9) for each in progress),
        cpu_us=sum(each.cpu_s for each in progress) * 1e6 / max(1, len(outcomes)),
        server_cpu_s=cpu.result(),
        limit_per_s=limit_per_s,
        examples=examples,
    )


async def measure_limit(spec: LoadSpec) -> float:
    """Requests a second that the sending processes get through to servers that answer at once: what one does alone,
    times the processes, as far as there are processors. The requests are like those of `spec`.
    """
    async with null_server(spec) as port, asyncio.timeout(_LONGEST_LIMIT_S):
        quick = msgspec.structs.replace(
            spec,
            addresses=(f"127.0.0.1:{port}",),
            models=tuple(msgspec.structs.replace(model, group="") for model in spec.models[:_LIMIT_MODELS]),
            classes=(TenantClass(name="all", rate=_LIMIT_RATE),),
            duration_s=_limit_requests(spec) / _LIMIT_RATE,
            warm_up_s=0.0,
            deadline_s=_LONGEST_LIMIT_S,
            processes=1,
            trace="",
            tls=None,
        )
        outcomes, _ = await run_spec(quick, lambda _progress: None)
    done_s = outcomes.done_s[outcomes.status == 0]
    alone = len(done_s) / float(done_s.max() - outcomes.due_s[0]) if len(done_s) else 0.0
    return alone * min(spec.processes, os.cpu_count() or 1)


def _limit_requests(spec: LoadSpec) -> float:
    """As many as tell the limit; fewer where they are large."""
    weights = sum(each.share for each in spec.rows)
    rows = sum(each.rows * each.share for each in spec.rows) / weights
    features = sum(model.features for model in spec.models) / len(spec.models)
    return max(_LEAST_LIMIT_REQUESTS, min(_LIMIT_REQUESTS, _LIMIT_BYTES / (8 * rows * features)))


async def run_spec(
    spec: LoadSpec, on_progress: OnProgress, on_begin: Callable[[float], None] = lambda _begin: None
) -> tuple[Outcomes, list[Progress]]:
    """Send what a spec says. `on_begin`: told when the warm-up begins, on the clock of `time.monotonic`. Returns what
    became of each request, and the last word of each process. Raises UnavailableError: a process failed.
    """
    with tempfile.TemporaryDirectory(prefix="scoremesh-load-") as directory:
        path = Path(directory, "spec.json")
        await asyncio.to_thread(path.write_bytes, msgspec.json.encode(spec))
        outs = [Path(directory, f"{process}.npz") for process in range(spec.processes)]
        seen = [Progress()] * spec.processes
        begin = asyncio.get_running_loop().create_future()
        ready = asyncio.Barrier(spec.processes + 1)
        async with task_group() as tasks:
            for process, out in enumerate(outs):
                arguments = (str(path), str(process), str(out))
                tasks.create_task(_follow(arguments, process, ready, begin, seen, on_progress))
            await ready.wait()
            begin.set_result(time.monotonic() + _SETTLE_S)
            on_begin(begin.result())
        return load_all(outs), seen


async def _follow(
    arguments: Sequence[str],
    process: int,
    ready: asyncio.Barrier,
    begin: asyncio.Future[float],
    seen: list[Progress],
    on_progress: OnProgress,
) -> None:
    async with _child("ops.load.sending", *arguments) as child:
        assert child.stdin is not None  # noqa: S101 - pipes were asked for
        assert child.stdout is not None  # noqa: S101
        if await child.stdout.readline() != READY:
            raise UnavailableError("a sending process couldn't begin; standard error says why")
        await ready.wait()
        child.stdin.write(f"{await begin!r}\n".encode())
        async for line in child.stdout:
            seen[process] = msgspec.json.decode(line, type=Progress)
            on_progress(seen)
        if await child.wait():
            raise UnavailableError("a sending process ended with an error; standard error has it")


@contextlib.asynccontextmanager
async def null_server(spec: LoadSpec) -> AsyncIterator[int]:
    """A server that answers what `spec` sends, at once; gives its port."""
    async with _child("ops.load.null_server", spec.target.value, str(spec.batch)) as child:
        assert child.stdout is not None  # noqa: S101 - a pipe was asked for
        yield int(await child.stdout.readline())


@contextlib.asynccontextmanager
async def _child(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), stdin=pipe, stdout=pipe, env=environment
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()  # Only when its pipes are read to their end are they closed.


async def _watch_cpu(told: asyncio.Future[float], pids: Sequence[int], begin: float, duration_s: float) -> None:
    """Sets `told` to the seconds of CPU time that these processes take from `begin` on."""
    await asyncio.sleep(begin - time.monotonic())
    try:
        before = cpu_s(pids)
        await asyncio.sleep(begin + duration_s - time.monotonic())
        told.set_result(cpu_s(pids) - before if pids else math.nan)
    except UnavailableError:
        told.set_result(math.nan)


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
