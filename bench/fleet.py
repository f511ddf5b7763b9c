"""Everything that is measured: one etcd, three scorers, and the routers in front of them.

All are processes of this machine on 127.0.0.1, die with the benchmark, and stop by their process ids. With two cores
or more they share the first one; the load has the second one to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc

from bench import envoy
from bench.load import PATH
from bench.models import BenchModel
from ops.etcd_server import EtcdServer, free_port
from ops.process import ChildProcess
from registry.alias_moves import AliasMoves
from registry.bounded import for_each
from registry.etcd import Etcd
from registry.keys import Keys
from registry.ledger import Ledger
from registry.library import Library
from registry.member_fold import MembersView
from registry.members import follow_members
from registry.model import Member, MemberState
from registry.probing import ProbePool
from registry.publish import Publisher
from registry.server import FRONTS
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import ScoreResponse

CLUSTER = "bench"
SCORERS = 3
OURS, PLAIN, ENVOY, DIRECT = "scoremesh", "grpc.aio router", "envoy", "one scorer"
BEFORE = "scoremesh before"
PYTHON_ROUTERS = {
    OURS: ("router", ["--front", FRONTS[0]]),
    **{f"scoremesh, {front} front": ("router", ["--front", front]) for front in FRONTS[1:]},
    PLAIN: ("bench.plain_router", []),
}
TARGETS = (OURS, ENVOY, PLAIN, *(name for name in PYTHON_ROUTERS if name not in (OURS, PLAIN)), DIRECT)
UP_TIMEOUT_S = 60.0


class Target(NamedTuple):
    """Where the load goes. `pid`: the router in front of the scorers; None when there is none."""

    name: str
    port: int
    pid: int | None


class Fleet(NamedTuple):
    """What runs. `members`: the scorers as etcd has them."""

    targets: Sequence[Target]
    scorer_pids: Sequence[int]
    members: Sequence[Member]


def pins() -> tuple[list[str], list[str]]:
    """Command prefixes for what is measured and for the load."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return [], []
    return ["taskset", "-c", str(cores[0])], ["taskset", "-c", str(cores[1])]


@contextlib.contextmanager
def running(
    directory: Path,
    models: Sequence[BenchModel],
    wanted: Sequence[str],
    before: Path | None = None,
    scorers: int = SCORERS,
    resident_models: int = 0,
) -> Iterator[Fleet]:
    """Start all, publish the models, wait until each target answers; stop all at the end.

    `wanted`: names of targets out of TARGETS. `before`: another checkout of this repository; its router is one more
    target. `scorers`: how many. `resident_models`: each has memory for about so many; 0: for 512 MiB.
    """
    with contextlib.ExitStack() as stack:
        etcd = EtcdServer(directory / "etcd")
        stack.callback(etcd.terminate)
        etcd.start()
        mean_bytes = asyncio.run(_publish(directory, etcd.endpoint, models))
        extra = ["--capacity-mib", str(math.ceil(resident_models * mean_bytes / 2**20))] if resident_models else []
        children = [_start_scorer(stack, directory, etcd.endpoint, number, extra) for number in range(scorers)]
        members = asyncio.run(_members(etcd.endpoint, scorers))
        addresses = [member.address for member in members]
        targets = [_start_target(stack, directory, name, etcd.endpoint, addresses) for name in wanted]
        if before is not None:
            targets.append(_start_before(stack, directory, before, etcd.endpoint))
        for target in targets:
            wait_until_right(target, models, UP_TIMEOUT_S)
        yield Fleet(targets, [child.pid for child in children], members)


def _start(
    stack: contextlib.ExitStack,
    directory: Path,
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
) -> ChildProcess:
    child = ChildProcess([*pins()[0], *argv], directory / f"{name}.log", env)
    stack.callback(child.stop, 15.0)
    return child


def _start_scorer(
    stack: contextlib.ExitStack, directory: Path, etcd: str, number: int, extra: Sequence[str]
) -> ChildProcess:
    options = {
        "--listen": "127.0.0.1:0",
        "--id": f"scorer-{number}",
        "--host": f"host-{number}",
        "--cluster": CLUSTER,
        "--etcd": etcd,
        "--store": f"file://{directory}/store",
        "--cache-dir": f"{directory}/cache-{number}",
        "--workers": "0",
    }
    return _start(stack, directory, f"scorer-{number}", [sys.executable, "-m", "scorer", *_words(options), *extra])


