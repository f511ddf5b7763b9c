"""Clusters that differ in their catalogue alone: what a request costs, what processes take, what etcd has and is asked.

Contract: all clusters run at the same time (an etcd, three scorers, a router each, all real processes on one core), and
all are asked at the same time, each by a generator of its own: so what the machine does in between hits all alike, and
what is left between them is their catalogues. Every cluster is asked for the same `WORKING_SET` models, which are the
same to the last byte, and are in memory. After that each in turn is asked for models drawn evenly from its whole
catalogue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.fleet import pins
from bench.peers.loads import TIMEOUT_S
from bench.scale.catalogues import CatalogueFiles, ensure
from bench.scale.etcd_metrics import etcd_figures
from ops.etcd_server import EtcdServer
from ops.local_cluster import LocalCluster

WORKING_SET = 250
RATE = 600.0
WALK_RATE = 100.0
CAPACITY_MIB = 48
SCORERS = 3
LOAD_PIN = pins()[1]  # Before the benchmark confines itself, and the servers that it starts, to the other core.
Say = Callable[[str], None]


class Sized(NamedTuple):
    """A running cluster with a catalogue."""

    files: CatalogueFiles
    etcd: EtcdServer
    cluster: LocalCluster
    working: Path


class Turn(NamedTuple):
    """One of the loads of a round. Latencies in milliseconds; `warm`: of those whose model was in memory. CPU in
    microseconds a request, of the router, of the scorers together. `etcd_reads`: while it went on; `idle_reads`: in as
    long a time without load, after it.
    """

    models: int
    round: int
    requests: int
    p50_ms: float
    p99_ms: float
    warm_share: float
    errors: dict[str, int]
    limited: str
    router_us: float
    scorers_us: float
    router_mib: float
    scorer_mib: float
    etcd_reads: int
    idle_reads: int


class Walk(NamedTuple):
    """What models cost that were not in memory, asked for all over the catalogue."""

    models: int
    requests: int
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    counts: dict[str, int]
    errors: dict[str, int]
    etcd_reads: int
    router_mib: float
    scorer_mib: float


class Size(NamedTuple):
    """What is measured once of a cluster: its store, its etcd, its starts."""

    models: int
    made_s: float
    etcd_mib: float
    etcd_rss_mib: float
    etcd_start_s: float
    router_ready_s: list[float]
    scorer_ready_s: list[float]


class Growth(NamedTuple):
    """All that was measured."""

    turns: list[Turn]
    walks: list[Walk]
    sizes: list[Size]


async def measure(
    directory: Path, counts: Sequence[int], rounds: int, seconds: float, walk_s: float, say: Say
) -> Growth:
    """Measure clusters with so many models."""
    files = [ensure(count, say) for count in counts]
    async with contextlib.AsyncExitStack() as stack:
        started: dict[int, float] = {}
        running = []
        for each in files:
            say(f"starting a cluster with {each.models:,} models")
            running.append(await stack.enter_async_context(_running(directory, each, started)))
        for sized in running:
            warm_up(sized.cluster.router_addresses[0], sized.working, directory)
        turns = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            turns += await _round(running, number, seconds, directory)
        sizes = [await _size(sized, started[sized.files.models], rounds, say) for sized in running]
        walks = [await _walk(sized, walk_s, directory, say) for sized in running]
    return Growth(turns, walks, sizes)


@contextlib.asynccontextmanager
async def _running(directory: Path, files: CatalogueFiles, started: dict[int, float]) -> AsyncIterator[Sized]:
    home = directory / str(files.models)
    home.mkdir()
    etcd, began = files.etcd(), time.monotonic()
    etcd.start()
    started[files.models] = time.monotonic() - began
    try:
        cluster = LocalCluster(
            home, scorers=SCORERS, etcd=[etcd.endpoint], store=files.store, capacity_mib=CAPACITY_MIB
        )
        async with cluster:
            yield Sized(files, etcd, cluster, files.first(WORKING_SET, home / "working.jsonl"))
    finally:
        etcd.terminate()


class _Seen(NamedTuple):
    """Of a cluster at one moment."""

    etcd_reads: int
    router_s: float
    scorers_s: float


def _see(sized: Sized) -> _Seen:
    times = [sum(process.cpu_times()[:2]) for process in _processes(sized)]
    return _Seen(etcd_figures(sized.etcd.endpoint).reads, times[0], math.fsum(times[1:]))


async def _round(running: Sequence[Sized], number: int, seconds: float, directory: Path) -> list[Turn]:
    """All at once, then as long a time without load."""
    rate, before, began = RATE / len(running), [_see(sized) for sized in running], time.monotonic()
    loads = [
        begin_load(
            sized.cluster.router_addresses[0],
            sized.working,
            by_popularity(rate),
            seconds,
            directory / f"load-{sized.files.models}.json",
        )
        for sized in running
    ]
    reports = [each.report() for each in loads]
    after = [_see(sized) for sized in running]
    await asyncio.sleep(time.monotonic() - began)
    idle = [
        etcd_figures(sized.etcd.endpoint).reads - seen.etcd_reads for sized, seen in zip(running, after, strict=True)
    ]
    sent = rate * (seconds + _warm_up_s(seconds))
    measured = zip(running, reports, before, after, idle, strict=True)
    return [_turn(sized, number, report, then, now, sent, reads) for sized, report, then, now, reads in measured]


def _turn(
    sized: Sized, number: int, report: dict[str, Any], before: _Seen, after: _Seen, sent: float, idle_reads: int
) -> Turn:
    group = report["groups"][0]
    rss = [process.memory_info().rss / 2**20 for process in _processes(sized)]
    return Turn(
        models=sized.files.models,
        round=number,
        requests=group["requests"],
        p50_ms=group["all"]["quantiles_ms"][0],
        p99_ms=group["all"]["quantiles_ms"][3],
        warm_share=group["hit_rate"],
        errors=group["errors"],
        limited=report["limited_by_generator"],
        router_us=(after.router_s - before.router_s) * 1e6 / sent,
        scorers_us=(after.scorers_s - before.scorers_s) * 1e6 / sent,
        router_mib=rss[0],
        scorer_mib=sum(rss[1:]) / SCORERS,
        etcd_reads=after.etcd_reads - before.etcd_reads,
        idle_reads=idle_reads,
    )


async def _walk(sized: Sized, seconds: float, directory: Path, say: Say) -> Walk:
    say(f"walking through {sized.files.models:,} models")
    before = etcd_figures(sized.etcd.endpoint).reads
    report = load(
        sized.cluster.router_addresses[0], sized.files.listed, by_popularity(WALK_RATE, 0.0), seconds, directory
    )
    group = report["groups"][0]
    kinds = group["residency"]
    rss = [process.memory_info().rss / 2**20 for process in _processes(sized)]
    return Walk(
        models=sized.files.models,
        requests=group["requests"],
        p50_ms={kind: latency["quantiles_ms"][0] for kind, latency in kinds.items()},
        p99_ms={kind: latency["quantiles_ms"][3] for kind, latency in kinds.items()},
        counts={kind: latency["requests"] for kind, latency in kinds.items()},
        errors=group["errors"],
        etcd_reads=etcd_figures(sized.etcd.endpoint).reads - before,
        router_mib=rss[0],
        scorer_mib=sum(rss[1:]) / SCORERS,
    )


async def _size(sized: Sized, etcd_start_s: float, times: int, say: Say) -> Size:
    """Starts one more router, and one more scorer, several times, each until it is ready."""
    say(f"starts beside {sized.files.models:,} models")
    figures, cluster = etcd_figures(sized.etcd.endpoint), sized.cluster
    routers, scorers = [], []
    for _ in range(times):
        began = time.monotonic()
        router = await cluster.start_router()
        routers.append(time.monotonic() - began)
        await router.terminate()
        began = time.monotonic()
        scorer = await cluster.start_scorer()
        scorers.append(time.monotonic() - began)
        await scorer.terminate()
    return Size(
        sized.files.models,
        sized.files.made_s,
        figures.database_mib,
        figures.rss_mib,
        etcd_start_s,
        routers,
        scorers,
    )


def _processes(sized: Sized) -> list[psutil.Process]:
    """The router, then the scorers."""
    first = sized.cluster.routers[:1]
    return [psutil.Process(server.pid) for server in (*first, *sized.cluster.scorers[:SCORERS])]


def _warm_up_s(seconds: float) -> float:
    return seconds / 4


def warm_up(address: str, working: Path, directory: Path) -> None:
    """Ask for each model of the working set several times, then as in the measured runs."""
    load(address, working, f"all-models,rate={RATE / 2},pattern=cycle", 4.0, directory)
    load(address, working, by_popularity(RATE), 4.0, directory)


def by_popularity(rate: float, zipf: float = 1.0) -> str:
    """A class of tenants, as `scoremesh load` takes it."""
    return f"all-models,rate={rate},zipf={zipf}"


class Load(NamedTuple):
    """`scoremesh load`, running."""

    process: subprocess.Popen[str]
    out: Path

    def report(self) -> dict[str, Any]:
        """What it has found, when it is over. Raises RuntimeError: it failed."""
        said, _ = self.process.communicate(timeout=TIMEOUT_S)
        if self.process.returncode:
            raise RuntimeError(said[-800:])
        return dict(json.loads(self.out.read_text()))


def begin_load(address: str, models: Path, tenants: str, seconds: float, out: Path) -> Load:
    """Start one, on the load's core."""
    options = {"--router": address, "--models": models, "--class": tenants, "--duration-s": seconds}
    options |= {"--warm-up-s": _warm_up_s(seconds), "--json": out}
    words = [str(word) for option in options.items() for word in option]
    argv = [*LOAD_PIN, sys.executable, "-m", "ops", "load", *words]
    return Load(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), out)


def load(address: str, models: Path, tenants: str, seconds: float, directory: Path) -> dict[str, Any]:
    """The report of one load. Raises RuntimeError: it failed."""
    return begin_load(address, models, tenants, seconds, directory / "load.json").report()
