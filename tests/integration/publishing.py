"""What the tests of publishing and of the catalog share: cheap model files, and checks of what is published."""

from __future__ import annotations

from pathlib import Path

from registry.artifacts import ArtifactStore, check_digest
from registry.etcd import Etcd
from registry.keys import Keys, decode_model
from registry.library import Library
from registry.model import ModelRecord, ModelRef, ModelSchema, OutputKind, OutputSchema, Runtime
from registry.probing import Probed

SCHEMA = ModelSchema(("age", "income"), (OutputSchema("value", OutputKind.REGRESSION),))


async def constant_prober(_path: Path, _runtime: Runtime) -> Probed:
    """For tests about order and races, where starting a process for each file would hide what is tested."""
    return Probed(SCHEMA, 1000, {"1": 2.0, "64": 50.0})


def model_file(folder: Path, content: str) -> Path:
    """A file that begins like an ONNX model, with this content."""
    path = folder / f"{content}.onnx"
    path.write_bytes(b"\x08\x08\x12\x04test" + content.encode())
    return path


async def index_entry(etcd: Etcd, keys: Keys, ref: ModelRef) -> ModelRecord | None:
    _, found = await etcd.get(keys.model(ref))
    return decode_model(found.value) if found is not None else None


async def check_published(store: ArtifactStore, etcd: Etcd, keys: Keys, ref: ModelRef) -> None:
    """All that can be seen is whole: aliases point at manifests, manifests at their bytes, etcd at what was stored."""
    library = Library(store)
    for version in await library.list_versions(ref):
        manifest = await library.read_manifest(ref, version)
        check_digest(await store.get(manifest.uri), manifest.digest, manifest.uri)
    newest = await library.index_entry(ref)  # reads the manifest of every alias
    indexed = await index_entry(etcd, keys, ref)
    if indexed is not None:
        assert newest is not None
        assert indexed.revision <= newest.revision
        for known in indexed.aliases.values():
            assert known == (await library.read_manifest(ref, known.version)).to_version()


async def check_synced(store: ArtifactStore, etcd: Etcd, keys: Keys, ref: ModelRef) -> ModelRecord:
    """As `check_published`, and etcd equals the newest alias record; returns it."""
    await check_published(store, etcd, keys, ref)
    indexed = await index_entry(etcd, keys, ref)
    assert indexed is not None
    assert indexed == await Library(store).index_entry(ref)
    return indexed
