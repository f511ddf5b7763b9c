"""Publishes many small real models in one go, and says what that costs.

    python -m bench.publish_many [--models 10000] [--concurrency 8] [--workers 2] [--directory DIR]

The models are those of `bench.small_models`, made by a process of its own. They are published by the real publisher,
with real admission in throw-away processes, into a file store and a real etcd.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from bench.registry_common import MIB, Place, cpu_s, etcd_bytes, fresh_place, machine, peak_rss_mib
from registry.alias_moves import AliasMoves
from registry.bulk_publish import Done, Outcome, publish_item, publish_many, read_items
from registry.probing import ProbePool
from registry.process import end_with, run
from registry.publish import Publisher


async def _publish(place: Place, root: Path, concurrency: int, workers: int) -> None:
    pool = ProbePool(workers)
    _, before_s = cpu_s()
    try:
        publisher = Publisher(place.ledger, AliasMoves(place.ledger), pool.admit)
        await _report("first run", place, publisher, root, concurrency)
    finally:
        await pool.aclose()
    tried_s = cpu_s()[1] - before_s
    print(f"CPU s of the processes that tried models: {tried_s:.1f}, the largest had {peak_rss_mib(True):.0f} MiB")
    await _report("again, all unchanged", place, publisher, root, concurrency)
    count, held, database = await etcd_bytes(place)
    print(
        f"etcd: {count} models, {held / count:.0f} bytes a model (key and value), "
        f"database {database / count:.0f} bytes a model"
    )
    print(f"peak memory of the publisher: {peak_rss_mib():.0f} MiB")


async def _report(what: str, place: Place, publisher: Publisher, root: Path, concurrency: int) -> None:
    seen = dict.fromkeys(Outcome, 0)

    def count(done: Done) -> None:
        seen[done.outcome] += 1
        if sum(seen.values()) % 1000 == 0:
            print(f"  {sum(seen.values())} done, memory {peak_rss_mib():.0f} MiB", flush=True)

    cpu_before_s, _ = cpu_s()
    etcd_before_s = cpu_of(place.server.process.pid)
    summary = await publish_many(partial(publish_item, publisher), read_items(root), concurrency, count)
    total = sum(seen.values())
    print(
        f"{what}: {total} models in {summary.elapsed_s:.1f} s, {total / summary.elapsed_s:.0f} a second; "
        f"published {summary.published}, unchanged {summary.unchanged}, failed {summary.failed}; CPU ms a model: "
        f"publisher {(cpu_s()[0] - cpu_before_s) * 1e3 / total:.2f}, "
        f"etcd {(cpu_of(place.server.process.pid) - etcd_before_s) * 1e3 / total:.2f}"
    )
    for failure in summary.failures[:5]:
        print(f"  failed: {failure.item.path.name}: {failure.why}")


def cpu_of(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)  # see bench.measure


def _make(root: Path, count: int) -> int:
    """Make the files in a process of its own, whose libraries and data don't count as ours; returns their bytes."""
    return int(subprocess.check_output([sys.executable, "-m", "bench.small_models", root, str(count)]))


async def _main(args: argparse.Namespace) -> None:
    print(machine())
    async with fresh_place(args.directory) as place:
        root = place.directory / "models"
        began_s = time.monotonic()
        mean_kib = await asyncio.to_thread(_make, root, args.models) / args.models / 1024
        print(f"{args.models} models of {mean_kib:.1f} KiB made in {time.monotonic() - began_s:.1f} s", flush=True)
        await _publish(place, root, args.concurrency, args.workers)
        stored = await place.ledger.library.store.list_all("tenants")
        print(f"object storage: {len(stored)} objects, {sum(each.size_bytes for each in stored) / MIB:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="processes that try models")
    parser.add_argument("--directory", help="where to work; default: the system's temporary directory")
    run(_main(parser.parse_args()))


if __name__ == "__main__":
    end_with(main)