def _start_target(stack: contextlib.ExitStack, directory: Path, name: str, etcd: str, scorers: Sequence[str]) -> Target:
    if name == DIRECT:
        return Target(name, int(scorers[0].rpartition(":")[2]), None)
    port = free_port()
    if name == ENVOY:
        argv = envoy.argv(directory, port, scorers)
    else:
        module, extra = PYTHON_ROUTERS[name]
        options = {"--listen": f"127.0.0.1:{port}", "--cluster": CLUSTER, "--etcd": etcd}
        argv = [sys.executable, "-m", module, *_words(options), *extra]
    child = _start(stack, directory, name.replace(" ", "-").replace(",", ""), argv)
    return Target(name, port, child.pid)


def _start_before(stack: contextlib.ExitStack, directory: Path, checkout: Path, etcd: str) -> Target:
    """The router of another checkout, with this one's interpreter and packages."""
    port = free_port()
    options = {"--listen": f"127.0.0.1:{port}", "--cluster": CLUSTER, "--etcd": etcd}
    env = {**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{checkout / 'protos'}", "PYTHONSAFEPATH": "1"}
    child = _start(stack, directory, "before", [sys.executable, "-m", "router", *_words(options)], env)
    return Target(BEFORE, port, child.pid)


def _words(options: dict[str, str]) -> list[str]:
    return [word for option in options.items() for word in option]


async def _publish(directory: Path, endpoint: str, models: Sequence[BenchModel]) -> float:
    """Returns the mean of the bytes that a loaded model takes."""
    etcd, pool = Etcd([endpoint]), ProbePool()
    resident_bytes: list[int] = []

    async def publish(model: BenchModel) -> None:
        resident_bytes.append((await publisher.publish(model.path, model.ref)).resident_bytes)

    try:
        ledger = Ledger(Library(open_store(f"file://{directory}/store")), etcd, Keys(CLUSTER))
        publisher = Publisher(ledger, AliasMoves(ledger), pool.admit)
        await for_each(models, publish, 4)
    finally:
        await pool.aclose()
        await etcd.aclose()
    return sum(resident_bytes) / len(resident_bytes)


async def _members(endpoint: str, count: int) -> list[Member]:
    """The scorers, when all have announced themselves as ready."""
    loop = asyncio.get_running_loop()
    complete: asyncio.Future[list[Member]] = loop.create_future()
    etcd = Etcd([endpoint])

    def on_view(view: MembersView) -> None:
        members = [member for member in view.members.values() if member.state is MemberState.READY]
        if len(members) == count and not complete.done():
            complete.set_result(sorted(members, key=lambda member: member.id))

    follower = asyncio.create_task(follow_members(etcd, Keys(CLUSTER), on_view))
    try:
        return await asyncio.wait_for(complete, UP_TIMEOUT_S)
    finally:
        follower.cancel()
        await asyncio.wait({follower})
        await etcd.aclose()


def wait_until_right(target: Target, models: Sequence[BenchModel], timeout_s: float) -> None:
    """Ask for every model until the answers are right; the models are resident then.

    Raises:
        RuntimeError: a wrong prediction, or no answer in time.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            check(target, models)
        except grpc.RpcError as error:
            if time.monotonic() > until:
                raise RuntimeError(f"{target.name} does not answer: {error.code()} {error.details()}") from error
            time.sleep(0.1)
        else:
            return


def check(target: Target, models: Sequence[BenchModel]) -> None:
    """Ask for every model once, as a gRPC client.

    Raises:
        RuntimeError: a wrong prediction.
        grpc.RpcError: a call failed.
    """
    with grpc.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        score = channel.unary_unary(PATH, response_deserializer=ScoreResponse.FromString)
        for model in models:
            answer = score(model.request, timeout=5.0, metadata=[("x-model-key", str(model.ref))])
            got = tuple(answer.outputs[0].class_probabilities.probabilities)
            if got != model.expected:
                raise RuntimeError(f"{target.name} scored {model.ref} as {got}, not {model.expected}")
