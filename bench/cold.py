"""What a cold request takes, by its parts, against what the parts take alone: python -m bench.cold

Two scorers with room for a third of the models, asked for one after the other, so that each model must be paged in: one
has a disk for a few, so that it fetches from object storage (a real SeaweedFS), the other keeps all of them. After each
request the parts are done alone, one after another, by this process: the same object from the same place, its sha256,
the engine's load, the first prediction, and a request for the same model, which is in memory now. The whole is what a
client waits, over gRPC; the sum of the parts has one warm request for all that isn't one of the parts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

import grpc.aio
import numpy as np

from bench.crowd import FEATURES, Crowd, publish_copies, request_of
from bench.registry_common import machine
from ops.local_cluster import LocalCluster
from ops.server_process import ScorerProcess
from registry.artifacts import ArtifactStore
from registry.layout import artifact_path
from registry.library import Library
from registry.manifest import Manifest
from registry.model import ModelRef, ModelSchema, ModelVersion, Runtime
from registry.process import end_with
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_COLD, RESIDENCY_DISK, ScoreResponse
from scorer.engine import Rows, engine_for
from scorer.resident import Resident
from tests.integration.s3_server import running_s3

_METHOD = "/scoremesh.scoring.v1.ScoringService/Score"
_MARK = "loaded: "
_TREES = 200
_KIB_A_MODEL = 560
_PARTS = ("fetch", "verify", "load", "score", "call")


class Cold(NamedTuple):
    """Microseconds of one cold request, as the client and the scorer saw it, and of its parts alone; in `_PARTS` order.
    `residency`: where it came from.
    """

    residency: int
    whole_us: float
    inside_us: tuple[float, ...]
    alone_us: tuple[float, ...]


class Place(NamedTuple):
    """A scorer, where its models come from when they are fetched alone, and what it says of its loads."""

    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    store: ArtifactStore
    disk: Path | None
    log: Path

    def last_load(self) -> list[int]:
        """Fetch, verify and load of the load that ended last."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 2000))
            line = log.read().decode().rpartition(_MARK)[2].partition("\n")[0]
        return list(json.loads(line))


async def ask(place: Place, ref: ModelRef) -> tuple[ScoreResponse, float]:
    """The answer, and the microseconds until it."""
    request = request_of(ref).SerializeToString()
    began = perf_counter_ns()
    answer = await place.call(request, timeout=30)
    return ScoreResponse.FromString(answer), (perf_counter_ns() - began) / 1000


async def alone(place: Place, manifest: Manifest, schema: ModelSchema) -> list[float]:
    """Fetch, verify, load and score by themselves."""
    times = [perf_counter_ns()]
    if place.disk is None:
        path = artifact_path(manifest.tenant, manifest.artifact)
        data = await place.store.get(path, manifest.artifact_bytes)
    else:
        data = (place.disk / manifest.tenant / manifest.artifact).read_bytes()
    times.append(perf_counter_ns())
    hashlib.sha256(data).hexdigest()
    times.append(perf_counter_ns())
    model = engine_for(Runtime.LIGHTGBM).load(data, schema)
    times.append(perf_counter_ns())
    model.predict(Rows(np.zeros((1, FEATURES)), {}))
    times.append(perf_counter_ns())
    model.close()
    return [(after - before) / 1000 for before, after in pairwise(times)]


async def measure(place: Place, ref: ModelRef, manifest: Manifest, schema: ModelSchema) -> Cold | None:
    """One cold request and its parts; None where the model was in memory still."""
    answer, whole_us = await ask(place, ref)
    if answer.residency not in {RESIDENCY_COLD, RESIDENCY_DISK}:
        return None
    _warm, call_us = await ask(place, ref)
    parts = await alone(place, manifest, schema)
    fetch_us, verify_us, load_us = place.last_load()
    score_us = answer.timing.score_us
    known = fetch_us + verify_us + load_us + score_us
    return Cold(
        answer.residency, whole_us, (fetch_us, verify_us, load_us, score_us, whole_us - known), (*parts, call_us)
    )


