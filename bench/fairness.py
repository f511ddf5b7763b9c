"""What one tenant's cold traffic does to the others: python -m bench.fairness

One scorer process, and three tenants with a working set that fits into its memory and now and then a request for a
model outside of it. Beside them a fourth tenant asks, as fast as it gets answers, for one model after the other of ten
times as many as fit. The requests of the three come at random times of a fixed rate, whether answers come or not, and
are timed from when they were due. Measured in turn, each on a process of its own that begins empty: a plain scorer
(least recently used, first come first served; `bench.plain_loads`), the scorer, and the scorer with the working sets
guaranteed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.synchronize
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
import numpy as np

from bench.crowd import Crowd, publish_copies, request_of
from bench.registry_common import machine
from ops.local_cluster import LocalCluster
from ops.server_process import ScorerProcess
from registry.keys import encode
from registry.model import ModelRef, TenantRecord
from registry.process import end_with
from scoremesh.scoring.v1.scoring_pb2 import ScoreResponse

_METHOD = "/scoremesh.scoring.v1.ScoringService/Score"
_TREES = 100
_MODEL_KIB = 340  # About what one takes in memory; the room for models is so many of them.
_FIT = 100
_TENANTS = ("victim-a", "victim-b", "victim-c")
_HOT, _COLD = 20, 100  # models of each: its working set, and the others
_MISSES = 0.04  # share of requests for the others
_GREEDY = "greedy"
_CYCLE = 10 * _FIT
_AT_ONCE = 64  # requests of the greedy tenant
_DEADLINE_S = 10.0
PLAIN, FAIR, GUARANTEED = "plain", "fair", "fair, guaranteed"


class Answer(NamedTuple):
    """`took_s`: from when the request was due. `residency`: 1 for a model that was in memory; 0 for a failure."""

    took_s: float
    residency: int
    is_hot: bool


def refs_of(tenant: str, count: int) -> list[ModelRef]:
    return [ModelRef(tenant, f"m{number:04}") for number in range(count)]


async def ask(call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], ref: ModelRef) -> int:
    """The residency that was answered; 0 for a failure."""
    try:
        return int(
            ScoreResponse.FromString(await call(request_of(ref).SerializeToString(), timeout=_DEADLINE_S)).residency
        )
    except grpc.aio.AioRpcError:
        return 0


async def victims(address: str, rate: float, seconds: float, seed: int) -> list[Answer]:
    """Ask at random times for models of the working sets, and now and then for others."""
    random = np.random.default_rng(seed)
    answers: list[Answer] = []
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as tasks:
        call = channel.unary_unary(_METHOD)

        async def one(ref: ModelRef, is_hot: bool, due: float) -> None:
            residency = await ask(call, ref)
            answers.append(Answer(time.monotonic() - due, residency, is_hot))

        due = time.monotonic()
        until = due + seconds
        while (due := due + random.exponential(1 / rate)) < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            is_hot = bool(random.random() >= _MISSES)
            place = int(random.integers(0, _HOT) if is_hot else random.integers(_HOT, _HOT + _COLD))
            tenant = _TENANTS[int(random.integers(0, len(_TENANTS)))]
            tasks.create_task(one(ModelRef(tenant, f"m{place:04}"), is_hot, due))
    return answers


def be_greedy(address: str, stop: multiprocessing.synchronize.Event, answered: Sequence[int]) -> None:
    """Cycle through all models of the greedy tenant until told to stop. The main function of a process."""
    asyncio.run(_be_greedy(address, stop, answered))


async def _be_greedy(address: str, stop: multiprocessing.synchronize.Event, answered: Sequence[int]) -> None:
    refs = refs_of(_GREEDY, _CYCLE)
    turn = 0
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(_METHOD)

        async def cycle() -> None:
            nonlocal turn
            while not stop.is_set():
                ref, turn = refs[turn % len(refs)], turn + 1
                residency = await ask(call, ref)
                answered[residency] += 1  # type: ignore[index]
                if not residency:
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(cycle() for _ in range(_AT_ONCE)))


@contextmanager
def greedy(address: str) -> Iterator[Sequence[int]]:
    """The greedy tenant is at work inside; gives its answers by residency."""
    context = multiprocessing.get_context("spawn")
    stop, answered = context.Event(), context.Array("l", 4, lock=False)
    process = context.Process(target=be_greedy, args=(address, stop, answered))
    process.start()
    try:
        yield answered  # type: ignore[misc]
    finally:
        stop.set()
        process.join(20)
        process.kill()


@asynccontextmanager
async def scorer_of(cluster: LocalCluster, policy: str, number: int) -> AsyncIterator[str]:
    """The address of a scorer that begins empty; what is guaranteed is in etcd while it runs."""
    name = f"{policy.split(maxsplit=1)[0].strip(',')}-{number}"
    arguments = ["--etcd", ",".join(cluster.etcd_endpoints), "--store", cluster.store_url]
    arguments += ["--capacity-mib", f"{_FIT * _MODEL_KIB / 1024}", "--cache-dir", str(cluster.directory / name)]
    log, module = cluster.directory / f"{name}.log", "bench.plain_loads" if policy == PLAIN else "scorer"
    scorer = ScorerProcess(name, arguments, log, cluster.etcd, cluster.keys, module=module)
    for tenant in _TENANTS:
        guaranteed = _HOT * _MODEL_KIB * 1024 if policy == GUARANTEED else 0
        await cluster.etcd.put(
            cluster.keys.tenant(tenant), encode(TenantRecord(tenant=tenant, guaranteed_bytes=guaranteed))
        )
    await scorer.start()
    try:
        yield scorer.address
    finally:
        await scorer.terminate()


async def measure(cluster: LocalCluster, policy: str, rate: float, seconds: float, number: int) -> dict[str, object]:
    """Victims alone, then beside the greedy tenant."""
    async with scorer_of(cluster, policy, number) as address:
        await victims(address, rate, seconds / 4, 1)  # until the working sets are in memory
        alone = await victims(address, rate, seconds / 2, 2)
        with greedy(address) as answered:
            await victims(address, rate, seconds / 4, 3)  # until the greedy tenant is at work
            before = list(answered)
            beside = await victims(address, rate, seconds, 4)
            after = list(answered)
    return {
        "policy": policy,
        "alone": summary(alone),
        "beside": summary(beside),
        "greedy answers/s": sum(after[1:]) / seconds - sum(before[1:]) / seconds,
        "greedy failed/s": (after[0] - before[0]) / seconds,
    }


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """Hit rate of the working sets, and milliseconds of requests that found their model in memory, and of those that
    had to wait for it.
    """
    hot = [answer for answer in answers if answer.is_hot and answer.residency]
    found = {"requests": len(answers), "failed": sum(not answer.residency for answer in answers)}
    found["hit_rate"] = sum(answer.residency == 1 for answer in hot) / max(1, len(hot))
    for name, some in (
        ("all", hot),
        ("warm", [answer for answer in answers if answer.residency == 1]),
        ("cold", [answer for answer in answers if answer.residency > 1]),
    ):
        took_ms = np.array([answer.took_s * 1000 for answer in some] or [np.nan])
        found |= {
            f"{name}_p50_ms": float(np.percentile(took_ms, 50)),
            f"{name}_p99_ms": float(np.percentile(took_ms, 99)),
        }
    return found


def table(found: Sequence[dict[str, object]]) -> str:
    """As markdown."""
    columns = ["working sets in memory", "p50", "p99", "warm p50", "warm p99", "cold p50", "cold p99", "failed"]
    lines = [f"| scorer | greedy tenant | {' | '.join(columns)} | its loads |", "| --- | --- |" + " ---: |" * 9]
    for each in found:
        for what in ("alone", "beside"):
            s: dict[str, float] = each[what]  # type: ignore[assignment]
            loads = f"{each['greedy answers/s']:.0f}/s" if what == "beside" else "-"
            times = " | ".join(
                f"{s[f'{warmth}_{q}_ms']:.2f} ms" for warmth in ("all", "warm", "cold") for q in ("p50", "p99")
            )
            at_work = "at work" if what == "beside" else "none"
            lines.append(
                f"| {each['policy']} | {at_work} | {s['hit_rate'] * 100:.1f} % | {times} "
                f"| {s['failed']:.0f} of {s['requests']:.0f} | {loads} |"
            )
    return "\n".join(lines)


async def run(rate: float, seconds: float, directory: Path) -> list[dict[str, object]]:
    """Publish, and measure one after the other."""
    async with LocalCluster(directory / "cluster", scorers=0, routers=0) as cluster:
        refs = [ref for tenant in _TENANTS for ref in refs_of(tenant, _HOT + _COLD)] + refs_of(_GREEDY, _CYCLE)
        await publish_copies(cluster, Crowd(_TREES), refs, directory)
        policies = (PLAIN, FAIR, GUARANTEED)
        return [await measure(cluster, policy, rate, seconds, place) for place, policy in enumerate(policies)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second of the others together")
    parser.add_argument("--seconds", type=float, default=20.0, help="with the greedy tenant, for each scorer")
    parser.add_argument("--json", type=Path, help="also write what was found there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        found = asyncio.run(run(args.rate, args.seconds, Path(name)))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    print(machine())
    print(table(found))


if __name__ == "__main__":
    end_with(main)
