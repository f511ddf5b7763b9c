"""What a batch of 64 items costs a scorer, joined and before there was joining: python -m bench.batching --before DIR

DIR is a checkout of the commit to compare with (`git worktree add DIR COMMIT`). Each tree has a process of its own with
the same models in memory; they take turns, pattern by pattern, and the CPU time of their event-loop thread counts. What
is measured is the scorer behind its front: bytes of a StreamScoreBatch in, bytes of the answers out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ITEMS = 64
_FEATURES = 30
_TREES = (50, 200)
_RUN_S = 0.15
_TREE = Path(__file__).resolve().parent.parent


class Recorder:
    """A call whose answers are thrown away; `ended` when all items were answered."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.deadline = payload, inf
        self.on_cancel: Callable[[], None] | None = None
        self.ended = False

    def respond(self, payload: bytes) -> None: ...

    def end(self) -> None:
        self.ended = True

    def fail(self, failure: Any) -> None:
        raise SystemExit(f"a call failed: {failure}")


def train(directory: Path) -> None:
    """Write a LightGBM model of each size, and a network of 50 hidden units as ONNX."""
    import lightgbm
    from skl2onnx import to_onnx
    from sklearn.datasets import make_classification
    from sklearn.neural_network import MLPClassifier

    rows, target = make_classification(20_000, _FEATURES, n_informative=20, random_state=0)
    settings = {"objective": "binary", "num_leaves": 31, "num_threads": 2, "verbose": -1}
    for trees in _TREES:
        lightgbm.train(settings, lightgbm.Dataset(rows, target), trees).save_model(directory / f"{trees}.txt")
    network = MLPClassifier((50,), max_iter=20, random_state=0).fit(rows, target)
    onnx = to_onnx(network, rows[:1].astype(np.float32), options={"zipmap": False})
    (directory / "network.onnx").write_bytes(onnx.SerializeToString())
    np.save(directory / "rows.npy", rows[:4096])


class Inside:
    """A scorer behind its front, with models in memory; names are put into its catalog, so that there is no etcd."""

    def __init__(self, directory: Path) -> None:
        from registry.catalog import Catalog
        from registry.etcd import Etcd
        from registry.keys import Keys
        from registry.store_urls import open_store
        from scorer.cache import ModelCache
        from scorer.disk import DiskTier
        from scorer.loader import Loader
        from scorer.service import ScoringService

        self._files = directory
        self._work = Path(tempfile.mkdtemp(dir=directory))
        self._store = open_store(f"file://{self._work}/store")
        self._etcd = Etcd(["127.0.0.1:1"])
        self._catalog = Catalog(self._etcd, Keys("bench"), self._store)
        self.loader = Loader(self._store, DiskTier(self._work / "disk", 1 << 30))
        self.cache = ModelCache(1 << 30, self.loader.load, lambda _count: None)
        self.service = ScoringService(self._catalog, self.cache, "bench")
        self.rows = np.load(directory / "rows.npy")

    async def add(self, name: str, file: str, spec: Any = None) -> None:
        """Load a copy of its own of a model, behind the transforms of `spec` if there are some."""
        from registry import layout
        from registry.lightgbm_slim import slim
        from registry.model import ModelRecord, ModelRef, ModelVersion, Runtime
        from scorer.engine import engine_for
        from scorer.onnx_optimise import optimise

        runtime = Runtime.ONNX if file.endswith(".onnx") else Runtime.LIGHTGBM
        data = (self._files / file).read_bytes()
        schema = engine_for(runtime).describe(data)
        transforms, transforms_digest = b"", ""
        if spec is not None:
            schema = msgspec.structs.replace(schema, features=spec.features, string_columns=spec.string_columns)
            transforms = msgspec.json.encode(spec)
            transforms_digest = hashlib.sha256(transforms).hexdigest()
        data = optimise(data) if runtime is Runtime.ONNX else slim(data)
        artifact, described = hashlib.sha256(data).hexdigest(), msgspec.json.encode(schema)
        schema_digest = hashlib.sha256(described).hexdigest()
        for path, content in (
            (layout.artifact_path("bench", artifact), data),
            (layout.schema_path("bench", schema_digest), described),
            (layout.artifact_path("bench", transforms_digest or artifact), transforms or data),
        ):
            target = self._work / "store" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        version = ModelVersion(
            *("1", name, "bench", artifact, schema_digest, runtime, len(data), 4 << 20), transforms=transforms_digest
        )
        fold, ref = self._catalog._fold, ModelRef("bench", name)  # noqa: SLF001 - in etcd's place
        fold.finish(fold.begin(ref), 1, ModelRecord(1, {"live": version}))
        async with self.cache.borrow(version, ref=ref):
            pass

    def payload(self, names: Sequence[str], rows: int = 1) -> bytes:
        """A batch with an item for each name."""
        from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, StreamScoreBatchRequest

        items = [
            ScoreRequest(
                tenant="bench", model=name, row_count=rows, dense_double=self.rows[at * rows : (at + 1) * rows].ravel()
            )
            for at, name in enumerate(names)
        ]
        return StreamScoreBatchRequest(items=items).SerializeToString()

    async def aclose(self) -> None:
        await self.service.aclose()
        await self.cache.aclose()
        await self._catalog.aclose()
        await self._etcd.aclose()
        self.loader.close()


