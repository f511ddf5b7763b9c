"""What the tests of publishing and of the catalog share: cheap model files, and checks of what is published."""

from __future__ import annotations

from pathlib import Path

from registry.alias_moves import AliasMoves, Prepare, no_preparation
from registry.artifacts import ArtifactStore
from registry.etcd import Etcd
from registry.keys import Keys, decode_model
from registry.layout import artifact_path
from registry.ledger import Ledger
from registry.library import Library
from registry.model import ModelRecord, ModelRef, ModelSchema, OutputKind, OutputSchema
from registry.offer import Admit, Admitted, Offer, sha256
from registry.publish import SIZE_LIMIT_BYTES, Publisher

SCHEMA = ModelSchema(("age", "income"), (OutputSchema("value", OutputKind.REGRESSION),))


async def constant_admit(offer: Offer) -> Admitted:
    """For tests about order and races, where starting a process for each file would hide what is tested."""
    return Admitted(offer.data, SCHEMA, 1000, {"1": 2.0, "64": 50.0})


async def rewriting_admit(offer: Offer) -> Admitted:
    """As `constant_admit`, but what scorers are to load isn't what was offered."""
    return (await constant_admit(offer))._replace(artifact=offer.data + b" rewritten")


def open_ledger(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Ledger:
    """A ledger on this store and cluster."""
    return Ledger(Library(store), etcd, keys)


def publisher(
    store: ArtifactStore,
    etcd: Etcd,
    keys: Keys,
    admit: Admit = constant_admit,
    *,
    prepare: Prepare = no_preparation,
    published_by: str = "",
    size_limit_bytes: int = SIZE_LIMIT_BYTES,
) -> Publisher:
    """A publisher with a ledger of its own."""
    ledger = open_ledger(store, etcd, keys)
    moves = AliasMoves(ledger, prepare)
    return Publisher(ledger, moves, admit, published_by=published_by, size_limit_bytes=size_limit_bytes)


def model_file(folder: Path, content: str) -> Path:
    """A file that begins like an ONNX model, with this content."""
    path = folder / f"{content}.onnx"
    path.write_bytes(b"\x08\x08\x12\x04test" + content.encode())
    return path


async def index_entry(etcd: Etcd, keys: Keys, ref: ModelRef) -> ModelRecord | None:
    """What etcd says of a model."""
    _, found = await etcd.get(keys.model(ref))
    return decode_model(found.value) if found is not None else None


async def check_published(store: ArtifactStore, etcd: Etcd, keys: Keys, ref: ModelRef) -> None:
    """All that can be seen is whole: aliases point at manifests, manifests at their bytes, etcd at what was stored."""
    library = Library(store)
    for version in await library.list_versions(ref):
        manifest = await library.read_manifest(ref, version)
        for digest in (manifest.artifact, manifest.source):
            assert sha256(await store.get(artifact_path(ref.tenant, digest))) == digest
        await library.read_schema(ref.tenant, manifest.schema)
    newest, indexed = await library.index_entry(ref), await index_entry(etcd, keys, ref)
    for record in (newest, indexed):
        for known in record.aliases.values() if record is not None else ():
            assert known == (await library.read_manifest(ref, known.version)).to_version()
    if indexed is not None:
        assert newest is not None
        assert indexed.revision <= newest.revision


async def check_synced(store: ArtifactStore, etcd: Etcd, keys: Keys, ref: ModelRef) -> ModelRecord:
    """As `check_published`, and etcd equals the newest alias record; returns it."""
    await check_published(store, etcd, keys, ref)
    indexed = await index_entry(etcd, keys, ref)
    assert indexed is not None
    assert indexed == await Library(store).index_entry(ref)
    return indexed
