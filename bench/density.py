"""How many models a scorer holds for its memory, against what the engine alone takes: python -m bench.density

One scorer process, real models of 200 trees, each asked for once. Beside it, in a process of its own and in the same
minutes, LightGBM's library alone with the same texts: a handle each, and nothing else. Resident memory is the kernel's.
20 of the models are asked for before the first measurement, so that libraries and buffers, which are there once, are
not counted by model.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.crowd import Crowd, publish_copies, score_each
from bench.registry_common import MIB, machine
from ops.local_cluster import LocalCluster
from registry.lightgbm_slim import slim
from registry.model import ModelRef
from registry.process import end_with

_TREES = 200
_ENGINE_COPIES = 400
_FIRST = 20
_GIB = 2**30


class Density(NamedTuple):
    """Bytes of resident memory: of a model in a process with the engine alone and in a scorer, and of the scorer before
    any of the models that were counted.
    """

    models: int
    engine_bytes: float
    scorer_bytes: float
    base_bytes: float

    def table(self) -> str:
        """As markdown."""
        engine, scorer = _GIB / self.engine_bytes, _GIB / self.scorer_bytes
        base = round(self.base_bytes / MIB)
        whole = (_GIB - self.base_bytes) / self.scorer_bytes
        return "\n".join(
            (
                "| models of 200 trees | bytes each | a GiB | of the engine's |",
                "| --- | ---: | ---: | ---: |",
                f"| LightGBM's library alone | {self.engine_bytes:,.0f} | {engine:,.0f} | 1 |",
                f"| the scorer | {self.scorer_bytes:,.0f} | {scorer:,.0f} | **{scorer / engine:.2f}** |",
                f"| a process of 1 GiB, {base} MiB its own | | {whole:,.0f} | {whole / engine:.2f} |",
            )
        )


def engine_bytes(texts: Path) -> float:
    """Resident bytes of one model in a process that has LightGBM's library and some hundred handles."""
    found = subprocess.run(
        [sys.executable, "-m", "bench.density", "--engine", str(texts)], check=True, capture_output=True
    )
    return float(found.stdout)


def load_alone(texts: Path) -> float:
    """What `engine_bytes` asks of its process."""
    from scorer.engines.lightgbm_capi import open_api
    from scorer.memory import release_free_memory, resident_set_bytes

    _, api = open_api()
    files = sorted(texts.iterdir())
    for file in files[:_FIRST]:
        api.load(file.read_bytes())
    release_free_memory()
    before = resident_set_bytes()
    for file in files[_FIRST:]:
        api.load(file.read_bytes())
    release_free_memory()
    return (resident_set_bytes() - before) / (len(files) - _FIRST)


async def measure(count: int, capacity_mib: float, directory: Path) -> Density:
    """Score `count` models on one scorer; what it holds then."""
    crowd = Crowd(_TREES)
    texts = directory / "texts"
    texts.mkdir()
    text = slim(crowd.text.encode())
    for number in range(_ENGINE_COPIES):
        (texts / f"{number:04}.txt").write_bytes(crowd.copy(text))
    alone = engine_bytes(texts)
    async with LocalCluster(directory / "cluster", scorers=1, routers=0, capacity_mib=capacity_mib) as cluster:
        refs = [ModelRef("dense", f"m{number:05}") for number in range(count)]
        await publish_copies(cluster, crowd, refs, directory)
        scorer = cluster.scorers[0]
        process = psutil.Process(scorer.process.pid)
        await asyncio.to_thread(score_all, scorer.address, refs[:_FIRST])
        before = process.memory_info().rss
        await asyncio.to_thread(score_all, scorer.address, refs[_FIRST:])
        held = process.memory_info().rss - before
        await asyncio.to_thread(score_all, scorer.address, refs, resident=True)
    each = held / (count - _FIRST)
    return Density(count, alone, each, before - _FIRST * each)


def score_all(address: str, refs: Sequence[ModelRef], *, resident: bool = False) -> None:
    """Ask for each; all must answer, and with `resident` from memory."""
    for answer in score_each(address, refs):
        for result in answer.results:
            if result.code:
                raise SystemExit(f"a model can't be scored: {result.message}")
            if resident and result.response.residency != 1:
                raise SystemExit("a model isn't in memory any more; give the scorer more room")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1500)
    parser.add_argument("--capacity-mib", type=float, default=1100.0)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        print(load_alone(args.engine))
        return
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        found = asyncio.run(measure(args.models, args.capacity_mib, Path(name)))
    print(machine())
    print(found.table())


if __name__ == "__main__":
    end_with(main)
