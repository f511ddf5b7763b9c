"""How many models a scorer holds for its memory, against what the engine alone takes: python -m bench.density

One scorer process, real models of 200 trees, each asked for once. Beside it, in a process of its own and in the same
minutes, LightGBM's library alone with the same texts: a handle each, and nothing else. Resident memory is the kernel's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from bench.crowd import Base, publish_copies, score_each
from bench.registry_common import MIB, machine
from ops.local_cluster import LocalCluster
from registry.lightgbm_slim import slim
from registry.model import ModelRef
from registry.process import end_with

_TREES = 200
_ENGINE_COPIES = 400


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
    api.load(files[0].read_bytes())
    release_free_memory()
    before = resident_set_bytes()
    for file in files[1:]:
        api.load(file.read_bytes())
    release_free_memory()
    return (resident_set_bytes() - before) / (len(files) - 1)


async def resident(count: int, capacity_mib: float, directory: Path) -> dict[str, float]:
    """Score `count` models on one scorer; what it holds then."""
    base = Base(_TREES)
    texts = directory / "texts"
    texts.mkdir()
    for number in range(_ENGINE_COPIES):
        (texts / f"{number:04}.txt").write_bytes(slim(base.copy().encode()))
    alone = engine_bytes(texts)
    async with LocalCluster(directory / "cluster", scorers=1, routers=0, capacity_mib=capacity_mib) as cluster:
        refs = [ModelRef("dense", f"m{number:05}") for number in range(count)]
        await publish_copies(cluster, base, refs, directory)
        scorer = cluster.scorers[0]
        process = psutil.Process(scorer.process.pid)
        await asyncio.to_thread(check, scorer.address, refs[:1])
        before = process.memory_info().rss
        await asyncio.to_thread(check, scorer.address, refs[1:])
        held = process.memory_info().rss - before
    each = held / (count - 1)
    return {
        "models": count,
        "engine bytes a model": alone,
        "scorer bytes a model": each,
        "scorer bytes before": before,
        "models a GiB, engine alone": 2**30 / alone,
        "models a GiB, scorer": 2**30 / each,
        "ratio": alone / each,
    }


def check(address: str, refs: list[ModelRef]) -> None:
    """Ask for each; all must answer, and all must still be in memory at the end."""
    for answer in score_each(address, refs):
        bad = [result.message for result in answer.results if result.code]
        if bad:
            raise SystemExit(f"a model can't be scored: {bad[0]}")
    hits = sum(result.response.residency == 1 for answer in score_each(address, refs) for result in answer.results)
    if hits != len(refs):
        raise SystemExit(f"{hits} of {len(refs)} models are in memory; give the scorer more room")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1500)
    parser.add_argument("--capacity-mib", type=float, default=1024.0)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        print(load_alone(args.engine))
        return
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        found = asyncio.run(resident(args.models, args.capacity_mib, Path(name)))
    print(machine())
    print("\n".join(f"{name:30} {value:14,.2f}" for name, value in found.items()))
    print(f"{'of the scorer before':30} {found['scorer bytes before'] / MIB:14,.1f} MiB")
    print(json.dumps(found))


if __name__ == "__main__":
    end_with(main)