def table(name: str, found: Sequence[Cold]) -> str:
    """As markdown. The last column of a line is its sum or, for a line of the whole, the whole."""
    inside = np.array([[*each.inside_us, each.whole_us] for each in found]) / 1000
    parts = np.array([[*each.alone_us, sum(each.alone_us)] for each in found]) / 1000
    lines = []
    for quantile in (50, 99):
        whole, apart = (np.percentile(each, quantile, axis=0) for each in (inside, parts))
        for what, row, ratio in (
            ("cold request", whole, f"**{whole[-1] / apart[-1]:.2f}**"),
            ("parts alone", apart, "1"),
        ):
            cells = " | ".join(f"{each:.2f}" for each in row)
            lines.append(f"| {name} | p{quantile} | {what} | {cells} | {ratio} |")
    ratios = inside[:, -1] / parts[:, -1]
    lines.append(f"| {name} | median of the ratios of each | | | | | | | | {np.median(ratios):.2f} |")
    return "\n".join(lines)


def scorer_of(cluster: LocalCluster, name: str, disk_mib: float, models: int) -> ScorerProcess:
    arguments = ["--etcd", ",".join(cluster.etcd_endpoints), "--store", cluster.store_url, "--disk-mib", f"{disk_mib}"]
    arguments += ["--capacity-mib", f"{models / 3 * _KIB_A_MODEL / 1024}", "--cache-dir", str(cluster.directory / name)]
    log = cluster.directory / f"{name}.log"
    return ScorerProcess(name, arguments, log, cluster.etcd, cluster.keys, module="bench.cold")


async def run(s3_url: str, models: int, rounds: int, directory: Path) -> dict[int, list[Cold]]:
    """All measurements by residency."""
    found: dict[int, list[Cold]] = {RESIDENCY_COLD: [], RESIDENCY_DISK: []}
    refs = [ModelRef("cold", f"m{number:04}") for number in range(models)]
    async with LocalCluster(directory / "cluster", scorers=0, routers=0, store=s3_url) as cluster:
        manifests = await publish_copies(cluster, Crowd(_TREES), refs, directory)
        store = open_store(s3_url)
        schema = await Library(store).read_schema("cold", manifests[0].schema)
        far = scorer_of(cluster, "far", 1, models)
        near = scorer_of(cluster, "near", models, models)
        for scorer in (far, near):
            await scorer.start()
        async with grpc.aio.insecure_channel(far.address) as a, grpc.aio.insecure_channel(near.address) as b:
            places = (
                Place(a.unary_unary(_METHOD), store, None, far.log_path),
                Place(b.unary_unary(_METHOD), store, cluster.directory / "near", near.log_path),
            )
            for number in range(rounds + 1):
                for ref, manifest in zip(refs, manifests, strict=True):
                    for place in places:
                        if number == 0:  # names become known, and the disk gets what it will keep
                            await ask(place, ref)
                        elif (cold := await measure(place, ref, manifest, schema)) is not None:
                            found[cold.residency].append(cold)
        for scorer in (far, near):
            await scorer.terminate()
    return found


def serve() -> None:
    """A scorer that tells of each load what its parts took. The main function of its process."""
    from scorer.__main__ import main as serve_scorer
    from scorer.loader import Loader

    load = Loader.load

    async def telling(loader: Loader, version: ModelVersion) -> Resident:
        resident = await load(loader, version)
        print(f"{_MARK}[{resident.fetch_us}, {resident.verify_us}, {resident.load_us}]", flush=True)
        return resident

    if "MALLOC_ARENA_MAX" not in os.environ:  # As a scorer does, which would become a plain scorer here.
        os.environ["MALLOC_ARENA_MAX"] = "2"
        os.execv(sys.executable, [sys.executable, "-m", "bench.cold", *sys.argv[1:]])  # noqa: S606
    vars(sys.modules["scorer.loader"])["Loader"] = type("Loader", (Loader,), {"load": telling})
    serve_scorer()


def main() -> None:
    if "--store" in sys.argv:
        serve()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name, running_s3(Path(name) / "s3") as s3:
        found = asyncio.run(run(s3.url("ready", "cold"), args.models, args.rounds, Path(name)))
    print(", ".join(f"{len(found[each])} {name}" for name, each in (("from S3", 3), ("from disk", 2))), "requests\n")
    print("| from | | ms | " + " | ".join([*_PARTS[:-1], "the rest"]) + " | whole | ratio |")
    print("| --- | --- | --- | " + "---: | " * 7)
    for name, each in (("S3", RESIDENCY_COLD), ("disk", RESIDENCY_DISK)):
        print(table(name, found[each]))


if __name__ == "__main__":
    end_with(main)
