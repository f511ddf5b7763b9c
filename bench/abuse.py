"""What an abusive tenant does to the others: python -m bench.abuse

Six scorers share one processor; etcd, the router and who sends share the other. Twelve tenants ask at random times of a
fixed rate, whether answers come or not; requests are timed from when they were due. Beside them one tenant

- sends ten times its quota, each request with many rows;
- asks for models that take tens of milliseconds;
- goes through far more models than fit into memory;
- asks for models that kill the worker that scores them, a new one whenever one is in quarantine.

Measured in turn: with plain hashing (each tenant on all members, a router that lets everything in), with shards of two
members, and with shards and admission (a quota of requests a second and of requests at once). The tenants are told
apart by how many members they share with the abuser.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
import psutil

from bench.abuse_report import plot, table
from bench.crowd import FEATURES, Crowd, publish_copies
from bench.registry_common import machine
from ops.load.generator import run_spec
from ops.load.outcomes import Outcomes
from ops.load.percentiles import moments, nearest_rank
from ops.load.spec import LoadModel, LoadSpec, Pattern, RowShare, Target, TenantClass
from ops.local_cluster import LocalCluster
from ops.member_list import list_members
from ops.server_process import FrontProcess
from registry.failure import Code
from registry.keys import encode
from registry.model import MemberState, ModelRef, PlacementRecord, TenantRecord
from registry.offer import Admitted, Offer
from registry.placement import Placement
from registry.process import end_with
from tests.chaos.poisons import POISONS

_VICTIMS = tuple(f"victim{number:02}" for number in range(12))
_MODELS = 4  # of each victim
_ABUSER = "abuser"
_RATE = 300.0  # of all victims
_SHARD = _REPLICAS = 2
_QUOTA_PER_S, _AT_ONCE = 60.0, 4
_CAPACITY_MIB = 8.0  # of a scorer, for about 40 small models
_WARM_UP_S = 2.0
_DEADLINE_S = 1.0
_SMALL, _SLOW, _POISON = "m", "slow", "poison"


class Mode(NamedTuple):
    """`shard_size` 0: all members. `router`: the module that is run."""

    name: str
    shard_size: int
    router: str


class Abuse(NamedTuple):
    """What the abuser asks for: models whose names begin with `kind`, in turn, `rows` a request."""

    name: str
    kind: str
    models: int
    rate: float
    rows: int = 1


MODES = (
    Mode("plain hashing", 0, "bench.unguarded_router"),
    Mode("shards", _SHARD, "bench.unguarded_router"),
    Mode("shards and admission", _SHARD, "router"),
)
ABUSES = (
    Abuse("none", _SMALL, 0, 0.0),
    Abuse("10 times its quota", _SMALL, 4, 10 * _QUOTA_PER_S, rows=256),
    Abuse("slow models", _SLOW, 4, 40.0, rows=256),
    Abuse("cycling cold models", _SMALL, 400, 400.0),
    Abuse("models that kill", _POISON, 4, 20.0),
)


class PoisonCrowd(Crowd):
    """Copies of a model that end the process which predicts with them; no sandbox would let them pass."""

    async def admit(self, offer: Offer) -> Admitted:
        admitted = await super().admit(offer)
        return admitted._replace(artifact=POISONS["crashes"][0](admitted.artifact))


def names(kind: str, count: int) -> list[str]:
    return [f"{kind}{number:03}" for number in range(count)]


def poisons_of(mode: Mode) -> str:
    """Each mode has its own, since what kills is in quarantine afterwards."""
    return f"{_POISON}{MODES.index(mode)}-"


async def publish_all(cluster: LocalCluster, directory: Path) -> None:
    """The victims' models and the abuser's."""
    small = [ModelRef(tenant, name) for tenant in _VICTIMS for name in names(_SMALL, _MODELS)]
    small += [ModelRef(_ABUSER, name) for name in names(_SMALL, max(abuse.models for abuse in ABUSES))]
    await publish_copies(cluster, Crowd(50), small, directory)
    await publish_copies(cluster, Crowd(1000), [ModelRef(_ABUSER, name) for name in names(_SLOW, 4)], directory)
    poisons = [ModelRef(_ABUSER, name) for mode in MODES for name in names(poisons_of(mode), 4)]
    await publish_copies(cluster, PoisonCrowd(3), poisons, directory)


async def wait_ready(cluster: LocalCluster) -> None:
    async with asyncio.timeout(120):
        while True:
            members = (await list_members(cluster.etcd, cluster.keys)).values()
            if [member.state for member in members] == [MemberState.READY] * _members(cluster):
                return
            await asyncio.sleep(0.05)


def _members(cluster: LocalCluster) -> int:
    return sum(len(scorer.member_ids) for scorer in cluster.scorers)


def pin(cluster: LocalCluster) -> None:
    """Scorers, and what they start, on the last processor; all else, we and what we start among it, on the others."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        return
    for scorer in cluster.scorers:
        process = psutil.Process(scorer.pid)
        for each in (process, *process.children(recursive=True)):
            each.cpu_affinity(processors[-1:])
    others = [psutil.Process()] + ([psutil.Process(cluster.etcd_server.process.pid)] if cluster.etcd_server else [])
    for each in others:
        each.cpu_affinity(processors[:-1])


