"""One process that makes models of a catalogue: python -m ops.catalogue.writing ORDER PROCESS

Contract: makes every `processes`-th chunk of the models, those left out that `Order.done` has. Each copy is loaded by
the real engine and scores its golden rows, and must answer otherwise than its base. Written are first all objects but
the model records, then these, then etcd's entries, of a chunk at a time; so a process that dies leaves models that are
complete or aren't there yet, and running it again finishes them. Says on standard output how many are done.

What is there already under a name must be the same model; else it ends with one line on standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ops.catalogue.bases import Base
from ops.catalogue.copies import copier_of
from ops.catalogue.records import VERSION, Made, Recorder, Stamp, alias_of
from ops.catalogue.spec import CatalogueSpec
from ops.connection import etcd_settings
from registry.bounded import for_each, map_all
from registry.errors import ConflictError, ModelUnusableError, ScoreMeshError
from registry.etcd import Etcd
from registry.etcd_batch import Write, batches
from registry.keys import Keys
from registry.ledger import Ledger, new_nonce, utc_now
from registry.library import Library
from registry.process import end_with, prepare
from registry.store_urls import open_store
from scorer.engine import engine_for
from scorer.golden import to_rows

CHUNK = 120  # as many entries as etcd takes in one transaction
_CHUNKS_AT_ONCE = 3  # one is made while the others are written
_ASK_AT_ONCE = 16


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """`done`: numbers of the models that are there, in ranges of first and behind the last."""

    spec: CatalogueSpec
    bases: tuple[Base, ...]
    store: str
    etcd: str
    cluster: str
    published_by: str
    processes: int
    done: tuple[tuple[int, int], ...] = ()


class Maker:
    """Makes the records of models, by number."""

    def __init__(self, order: Order) -> None:
        self._spec, self._by = order.spec, order.published_by
        self._bases = order.bases
        weights = np.array([base.weight for base in order.bases])
        self._base_of: list[int] = order.spec.choose_bases(weights).tolist()
        keys = Keys(order.cluster)
        self._rows = [to_rows(base.golden, base.schema) for base in order.bases]
        self._copiers = [copier_of(base.runtime, base.artifact) for base in order.bases]
        self._recorders = [Recorder(base, rows, keys) for base, rows in zip(order.bases, self._rows, strict=True)]

    def base_of(self, number: int) -> Base:
        """What a model is a copy of."""
        return self._bases[self._base_of[number]]

    def artifact(self, number: int) -> bytes:
        """A model's bytes."""
        return self._copiers[self._base_of[number]].copy(self._spec.random_of(number))

    def make(self, number: int) -> Made:
        """A model, tried. Raises ModelUnusableError: it can't be loaded, or it isn't another model than its base."""
        place = self._base_of[number]
        base, artifact = self._bases[place], self.artifact(number)
        model = engine_for(base.runtime).load(artifact, base.schema)
        try:
            answers = model.predict(self._rows[place])
        finally:
            model.close()
        told = [number for answer in answers for number in answer.ravel().tolist()]
        known = [number for output in base.schema.outputs for number in base.golden.outputs[output.name]]
        if told == known or not np.isfinite(told).all():
            raise ModelUnusableError(f"model {number} answers nothing of its own; its base is {base.title}")
        stamp = Stamp(utc_now(), self._by, (new_nonce(), new_nonce(), new_nonce()))
        return self._recorders[place].make(self._spec.ref(number), artifact, answers, stamp)


class Storing:
    """Writes what was made to the store and to etcd."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: set[str] = set()  # schemas that are there

    async def store(self, made: Sequence[Made]) -> None:
        """Raises ConflictError: another model is there under one of the names."""
        objects = dict(each for one in made for each in one.objects if each[0] not in self._known)
        created = await self._create(objects)
        self._known.update(one.schema_path for one in made)
        begun = [one for one in made if not created[one.registration_path]]
        finished = await map_all(begun, self._finish, _ASK_AT_ONCE)
        made = [*(one for one in made if created[one.registration_path]), *finished]
        aliases = await self._create(dict(one.alias for one in made))
        lost = [one.ref for one in made if not aliases[one.alias[0]]]  # Somebody else made the same model meanwhile.
        by_key = {one.key: one.ref for one in made if aliases[one.alias[0]]}
        for batch in batches(Write(one.key, one.value, 0) for one in made if one.key in by_key):
            if not await self._ledger.etcd.write_all(batch):
                lost += [by_key[write.key] for write in batch]
        await map_all(lost, self._ledger.sync, _ASK_AT_ONCE)

    async def _create(self, objects: Mapping[str, bytes]) -> dict[str, bool]:
        created = await self._ledger.library.store.create_many([*objects.items()])
        return dict(zip(objects, created, strict=True))

    async def _finish(self, made: Made) -> Made:
        """What was begun before must be what is to be there; its manifest holds, with what was measured then."""
        library = self._ledger.library
        begun = await library.find_registration(made.ref, VERSION)
        manifest = await library.find_manifest(made.ref, VERSION)
        if manifest is None or begun is None or {manifest.source, begun.source} != {made.source}:
            raise ConflictError(f"there is another model {made.ref} already; choose another --prefix")
        alias, key, value = alias_of(manifest, self._ledger.keys, utc_now(), new_nonce())
        return made._replace(alias=alias, key=key, value=value)


def numbers_of(order: Order, process: int) -> Iterator[list[int]]:
    """The models that one process makes, chunk by chunk."""
    done = np.zeros(order.spec.models, bool)
    for begin, end in order.done:
        done[begin:end] = True
    missing = np.flatnonzero(~done).tolist()
    for begin in range(process * CHUNK, len(missing), order.processes * CHUNK):
        yield missing[begin : begin + CHUNK]


async def write(order: Order, process: int) -> None:
    """See the module."""
    maker = Maker(order)
    async with opened(order) as ledger:
        storing = Storing(ledger)

        async def one_chunk(numbers: list[int]) -> None:
            await storing.store([maker.make(number) for number in numbers])
            sys.stdout.write(f"{len(numbers)}\n")
            sys.stdout.flush()

        await for_each(numbers_of(order, process), one_chunk, _CHUNKS_AT_ONCE)


@contextlib.asynccontextmanager
async def opened(order: Order) -> AsyncIterator[Ledger]:
    """The store and the etcd of an order."""
    settings = etcd_settings(order.etcd)
    etcd = Etcd(
        settings["etcd"], user=settings["etcd_user"], password=settings["etcd_password"], tls=settings["etcd_tls"]
    )
    try:
        yield Ledger(Library(open_store(order.store)), etcd, Keys(order.cluster))
    finally:
        await etcd.aclose()


def main() -> None:
    """Run."""
    prepare()
    order = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    try:
        asyncio.run(write(order, int(sys.argv[2])))
    except ScoreMeshError as error:
        sys.exit(f"error: {error.reason}: {error.message}")


if __name__ == "__main__":
    end_with(main)
