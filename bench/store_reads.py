"""Reading artifacts of several sizes from object storage, by one request and in pieces: python -m bench.store_reads

The store is SeaweedFS on this machine, then the same behind a proxy that passes each connection's 64 KiB only after a
millisecond or more (as far connections have a bound each, which several together haven't), then a directory. The two
ways take turns; a figure is the median, a ratio that of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.registry_common import machine
from registry import store_reads
from registry.artifacts import ArtifactStore
from registry.process import end_with
from registry.store_urls import open_store
from tests.fault_proxy import fault_proxy
from tests.integration.s3_server import S3Server, running_s3

SIZES = {"64 KB": 64 << 10, "1 MB": 1 << 20, "8 MB": 8 << 20, "32 MB": 32 << 20, "200 MB": 200 << 20}
_BUCKET = "ready"


class Row(NamedTuple):
    """Milliseconds for one object: wall time of one request and in pieces, CPU time of this process for both."""

    store: str
    size: str
    single_ms: float
    pieces_ms: float
    single_cpu_ms: float
    pieces_cpu_ms: float

    def text(self) -> str:
        """A line of a Markdown table."""
        ratio = self.single_ms / self.pieces_ms
        return (
            f"| {self.store} | {self.size} | {self.single_ms:.1f} | {self.pieces_ms:.1f} | {ratio:.2f} "
            f"| {self.single_cpu_ms:.1f} | {self.pieces_cpu_ms:.1f} |"
        )


async def _timed(store: ArtifactStore, path: str, size_bytes: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    data = await store.get(path, size_bytes)
    took = (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
    if len(data) != SIZES[path]:
        raise RuntimeError(f"{len(data)} bytes came of {path}")
    return took


async def compare(name: str, store: ArtifactStore, rounds: int) -> list[Row]:
    """Both ways for every size."""
    rows = []
    for size, nbytes in SIZES.items():
        single, pieces = [], []
        await _timed(store, size, nbytes)
        for number in range(rounds):
            ways = [(single, 0), (pieces, nbytes)]
            for taken, said in ways if number % 2 else reversed(ways):
                taken.append(await _timed(store, size, said))
        (wall, cpu), (pieces_wall, pieces_cpu) = (map(median, zip(*each, strict=True)) for each in (single, pieces))
        rows.append(Row(name, size, wall, pieces_wall, cpu, pieces_cpu))
        print(rows[-1].text(), flush=True)
    return rows


async def fill(store: ArtifactStore) -> None:
    """One object of each size."""
    for size, nbytes in SIZES.items():
        await store.create(size, os.urandom(nbytes))


async def run(s3: S3Server, folder: Path, rounds: int, delays_s: Sequence[float]) -> None:
    """All comparisons."""
    print("| store | object | one request ms | in pieces ms | ratio | CPU ms | in pieces CPU ms |\n|" + " ---: |" * 7)
    store = open_store(s3.url(_BUCKET), timeout_s=120)
    await fill(store)
    await compare("SeaweedFS", store, rounds)
    for delay_s in delays_s:
        async with fault_proxy(f"127.0.0.1:{s3.port}") as proxy:
            proxy.down.delay_s = delay_s
            far = open_store(f"s3://{_BUCKET}?endpoint=http://{proxy.address}", timeout_s=120)
            await compare(f"SeaweedFS, {delay_s * 1e3:g} ms for 64 KiB", far, max(3, rounds // 3))
    near = open_store(f"file://{folder}/store")
    await fill(near)
    await compare("directory", near, rounds)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.store_reads")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--delay-ms", type=float, nargs="*", default=[1.0], help="of the proxies, one after another")
    parser.add_argument("--piece-mib", type=float, default=store_reads.PIECE_BYTES / (1 << 20), help="another size")
    args = parser.parse_args()
    store_reads.PIECE_BYTES = int(args.piece_mib * (1 << 20))
    print(machine(), f"pieces of {args.piece_mib:g} MiB, {store_reads.PIECES_AT_ONCE} at a time", sep="\n")
    with tempfile.TemporaryDirectory() as folder, running_s3(Path(folder)) as s3:
        asyncio.run(run(s3, Path(folder), args.rounds, [delay / 1e3 for delay in args.delay_ms]))


if __name__ == "__main__":
    end_with(main)