@contextlib.asynccontextmanager
async def router_of(cluster: LocalCluster, mode: Mode) -> AsyncIterator[str]:
    """The address of a router that places and admits as the mode says."""
    record = PlacementRecord(shard_size=mode.shard_size, replicas=_REPLICAS)
    await cluster.etcd.put(cluster.keys.placement, encode(record))
    quota = TenantRecord(tenant=_ABUSER, requests_per_s=_QUOTA_PER_S, concurrency=_AT_ONCE)
    await cluster.etcd.put(cluster.keys.tenant(_ABUSER), encode(quota))
    log = cluster.directory / "logs" / f"router-{MODES.index(mode)}.log"
    router = FrontProcess("router", mode.router, ["--etcd", ",".join(cluster.etcd_endpoints)], log)
    await router.start()
    try:
        yield router.address
    finally:
        await router.terminate()


def spec_of(address: str, tenants: Sequence[str], kinds: Sequence[str], rate: float, seconds: float) -> LoadSpec:
    """One-row requests of some tenants for some of their models."""
    return LoadSpec(
        target=Target.SCORE,
        addresses=(address,),
        models=tuple(LoadModel(tenant, name, FEATURES) for tenant in tenants for name in kinds),
        classes=(TenantClass(name="all", rate=rate),),
        warm_up_s=_WARM_UP_S,
        duration_s=seconds,
        deadline_s=_DEADLINE_S,
    )


async def measure(cluster: LocalCluster, mode: Mode, abuse: Abuse, address: str, seconds: float) -> dict[str, object]:
    """The victims beside one kind of abuse."""
    crashes = crash_count(cluster)
    victims = spec_of(address, _VICTIMS, names(_SMALL, _MODELS), _RATE, seconds)
    runs = [run_spec(victims, lambda _progress: None)]
    if abuse.rate:
        kind = poisons_of(mode) if abuse.kind == _POISON else abuse.kind
        abuser = spec_of(address, [_ABUSER], names(kind, abuse.models), abuse.rate, seconds)
        cycling = TenantClass(name="all", rate=abuse.rate, pattern=Pattern.CYCLE)
        abuser = msgspec.structs.replace(abuser, classes=(cycling,), rows=(RowShare(abuse.rows, 1.0),))
        runs.append(run_spec(abuser, lambda _progress: None))
    of_victims, *of_abuser = [outcomes for outcomes, _progress in await asyncio.gather(*runs)]
    await wait_ready(cluster)
    members = (await list_members(cluster.etcd, cluster.keys)).values()
    placement = Placement(members, replicas=_REPLICAS, shard_size=mode.shard_size)
    return {
        "mode": mode.name,
        "abuse": abuse.name,
        "victims": by_sharing(of_victims, victims, placement),
        "abuser": summary(of_abuser[0], seconds) if of_abuser else None,
        "crashes": crash_count(cluster) - crashes,
    }


def by_sharing(outcomes: Outcomes, spec: LoadSpec, placement: Placement) -> dict[str, object]:
    """The victims' figures: of all, and of those who share so many members with the abuser."""
    theirs = {member.id for member in placement.shard(_ABUSER)}
    shared = {tenant: len(theirs & {member.id for member in placement.shard(tenant)}) for tenant in _VICTIMS}
    of_request = np.array([shared[model.tenant] for model in spec.models])[outcomes.model]
    found: dict[str, object] = {"all": summary(outcomes, spec.duration_s)}
    for count in sorted(set(shared.values())):
        tenants = sum(each == count for each in shared.values())
        found[str(count)] = {"tenants": tenants, **summary(outcomes.select(of_request == count), spec.duration_s)}
    return found


def summary(outcomes: Outcomes, seconds: float) -> dict[str, float | None]:
    """Of the requests after the warm-up; those that failed aren't timed. `typical_p99_ms`: the median of the p99s of
    each second, which what else the machine does for a moment doesn't move.
    """
    measured = outcomes.select(outcomes.due_s >= _WARM_UP_S)
    by_second = [moment.p99_ms for moment in moments(measured, _WARM_UP_S, _WARM_UP_S + seconds)]
    typical_ms = [p99_ms for p99_ms in by_second if math.isfinite(p99_ms)]
    good = measured.select(measured.status == 0)
    sorted_ms = np.sort(good.latency_s) * 1000
    p50_ms, p99_ms = (float(sorted_ms[nearest_rank(q, len(good))]) if len(good) else None for q in (0.5, 0.99))
    return {
        "requests": len(measured),
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "typical_p99_ms": median(typical_ms) if typical_ms else None,
        "errors": float(1 - len(good) / max(1, len(measured))),
        "answered_per_s": len(good) / seconds,
        "refused_per_s": float((measured.status == Code.RESOURCE_EXHAUSTED).sum()) / seconds,
    }


def crash_count(cluster: LocalCluster) -> int:
    return sum(scorer.log_path.read_bytes().count(b"crashed with SIGSEGV; suspected") for scorer in cluster.scorers)


async def run(seconds: float, directory: Path) -> list[dict[str, object]]:
    """Publish, and measure one after the other."""
    arguments = ["--drain-s", "1", "--handover-s", "0", "--warm-s", "1"]
    workers = 2
    async with LocalCluster(
        directory, scorers=3, routers=0, workers=workers, capacity_mib=_CAPACITY_MIB * workers, scorer_args=arguments
    ) as cluster:
        await publish_all(cluster, directory)
        pin(cluster)
        found = []
        for mode in MODES:
            async with router_of(cluster, mode) as address:
                found += [await measure(cluster, mode, abuse, address, seconds) for abuse in ABUSES]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="measured, for each kind of abuse in each mode")
    parser.add_argument("--json", type=Path, help="also write what was found there")
    parser.add_argument("--plot", type=Path, help="also draw it there, as PNG")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        found = asyncio.run(run(args.seconds, Path(name)))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1))
    print(machine())
    print(table(found))
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    end_with(main)