@contextlib.asynccontextmanager
async def inside(directory: Path) -> AsyncIterator[Inside]:
    """A scorer's inside without models, closed at the end."""
    made = Inside(directory)
    try:
        yield made
    finally:
        await made.aclose()


async def _patterns(made: Inside) -> dict[str, bytes]:
    for trees in _TREES:
        for number in range(ITEMS):
            await made.add(f"lgb{trees}-{number}", f"{trees}.txt")
    for number in range(ITEMS):
        await made.add(f"mlp-{number}", "network.onnx")
    each = range(ITEMS)
    mixed = [(f"lgb50-{n}", f"lgb200-{n % 4}", "lgb50-0", "mlp-0")[n % 4] for n in each]
    return {
        "different, LightGBM 200 trees": made.payload([f"lgb200-{n}" for n in each]),
        "different, LightGBM 50 trees": made.payload([f"lgb50-{n}" for n in each]),
        "different, ONNX network": made.payload([f"mlp-{n}" for n in each]),
        "the same, LightGBM 200 trees": made.payload(["lgb200-0"] * ITEMS),
        "the same, LightGBM 50 trees": made.payload(["lgb50-0"] * ITEMS),
        "the same, ONNX network": made.payload(["mlp-0"] * ITEMS),
        "mixed": made.payload(mixed),
        "one item, LightGBM 200 trees": made.payload(["lgb200-0"]),
        "one item, ONNX network": made.payload(["mlp-0"]),
    }


async def _work(directory: Path) -> None:
    """One tree's process: a pattern's name comes in, its CPU microseconds an item go out."""
    async with inside(directory) as made:
        patterns = await _patterns(made)
        print(json.dumps(list(patterns)), flush=True)
        for line in sys.stdin:
            payload = patterns[line.strip()]
            items = 1 if line.startswith("one") else ITEMS
            print(_cpu_us(made, payload) / items, flush=True)


def _cpu_us(made: Inside, payload: bytes) -> float:
    """CPU microseconds of a batch."""
    handle = made.service.stream_score_batch
    batches, began, until = 0, time.thread_time_ns(), time.perf_counter() + _RUN_S
    while time.perf_counter() < until or not batches:
        for _ in range(8):
            call = Recorder(payload)
            handle(call)
            if not call.ended:
                raise SystemExit("an item wasn't answered at once")
        batches += 8
    return (time.thread_time_ns() - began) / 1e3 / batches


class Tree:
    """The process of one tree."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", str(directory)],
            env={**os.environ, "PYTHONPATH": str(path)},
            cwd=path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.patterns: list[str] = json.loads(self._ask())

    def measure(self, pattern: str) -> float:
        assert self._process.stdin is not None  # noqa: S101 - it's a pipe
        print(pattern, file=self._process.stdin, flush=True)
        return float(self._ask())

    def _ask(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - it's a pipe
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.communicate()


def compare(before: Path, directory: Path, rounds: int) -> None:
    """Print CPU microseconds an item, before and after: median, and of the ratios of the rounds median and spread."""
    trees = [Tree(before, directory), Tree(_TREE, directory)]
    print("| a batch of 64 one-row items | before us | now us | ratio (spread) |\n|---|---:|---:|---:|")
    for pattern in trees[1].patterns:
        found = []
        for number in range(rounds):
            pair = [(at, trees[at].measure(pattern)) for at in ((0, 1) if number % 2 else (1, 0))]
            found.append([us for _, us in sorted(pair)])
        was, now = (statistics.median(column) for column in zip(*found, strict=True))
        ratios = sorted(b / a for a, b in found)
        middle, spread = statistics.median(ratios), f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        print(f"| {pattern} | {was:.1f} | {now:.1f} | {middle:.2f} ({spread}) |", flush=True)
    for tree in trees:
        tree.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", type=Path)
    args = parser.parse_args()
    if args.worker is not None:
        asyncio.run(_work(args.worker))
        return
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        train(Path(name))
        if args.before is not None:
            compare(args.before, Path(name), args.rounds)


if __name__ == "__main__":
    main()
