"""Clusters that differ in their members alone: 3 are real processes, `bench.scale.crowd` announces all beyond that.

Measured: what a request costs and what a router takes; from the moment when etcd has a change of a member to the moment
when a router's view has placed by it (`router.cluster_view`, as a router runs it); what a new placement costs, and how
many models move when a member goes. For the three real ones also: SIGTERM to a scorer until its last answer, and a
start until its first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import msgspec
import psutil

from bench.load import PATH
from bench.scale.catalogues import CatalogueFiles
from bench.scale.crowd import simulated
from bench.scale.etcd_metrics import etcd_figures
from bench.scale.growth import RATE, WORKING_SET, Say, by_popularity, load, warm_up
from ops.etcd_server import EtcdServer
from ops.load.options import read_models
from ops.load.payloads import Requests
from ops.load.spec import LoadSpec, Target, TenantClass
from ops.local_cluster import LocalCluster
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.member_fold import MembersView
from registry.model import Member, MemberState, ModelRef
from registry.placement import Placement
from router.cluster_view import ClusterView
from scoremesh.scoring.v1.scoring_pb2 import ScoreResponse

REAL = 3
PLACED_MODELS = 20_000
CHANGES = 30
START_TIMEOUT_S = 180.0  # of a scorer that loads what it will own before it is ready


class MembersTurn(NamedTuple):
    """One load. CPU of the router in microseconds a request; `scorers_us` of the three scorers together."""

    members: int
    round: int
    requests: int
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    limited: str
    router_us: float
    scorers_us: float
    router_mib: float


class MembersSize(NamedTuple):
    """`applied_ms`: of each change, from etcd's answer to the writer until a router's view has placed by it.
    `placement_us`: to make a placement; `new_model_us`, `known_model_us`: to place a model that was not, and was asked
    for before. `moved`: share of the models whose first owner changes when one member goes. `etcd_reads_per_s`: with
    nobody scoring. `router_ready_s`: of one more router.
    """

    members: int
    applied_ms: list[float]
    placement_us: float
    new_model_us: float
    known_model_us: float
    moved: float
    etcd_reads_per_s: float
    router_ready_s: list[float]


class Change(NamedTuple):
    """Of a real scorer, in seconds. `last_answer_s`: after SIGTERM; `ended_s`: until the process was gone;
    `first_answer_s`: after the start of a new one. `failed`: requests meanwhile that failed.
    """

    last_answer_s: float
    ended_s: float
    first_answer_s: float
    requests: int
    failed: int


class Members(NamedTuple):
    """All that was measured."""

    turns: list[MembersTurn]
    sizes: list[MembersSize]
    changes: list[Change]


class Fleet(NamedTuple):
    """A running cluster with so many members."""

    members: int
    etcd: EtcdServer
    cluster: LocalCluster


async def measure(
    directory: Path, files: CatalogueFiles, counts: Sequence[int], rounds: int, seconds: float, say: Say
) -> Members:
    """Clusters with so many members, all with the models of `files`."""
    working = files.first(WORKING_SET, directory / "members.jsonl")
    async with contextlib.AsyncExitStack() as stack:
        fleets = []
        for count in counts:
            say(f"starting a cluster of {count} members")
            fleets.append(await stack.enter_async_context(_running(directory, files, count)))
        for fleet in fleets:
            warm_up(fleet.cluster.router_addresses[0], working, directory)
        turns = []
        for number in range(rounds):
            shift = number % len(fleets)
            for fleet in (*fleets[shift:], *fleets[:shift]):
                say(f"round {number + 1} of {rounds}: {fleet.members} members")
                turns.append(_turn(fleet, number, working, seconds, directory))
        sizes = [await _size(fleet, rounds, seconds, say) for fleet in fleets]
        small = min(fleets, key=lambda fleet: fleet.members)
        changes = [await _change(small.cluster, working, say) for _ in range(rounds)]
    return Members(turns, sizes, changes)


@contextlib.asynccontextmanager
async def _running(directory: Path, files: CatalogueFiles, count: int) -> AsyncIterator[Fleet]:
    home = directory / f"members-{count}"
    home.mkdir()
    copied = EtcdServer(home / "etcd")
    # The data of an etcd that doesn't run.
    await asyncio.to_thread(shutil.copytree, files.directory / "etcd", copied.data_dir, dirs_exist_ok=True)
    copied.start()
    try:
        cluster = LocalCluster(home, scorers=REAL, etcd=[copied.endpoint], store=files.store)
        async with cluster:
            with _crowd(copied.endpoint, cluster, count - REAL):
                yield Fleet(count, copied, cluster)
    finally:
        copied.terminate()


@contextlib.contextmanager
def _crowd(endpoint: str, cluster: LocalCluster, count: int) -> Iterator[None]:
    if count <= 0:
        yield
        return
    addresses = ",".join(scorer.address for scorer in cluster.scorers)
    argv = [sys.executable, "-m", "bench.scale.crowd", endpoint, cluster.cluster, str(count), addresses]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None  # noqa: S101 - a pipe was asked for
        if child.stdout.readline() != "ready\n":
            raise RuntimeError("the crowd of members didn't come up")
        yield
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=20)
        child.kill()
        child.wait()


def _turn(fleet: Fleet, number: int, working: Path, seconds: float, directory: Path) -> MembersTurn:
    router = psutil.Process(fleet.cluster.routers[0].pid)
    scorers = [psutil.Process(scorer.pid) for scorer in fleet.cluster.scorers[:REAL]]
    before = [sum(process.cpu_times()[:2]) for process in (router, *scorers)]
    report = load(fleet.cluster.router_addresses[0], working, by_popularity(RATE), seconds, directory)
    after = [sum(process.cpu_times()[:2]) for process in (router, *scorers)]
    used_us = [(now - then) * 1e6 / (RATE * seconds * 1.25) for now, then in zip(after, before, strict=True)]
    group = report["groups"][0]
    quantiles = group["all"]["quantiles_ms"]
    said = (group["errors"], report["limited_by_generator"])
    rss_mib = router.memory_info().rss / 2**20
    cpu = (used_us[0], sum(used_us[1:]))
    return MembersTurn(fleet.members, number, group["requests"], quantiles[0], quantiles[3], *said, *cpu, rss_mib)


async def _size(fleet: Fleet, times: int, seconds: float, say: Say) -> MembersSize:
    say(f"changes among {fleet.members} members")
    reads, began = etcd_figures(fleet.etcd.endpoint).reads, time.monotonic()
    await asyncio.sleep(max(seconds, 10.0 if times > 2 else 2.0))
    reads_per_s = (etcd_figures(fleet.etcd.endpoint).reads - reads) / (time.monotonic() - began)
    members, applied_ms = await _apply(fleet)
    ready = []
    for _ in range(times):
        begun = time.monotonic()
        router = await fleet.cluster.start_router()
        ready.append(time.monotonic() - begun)
        await router.terminate()
    return MembersSize(fleet.members, applied_ms, *_placing(members), reads_per_s, ready)


async def _apply(fleet: Fleet) -> tuple[list[Member], list[float]]:
    """Write one more member, and take it away, again and again."""
    etcd, keys = Etcd([fleet.etcd.endpoint]), fleet.cluster.keys
    applied = asyncio.Event()
    latest: list[MembersView] = []

    def on_placement(view: MembersView, placement: Placement) -> None:
        placement.candidates("load-00000", "m000000")
        latest[:] = [view]
        applied.set()

    view = ClusterView(etcd, keys, on_placement=on_placement, on_tenant=lambda _: None, on_routers=lambda _: None)
    following = asyncio.create_task(view.run())
    try:
        async with asyncio.timeout(60):
            while not latest or len(latest[0].members) < fleet.members:
                applied.clear()
                await applied.wait()
            members = list(latest[0].members.values())
            took_ms = [await _one_change(etcd, keys, number, applied, latest) for number in range(CHANGES)]
        await etcd.delete(keys.member("sim-9999"))
    finally:
        following.cancel()
        await asyncio.wait({following})
        await etcd.aclose()
    return members, took_ms


async def _one_change(
    etcd: Etcd, keys: Keys, number: int, applied: asyncio.Event, latest: Sequence[MembersView]
) -> float:
    state = MemberState.READY if number % 2 == 0 else MemberState.DRAINING
    member = msgspec.structs.replace(simulated(9999, ["127.0.0.1:1"]), state=state)
    began = time.monotonic()
    await etcd.put(keys.member(member.id), encode(member))
    while (found := latest[0].members.get(member.id)) is None or found.state is not state:
        applied.clear()
        await applied.wait()
    return (time.monotonic() - began) * 1000


def _placing(members: Sequence[Member]) -> tuple[float, float, float, float]:
    """Microseconds to make a placement, for a new model, for a known one; the share of models that move."""
    refs = [ModelRef(f"tenant-{number % 100}", f"m{number}") for number in range(PLACED_MODELS)]
    makes = [_timed_us(lambda: Placement(members)) for _ in range(5)]
    placement, without = Placement(members), Placement(members[1:])
    new_us = _timed_us(lambda: [placement.candidates(*ref) for ref in refs]) / len(refs)
    known_us = min(_timed_us(lambda: [placement.candidates(*ref) for ref in refs]) for _ in range(3)) / len(refs)
    moved = sum(placement.candidates(*ref)[0].id != without.candidates(*ref)[0].id for ref in refs) / len(refs)
    return statistics.median(makes), new_us, known_us, moved


def _timed_us(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e6


async def _change(cluster: LocalCluster, working: Path, say: Say) -> Change:
    """Stop a real scorer in order, and start it again, under requests one after the other."""
    say("a scorer goes and comes")
    scorer = cluster.scorers[REAL - 1]
    models = read_models(working)
    spec = LoadSpec(target=Target.SCORE, addresses=(), models=models, classes=(TenantClass(name="all", rate=1),))
    requests, answers = Requests(spec), []
    stop = asyncio.Event()

    async def ask() -> None:
        async with grpc.aio.insecure_channel(cluster.router_addresses[0]) as channel:
            call = channel.unary_unary(PATH, response_deserializer=ScoreResponse.FromString)
            place = 0
            while not stop.is_set():
                place = (place + 1) % len(models)
                try:
                    served_by = (await call(requests.one(place, 1), timeout=10.0)).served_by
                except grpc.RpcError:
                    served_by = "nobody"
                answers.append((time.monotonic(), served_by))

    asking = asyncio.create_task(ask())
    try:
        await asyncio.sleep(0.5)
        stopped = time.monotonic()
        await scorer.terminate()
        ended = time.monotonic()
        started = time.monotonic()
        await scorer.start(timeout_s=START_TIMEOUT_S)
        await asyncio.sleep(2.0)
    finally:
        stop.set()
        await asking
    last = max((at for at, name in answers if name == scorer.id and at < started), default=stopped)
    first = min((at for at, name in answers if name == scorer.id and at > started), default=float("nan"))
    failed = sum(name == "nobody" for _, name in answers)
    return Change(last - stopped, ended - stopped, first - started, len(answers), failed)
