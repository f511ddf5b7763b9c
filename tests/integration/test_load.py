"""The load generator against real servers over real sockets."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest

from ops.load.alarm import Alarm
from ops.load.arrivals import draw
from ops.load.generator import cpu_s, generate, measure_limit, null_server, run_spec
from ops.load.null_server import answer_of
from ops.load.outcomes import LoadRun
from ops.load.payloads import PATHS
from ops.load.report import make_report
from ops.load.sending import Progress
from ops.load.spec import LoadModel, LoadSpec, Target, TenantClass, Tls
from registry.errors import UnavailableError
from registry.front import Method
from registry.server import listen
from tests.e2e.fixtures import make_tls
from tests.integration.load_servers import open_inference, scoring, stalls_once
from tests.unit.load_specs import spec_of


def _quiet(_progress: list[Progress]) -> None:
    """Nobody watches."""


def _spec(address: str, *, rate: float = 200.0, duration_s: float = 1.0, **more: Any) -> LoadSpec:
    return spec_of(TenantClass(name="all", rate=rate), addresses=(address,), duration_s=duration_s, **more)


@pytest.mark.parametrize("target", [*Target])
@pytest.mark.parametrize("processes", [1, 2])
async def test_every_request_is_sent_and_answered(target: Target, processes: int) -> None:
    batch = 8 if target is Target.BATCH else 1
    spec = _spec("x:1", target=target, batch=batch, processes=processes, deadline_s=60.0)
    seen: list[Progress] = []
    async with null_server(spec) as port:
        spec = _spec(f"127.0.0.1:{port}", target=target, batch=batch, processes=processes, deadline_s=60.0)
        outcomes, last = await run_spec(spec, seen.extend)
    assert len(outcomes) == sum(len(draw(spec, process)) for process in range(processes))
    assert (outcomes.status == 0).all()
    assert (outcomes.done_s >= outcomes.sent_s).all()
    assert (outcomes.sent_s >= outcomes.due_s).all()  # Never early.
    assert (outcomes.residency == (0 if target is Target.OIP else 1)).all()
    assert sum(each.answered for each in last) == sum(each.sent for each in last) == len(outcomes)
    assert all(each.cpu_s > 0 for each in last)
    assert len(seen) >= processes


async def test_a_stall_shows_whole_in_the_latencies() -> None:
    """The test of coordinated omission: nothing is answered for a second. Requests go on coming, and each one that was
    due in that second waited for its end; a generator that waits for answers would have seen one slow request.
    """
    answer, until = stalls_once(at=50, for_s=1.0)
    began: list[float] = []
    async with scoring(answer) as served:
        outcomes, _ = await run_spec(_spec(served.address, duration_s=3.0, deadline_s=60.0), _quiet, began.append)
    assert (outcomes.status == 0).all()
    end_s = until[0] - began[0]
    stalled = (outcomes.due_s > end_s - 0.9) & (outcomes.due_s < end_s - 0.1)
    assert stalled.sum() == pytest.approx(160, abs=65)  # 200 a second, also while nothing was answered
    waited_s = end_s - outcomes.due_s[stalled]
    assert (outcomes.latency_s[stalled] >= waited_s - 0.01).all()
    report = make_report(
        _spec(served.address, duration_s=3.0), LoadRun(outcomes, 0.1, 10.0, math.nan, 1e5, {}), machine="", at=""
    )
    assert report.all.all.quantiles_ms[1] > 500  # A third of all were due in the stall: p90 must show it.


async def test_failures_are_told_by_status_with_what_was_said() -> None:
    async def answer(number: int) -> tuple[grpc.StatusCode, str] | None:
        kinds = [None, (grpc.StatusCode.NOT_FOUND, "no such model"), (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")]
        return kinds[number % 3]

    async with scoring(answer) as served:
        spec = _spec(served.address, deadline_s=60.0)
        run = await generate(spec, [os.getpid()], _quiet)
    report = make_report(spec, run, machine="", at="")
    count = len(run.outcomes)
    third = pytest.approx(count / 3, abs=1)
    assert report.all.errors == {"NOT_FOUND": third, "RESOURCE_EXHAUSTED": third}
    assert report.examples == {"NOT_FOUND": "no such model", "RESOURCE_EXHAUSTED": "full"}
    assert report.all.all.requests == third
    assert report.cpu_us > 0
    assert report.limit_per_s > 0
    assert report.lateness.requests == count


@pytest.mark.parametrize("target", [Target.SCORE, Target.CLIENT])
async def test_what_nobody_answers_ends_at_its_deadline(target: Target) -> None:
    async def never(_number: int) -> None:
        await asyncio.sleep(600)

    async with scoring(never) as served:
        outcomes, _ = await run_spec(_spec(served.address, target=target, deadline_s=0.3, duration_s=0.5), _quiet)
    assert (outcomes.status == 4).all()
    assert (outcomes.latency_s >= 0.29).all()


@pytest.mark.parametrize("target", [Target.SCORE, Target.CLIENT, Target.BATCH])
async def test_a_server_that_is_not_there_is_an_error_of_each_request(target: Target) -> None:
    spec = _spec("127.0.0.1:1", target=target, batch=4 if target is Target.BATCH else 1, deadline_s=2.0, duration_s=0.5)
    outcomes, [last] = await run_spec(spec, _quiet)
    assert len(outcomes)
    assert {*outcomes.status.tolist()} <= {4, 14}
    assert last.failed == len(outcomes)
    assert last.examples


async def test_a_server_that_is_killed_and_comes_back_fails_what_came_between() -> None:
    port = _free_port()
    spec = _spec(f"127.0.0.1:{port}", duration_s=4.0, deadline_s=5.0)
    first = await _start_server(port)
    begun = asyncio.Event()
    running = asyncio.create_task(run_spec(spec, lambda seen: begun.set() if seen[0].answered else None))
    await begun.wait()
    first.kill()
    await first.wait()
    second = await _start_server(port)
    try:
        outcomes, _ = await running
    finally:
        second.kill()
        await second.wait()
    assert {*outcomes.status.tolist()} <= {0, 14}
    assert not np.isnan(outcomes.done_s).any()
    assert (outcomes.status == 14).any()
    assert outcomes.status[0] == 0


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def _start_server(port: int) -> asyncio.subprocess.Process:
    """Running and listening."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = ("-m", "tests.integration.load_servers", str(port))
    server = await asyncio.create_subprocess_exec(sys.executable, *program, env=environment)
    while True:
        assert server.returncode is None
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return server


