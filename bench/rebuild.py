"""Rebuilds etcd's keys of many models from object storage, and says how long it takes.

    python -m bench.rebuild [--models 100000] [--tenants 100] [--directory DIR]

A few real models are published; the records of the others are made from theirs (other names, digests and nonces) and
written into the store by the library's own calls: registration, manifest and alias record of each. Then etcd is killed,
its data deleted, and everything is rebuilt: into the empty etcd, again with nothing to do, and for one tenant.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import time
from collections.abc import Iterator
from functools import partial

import msgspec

from bench.publish_many import cpu_of
from bench.registry_common import MIB, Place, cpu_s, etcd_bytes, fresh_place, machine, peak_rss_mib
from bench.small_models import write_models
from registry.alias_moves import AliasMoves
from registry.bounded import for_each
from registry.bulk_publish import publish_item, publish_many, read_items
from registry.change import published
from registry.ledger import new_nonce, utc_now
from registry.manifest import Manifest, Registration
from registry.model import LIVE, ModelRef
from registry.next_record import ANY, EMPTY, next_record
from registry.probing import ProbePool
from registry.process import end_with, run
from registry.publish import Publisher
from registry.rebuild import Rebuilt, rebuild

_REAL = 20


async def _real_manifests(place: Place) -> list[Manifest]:
    root = place.directory / "models"
    await asyncio.to_thread(write_models, root, _REAL)
    pool = ProbePool()
    try:
        publisher = Publisher(place.ledger, AliasMoves(place.ledger), pool.admit)
        await publish_many(partial(publish_item, publisher), read_items(root))
    finally:
        await pool.aclose()
    library = place.ledger.library
    return [await library.read_manifest(item.ref, "1") for item in read_items(root)]


async def _fill(place: Place, templates: list[Manifest], count: int, tenants: int) -> None:
    library = place.ledger.library

    async def one(made: Manifest) -> None:
        registration = Registration(version="1", source=made.source, created_at=utc_now(), nonce=new_nonce())
        await library.register(made.ref, registration)
        await library.create_manifest(made)
        change = published(made.ref, made.to_version(), [LIVE], "", contract=made.schema)
        record = next_record(EMPTY, change, ANY, now=utc_now(), nonce=new_nonce())
        await library.create_aliases(made.ref, record)

    await for_each(_copies(templates, count, tenants), one, 16)


def _copies(templates: list[Manifest], count: int, tenants: int) -> Iterator[Manifest]:
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        ref = ModelRef(f"copies{number % tenants:04}", f"model{number:07}")
        yield msgspec.structs.replace(
            templates[number % len(templates)],
            tenant=ref.tenant,
            model=ref.model,
            source=digest,
            artifact=digest,
            nonce=new_nonce(),
        )


async def _report(what: str, place: Place, scope: str = "") -> Rebuilt:
    pid = place.server.process.pid
    before = cpu_s()[0], cpu_of(pid)
    told = 0

    def count(_: Rebuilt) -> None:
        nonlocal told
        told += 1

    result = await rebuild(place.ledger, scope, count)
    print(
        f"{what}: {result.models} models in {result.elapsed_s:.1f} s, "
        f"{result.models / result.elapsed_s:.0f} a second; written {result.written}, "
        f"removed {result.removed}, failed {result.failed}; CPU s: "
        f"rebuild {cpu_s()[0] - before[0]:.1f}, etcd {cpu_of(pid) - before[1]:.1f}; progress told {told} times; "
        f"peak memory {peak_rss_mib():.0f} MiB",
        flush=True,
    )
    return result


async def _main(args: argparse.Namespace) -> None:
    print(machine())
    async with fresh_place(args.directory) as place:
        templates = await _real_manifests(place)
        began_s = time.monotonic()
        await _fill(place, templates, args.models - len(templates), args.tenants)
        took_s = time.monotonic() - began_s
        print(f"{args.models} models in the store, written in {took_s:.0f} s", flush=True)
        place.server.kill()
        place.server.wipe()
        place.server.restart()
        await _report("empty etcd", place)
        count, held, database = await etcd_bytes(place)
        print(f"etcd: {count} models, {held / count:.0f} bytes a model, database {database / MIB:.1f} MiB")
        await _report("nothing to do", place)
        await _report("one tenant", place, "tenants/copies0000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--directory", help="where to work; default: the system's temporary directory")
    run(_main(parser.parse_args()))


if __name__ == "__main__":
    end_with(main)
