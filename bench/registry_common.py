"""What the benchmarks of the registry share: a store and an etcd of their own, and what they say of the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import psutil

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys
from registry.ledger import Ledger
from registry.library import Library
from registry.store_urls import open_store

MIB = 1 << 20


class Place(NamedTuple):
    """`directory`: for files of the benchmark; the store is below it."""

    directory: Path
    server: EtcdServer
    ledger: Ledger


@contextlib.asynccontextmanager
async def fresh_place(parent: str | None) -> AsyncIterator[Place]:
    """A file store and a real etcd, both empty, both gone at the end."""
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-", dir=parent) as name:
        directory = Path(name)
        server = EtcdServer(directory / "etcd")
        server.start()
        etcd = Etcd([server.endpoint])
        try:
            yield Place(
                directory, server, Ledger(Library(open_store(f"file://{directory}/store")), etcd, Keys("bench"))
            )
        finally:
            await etcd.aclose()
            server.terminate()


async def etcd_bytes(place: Place) -> tuple[int, int, int]:
    """Keys of models, bytes of these keys and their values, bytes of etcd's database on disk."""
    etcd = place.ledger.etcd
    count = held = 0
    async with contextlib.aclosing(etcd.pages(place.ledger.keys.models_prefix)) as pages:
        async for page in pages:
            count += len(page)
            held += sum(len(kv.key) + len(kv.value) for kv in page)
    return count, held, (await etcd.status()).database_bytes


def peak_rss_mib(children: bool = False) -> float:
    """The most memory that this process (or the largest of its children that have ended) had at a time."""
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss * 1024 / MIB


def cpu_s() -> tuple[float, float]:
    """CPU seconds of this process, and of its children that have ended."""
    times = os.times()
    return times.user + times.system, times.children_user + times.children_system


def machine() -> str:
    """One line on where this ran."""
    memory_gib = psutil.virtual_memory().total / (1 << 30)
    return (
        f"{os.cpu_count()} cores, {memory_gib:.1f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"
    )