async def test_open_inference_requests_are_read_by_the_classes_of_triton() -> None:
    models = (LoadModel("", "iris", 4), LoadModel("acme", "wine", 13))
    async with open_inference() as served:
        headers = (("model-id", "{model}"), ("x-team", "risk"))
        spec = _spec(served.address, target=Target.OIP, models=models, deadline_s=60.0, headers=headers)
        outcomes, [last] = await run_spec(spec, _quiet)
    assert last.examples == {}
    assert (outcomes.status == 0).all()
    assert len(served.seen) == len(outcomes)
    shapes = {(request.model_name, *request.inputs[0].shape) for request in served.seen}  # type: ignore[attr-defined]
    assert shapes == {("iris", 1, 4), ("acme.wine", 1, 13)}
    for request, told in zip(served.seen, served.told, strict=True):
        assert request.model_name.endswith(str(told["model-id"]))  # type: ignore[attr-defined]
        assert told["x-team"] == "risk"


@pytest.mark.parametrize("target", [Target.SCORE, Target.CLIENT])
async def test_servers_with_tls_are_spoken_to(target: Target, tmp_path: Path) -> None:
    """The server wants a certificate of its CA, too."""
    files = make_tls(tmp_path)
    front = listen("127.0.0.1:0", tls=files)
    await front.start([Method(PATHS[Target.SCORE].decode(), lambda call: call.respond(answer_of(target, 1)))])
    try:
        spec = _spec(f"127.0.0.1:{front.port}", target=target, deadline_s=60.0, duration_s=0.5)
        secure = msgspec.structs.replace(spec, tls=Tls(str(files.ca), str(files.cert), str(files.key)))
        outcomes, _ = await run_spec(secure, _quiet)
        assert (outcomes.status == 0).all()
        plain, _ = await run_spec(msgspec.structs.replace(spec, deadline_s=1.0), _quiet)
        assert (plain.status != 0).all()
    finally:
        await front.stop()


async def test_a_generator_that_is_asked_for_too_much_says_so() -> None:
    spec = _spec("x:1", rate=1e6, duration_s=0.02, deadline_s=60.0)
    async with null_server(spec) as port:
        spec = _spec(f"127.0.0.1:{port}", rate=1e6, duration_s=0.02, deadline_s=60.0)
        run = await generate(spec, (), _quiet)
    assert make_report(spec, run, machine="", at="").limited_by_generator


async def test_the_limit_is_of_requests_like_those_that_are_sent() -> None:
    small = await measure_limit(_spec("x:1"))
    large = await measure_limit(_spec("x:1", models=(LoadModel("t", "m", 5_000),)))
    assert small > large > 0


async def test_a_sending_process_that_cannot_begin_ends_the_run() -> None:
    spec = _spec("127.0.0.1:1", trace="/nowhere/trace.csv", processes=2)
    with pytest.raises(UnavailableError, match="a sending process couldn't begin"):
        await run_spec(spec, _quiet)


async def test_a_server_process_that_is_not_there_is_named_at_once() -> None:
    with pytest.raises(UnavailableError, match="there is no process 99999999"):
        await generate(_spec("127.0.0.1:1"), [99_999_999], _quiet)
    assert cpu_s([os.getpid()]) > 0


async def test_an_alarm_never_rings_early_and_rings_once() -> None:
    rung: list[float] = []
    alarm = Alarm(lambda: rung.append(time.monotonic()))
    try:
        for wait_s in (0.0305, 0.0007, 0.0, -5.0):
            count, at = len(rung), time.monotonic() + wait_s
            alarm.set(at)
            while len(rung) == count:
                await asyncio.sleep(0)
            assert rung[-1] >= at
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert len(rung) == count + 1
    finally:
        alarm.close()
