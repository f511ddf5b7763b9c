"""Whether a scorer keeps to its memory while models come and go: python -m bench.churn

One scorer process with `--memory`, a catalogue of real models of 20 to 1,000 trees that is three times as large, and
requests for models drawn at random, so that most of them page a model in and others out. An hour's worth of that, at
five page-ins a second, as fast as it goes. Resident memory is the kernel's, sampled ten times a second from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from bench.crowd import Crowd, publish_copies, score_each
from bench.registry_common import MIB, machine
from ops.local_cluster import LocalCluster
from registry.model import ModelRef
from registry.process import end_with

_SHARES = {20: 0.3, 50: 0.3, 200: 0.3, 1000: 0.1}  # trees: share of the models
_HOUR_LOADS = 18_000
_AT_ONCE = 8
_FULL = 0.9  # of the limit: from when on the memory counts as filled


class Sample(NamedTuple):
    """`at_s`: since the start; `loads`: page-ins until then."""

    at_s: float
    loads: int
    rss_bytes: int


class Churn:
    """Asks for models at random until enough were paged in, and samples the scorer's memory meanwhile."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._began = time.monotonic()
        self._stop = threading.Event()
        self.samples: list[Sample] = []
        self.hits = self.loads = self.failed = 0

    def run(self, address: str, refs: list[ModelRef], loads: int, seconds: float) -> None:
        """Until so many page-ins, or for so long."""
        random = np.random.default_rng(5)
        with self._sampling():
            while self.loads < loads and time.monotonic() - self._began < seconds:
                drawn = [refs[place] for place in random.integers(0, len(refs), 40 * _AT_ONCE)]
                for answer in score_each(address, drawn, _AT_ONCE):
                    self.hits += sum(result.code == 0 and result.response.residency == 1 for result in answer.results)
                    self.failed += sum(result.code != 0 for result in answer.results)
                    self.loads += sum(result.response.residency > 1 for result in answer.results)

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        thread = threading.Thread(target=self._sample)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.1):
            held = self._process.memory_info().rss
            self.samples.append(Sample(round(time.monotonic() - self._began, 1), self.loads, held))

    @property
    def cpu_s(self) -> float:
        """User and system time of the scorer since its start."""
        times = self._process.cpu_times()
        return float(times.user + times.system)


def table(churn: Churn, limit_bytes: int) -> str:
    """As markdown: the memory in each fifth of the time, after it was full for the first time."""
    filled = next((place for place, each in enumerate(churn.samples) if each.rss_bytes > _FULL * limit_bytes), None)
    if filled is None:
        raise SystemExit("the memory never became full; publish more models")
    lines = [
        "| page-ins | resident memory, least | mean | most | of the limit |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for part in np.array_split(np.array(churn.samples[filled:]), 5):
        held = part[:, 2]
        shares = f"{held.min() / limit_bytes:.1%} to {held.max() / limit_bytes:.1%}"
        mib = " | ".join(f"{each / MIB:.0f} MiB" for each in (held.min(), held.mean(), held.max()))
        lines.append(f"| {part[0, 1]:,.0f} to {part[-1, 1]:,.0f} | {mib} | {shares} |")
    return "\n".join(lines)


async def run(models: int, limit_bytes: int, loads: int, seconds: float, directory: Path) -> Churn:
    """Publish, and churn."""
    memory = f"{limit_bytes}"
    async with LocalCluster(directory / "cluster", scorers=1, routers=0, memory=memory) as cluster:
        refs: list[ModelRef] = []
        for trees, share in _SHARES.items():
            some = [ModelRef("churn", f"t{trees}-{number:05}") for number in range(int(models * share))]
            await publish_copies(cluster, Crowd(trees), some, directory)
            refs += some
        scorer = cluster.scorers[0]
        churn = Churn(scorer.process.pid)
        before = churn.cpu_s
        await asyncio.to_thread(churn.run, scorer.address, refs, loads, seconds)
        print(f"{(churn.cpu_s - before) / max(1, churn.loads) * 1000:.1f} ms of CPU a page-in, all included")
    return churn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1600)
    parser.add_argument("--memory-mib", type=int, default=288)
    parser.add_argument("--loads", type=int, default=_HOUR_LOADS, help="page-ins after which it ends")
    parser.add_argument("--seconds", type=float, default=300.0, help="it ends after this time even so")
    parser.add_argument("--json", type=Path, help="also write the samples there")
    args = parser.parse_args()
    limit_bytes = args.memory_mib * MIB
    print(machine())
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        churn = asyncio.run(run(args.models, limit_bytes, args.loads, args.seconds, Path(name)))
    if args.json:
        args.json.write_text(json.dumps(churn.samples))
    took_s = churn.samples[-1].at_s
    print(
        f"{args.memory_mib} MiB, {args.models} models; {churn.loads:,} page-ins in {took_s:.0f} s, an hour at "
        f"{churn.loads / 3600:.1f} a second; {churn.hits:,} requests found their model, {churn.failed:,} failed\n"
    )
    print(table(churn, limit_bytes))


if __name__ == "__main__":
    end_with(main)
