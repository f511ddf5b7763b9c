"""Makes a catalogue: trains and admits its bases, looks at what is there, runs the processes that make the rest, and
tries a sample of what they made.

Contract: run again after whatever happened, it makes what is missing, and leaves alone what is there. Models of the
same names that are others make it fail before anything is written, as far as a sample of a hundred of them tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from ops.catalogue.bases import Base, Draft, admit_base, train_all
from ops.catalogue.copies import in_order
from ops.catalogue.writing import Maker, Order, opened
from ops.task_group import task_group
from registry import layout
from registry.bounded import map_all
from registry.errors import ArtifactRejectedError, ConflictError, UnavailableError
from registry.ledger import Ledger
from registry.model import LIVE
from registry.offer import Offer, sha256
from registry.probing import ProbePool
from registry.rebuild import rebuild
from registry.rebuild_sides import newest_revisions, read_held_tenant

_AT_ONCE = 16
_COMPARED = 100
OnProgress = Callable[[str, int, int], None]


class Catalogue(NamedTuple):
    """What was made. `present`: models that were there already. `tried`: those of the sample; `most_resident`: the
    greatest ratio of a sampled model's measured memory to what its manifest says.
    """

    order: Order
    made: int
    present: int
    tried: int
    most_resident: float
    elapsed_s: float


async def make(order: Order, sample: int, on_progress: OnProgress) -> Catalogue:
    """Make all that is missing. `order` has no bases yet. `on_progress` is told what is done, how far, and of how much.

    Raises:
        ConflictError: there are other models under these names.
        ArtifactRejectedError: a base, or a model of the sample, isn't admitted.
        UnavailableError: store, etcd or a process failed; run it again.
    """
    began_s = time.monotonic()
    async with opened(order) as ledger, ProbePool(order.processes) as pool:
        drafts = await asyncio.to_thread(_train, order, on_progress)
        bases = await map_all(drafts, lambda draft: admit_base(draft, pool.admit), order.processes)
        order = msgspec.structs.replace(order, bases=tuple(bases))
        order = msgspec.structs.replace(order, done=await _survey(order, ledger))
        present = sum(end - begin for begin, end in order.done)
        missing = order.spec.models - present
        await _run(order, lambda count: on_progress("make models", count, missing))
        most = await _try_sample(order, pool, ledger, sample, on_progress)
    tried = min(sample, order.spec.models)
    return Catalogue(order, missing, present, tried, most, time.monotonic() - began_s)


def _train(order: Order, on_progress: OnProgress) -> list[Draft]:
    drafts = []
    for draft in train_all(order.spec):
        drafts.append(draft)
        on_progress("train and admit bases", len(drafts), order.spec.bases)
    return drafts


async def _survey(order: Order, ledger: Ledger) -> tuple[tuple[int, int], ...]:
    """Ranges of the models that are complete in the store; of these, the ones that etcd lacks are told to it."""
    store, spec = ledger.library.store, order.spec
    there = {*await store.list_folders(layout.TENANTS)}
    tenants = [number for number in range(spec.tenants) if spec.tenant(number) in there]

    async def look(number: int) -> list[int]:
        tenant = spec.tenant(number)
        names = await newest_revisions(store, layout.models_folder(tenant))
        begin, end = spec.begins[number : number + 2].tolist()
        found = [model for model in range(begin, end) if spec.ref(model).model in names]
        held = (await read_held_tenant(ledger.etcd, ledger.keys, tenant)).models.get(tenant, {})
        if any(spec.ref(model).model not in held for model in found):
            await rebuild(ledger, layout.tenant_folder(tenant))
        return found

    done = sorted(number for found in await map_all(tenants, look, _AT_ONCE) for number in found)
    await _compare(order, ledger, done)
    return _ranges(done)


async def _compare(order: Order, ledger: Ledger, done: Sequence[int]) -> None:
    """Whether a sample of what is there is what this order makes."""
    maker = Maker(order)
    chosen = np.random.default_rng().choice(done, min(_COMPARED, len(done)), replace=False).tolist() if done else []

    async def compare(number: int) -> None:
        ref = order.spec.ref(number)
        record = await ledger.library.newest_aliases(ref)
        live = record.versions.get(record.aliases.get(LIVE, "")) if record is not None else None
        if live is None or live.artifact != sha256(maker.artifact(number)):
            raise ConflictError(f"there is another model {ref} already; choose another --prefix")

    await map_all(chosen, compare, _AT_ONCE)


def _ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as ranges of first and behind the last."""
    if not numbers:
        return ()
    breaks = [place for place, (one, following) in enumerate(pairwise(numbers), 1) if following != one + 1]
    return tuple((numbers[begin], numbers[end - 1] + 1) for begin, end in pairwise([0, *breaks, len(numbers)]))


async def _run(order: Order, on_count: Callable[[int], None]) -> None:
    """Run the processes to their end."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_count(done)

    with tempfile.TemporaryDirectory(prefix="scoremesh-catalogue-") as folder:
        path = Path(folder, "order")
        await asyncio.to_thread(path.write_bytes, msgspec.msgpack.encode(order))
        async with task_group() as tasks:
            for process in range(order.processes):
                tasks.create_task(_follow(path, process, count))


async def _follow(path: Path, process: int, count: Callable[[int], None]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.catalogue.writing", str(path), str(process)),
        stdout=pipe,
        stderr=pipe,
        env=environment,
    )
    assert child.stdout is not None  # noqa: S101 - pipes were asked for
    assert child.stderr is not None  # noqa: S101
    words = asyncio.ensure_future(child.stderr.read())
    try:
        async for line in child.stdout:
            count(int(line))
        if await child.wait():
            raise UnavailableError(_last_line(await words) or "a process that makes models was ended")
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await asyncio.gather(words, child.communicate(), return_exceptions=True)


def _last_line(words: bytes) -> str:
    lines = words.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else ""


async def _try_sample(order: Order, pool: ProbePool, ledger: Ledger, sample: int, on_progress: OnProgress) -> float:
    """Admission of some models, as the store has them; see `Catalogue.most_resident`."""
    maker, count = Maker(order), min(sample, order.spec.models)
    chosen = np.random.default_rng().choice(order.spec.models, count, replace=False).tolist()
    tried = 0

    async def attempt(number: int) -> float:
        nonlocal tried
        ref, base = order.spec.ref(number), maker.base_of(number)
        manifest = await ledger.library.read_manifest(ref, "1")
        artifact = await ledger.library.store.get(layout.artifact_path(ref.tenant, manifest.artifact))
        found = await pool.admit(Offer(artifact, sha256(artifact), base.runtime, manifest.golden))
        if artifact != in_order(base.runtime, found.artifact) or found.schema != base.schema:
            raise ArtifactRejectedError(f"admission makes another model of {ref}, a copy of {base.title}")
        tried += 1
        on_progress("try a sample", tried, count)
        return found.resident_bytes / manifest.resident_bytes

    return max(await map_all(chosen, attempt, order.processes), default=0.0)


def bases_of(order: Order) -> list[Base]:
    """The base of each model, in the order of their numbers."""
    maker = Maker(order)
    return [maker.base_of(number) for number in range(order.spec.models)]
