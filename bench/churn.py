"""Whether a scorer keeps to its memory while models come and go: python -m bench.churn

One scorer process with `--memory`, a catalogue of real models of 20 to 1,000 trees that is several times as large as
that, and requests for models drawn at random, so that most of them evict others. Resident memory is the kernel's,
sampled twice a second from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from bench.crowd import Base, publish_copies, score_each
from bench.registry_common import MIB, machine
from ops.local_cluster import LocalCluster
from registry.model import ModelRef
from registry.process import end_with

_SHARES = {20: 0.3, 50: 0.3, 200: 0.3, 1000: 0.1}  # trees: share of the models
_SETTLED_S = 15.0  # until the memory is full for the first time
_AT_ONCE = 8


class Sampler:
    """Samples the resident memory of a process until it is stopped."""

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[float, int]] = []
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(0.5):
            self.samples.append((time.monotonic() - began, self._process.memory_info().rss))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Asked(NamedTuple):
    """How many requests found their model in memory, and how many loaded it."""

    hits: int
    loads: int
    failed: int


def churn(address: str, refs: list[ModelRef], seconds: float) -> Asked:
    """Ask for models at random for a while."""
    random = np.random.default_rng(5)
    until = time.monotonic() + seconds
    hits = loads = failed = 0
    while time.monotonic() < until:
        drawn = [refs[place] for place in random.integers(0, len(refs), 40 * _AT_ONCE)]
        for answer in score_each(address, drawn, _AT_ONCE):
            hits += sum(result.code == 0 and result.response.residency == 1 for result in answer.results)
            failed += sum(result.code != 0 for result in answer.results)
            loads += sum(result.response.residency > 1 for result in answer.results)
    return Asked(hits, loads, failed)


async def run(models: int, memory_mib: int, seconds: float, directory: Path) -> dict[str, object]:
    """Publish, churn, and tell what was seen."""
    async with LocalCluster(directory / "cluster", scorers=1, routers=0, memory=f"{memory_mib}MiB") as cluster:
        refs: list[ModelRef] = []
        for trees, share in _SHARES.items():
            some = [ModelRef("churn", f"t{trees}-{number:05}") for number in range(int(models * share))]
            await publish_copies(cluster, Base(trees), some, directory)
            refs += some
        scorer = cluster.scorers[0]
        sampler = Sampler(scorer.process.pid)
        try:
            asked = await asyncio.to_thread(churn, scorer.address, refs, seconds)
        finally:
            sampler.stop()
    settled = [held for at, held in sampler.samples if at > _SETTLED_S]
    limit = memory_mib * MIB
    return {
        "models": len(refs),
        "limit_mib": memory_mib,
        "seconds": seconds,
        **asked._asdict(),
        "rss_mib_min": min(settled) / MIB,
        "rss_mib_mean": sum(settled) / len(settled) / MIB,
        "rss_mib_max": max(settled) / MIB,
        "furthest_from_limit": max(abs(held - limit) for held in settled) / limit,
        "samples": [(round(at, 1), held) for at, held in sampler.samples],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=2400)
    parser.add_argument("--memory-mib", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--json", type=Path, help="also write the samples there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        found = asyncio.run(run(args.models, args.memory_mib, args.seconds, Path(name)))
    if args.json:
        args.json.write_text(json.dumps(found))
    print(machine())
    print("\n".join(f"{name:22} {value}" for name, value in found.items() if name != "samples"))


if __name__ == "__main__":
    end_with(main)
