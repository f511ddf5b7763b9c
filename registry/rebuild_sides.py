"""The two sides that a rebuild compares: what etcd holds, and what object storage says that it should hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from registry import layout
from registry.artifacts import ArtifactStore
from registry.errors import ModelUnusableError, ScoreMeshError
from registry.etcd import Etcd
from registry.etcd_records import KeyValue
from registry.keys import Keys, encode
from registry.library import index_of
from registry.manifest import AliasRecord, decode
from registry.model import ModelRef


class Held(NamedTuple):
    """An entry of etcd: when it was written, the revision of the record that it mirrors (0 where it is damaged), and
    a digest of its bytes, so that 100,000 entries cost 30 MB and not 100.
    """

    mod_revision: int
    revision: int
    digest: bytes

    def equals(self, value: bytes) -> bool:
        """Whether the entry is this."""
        return self.digest == _digest(value)


class HeldIndex(NamedTuple):
    """The entries of etcd by name; models by tenant and name."""

    models: dict[str, dict[str, Held]]
    tenants: dict[str, Held]
    applications: dict[str, Held]


class Wanted(NamedTuple):
    """What etcd should have of a model: `value`, None for no entry. `revision`: of the record that says so; 0 where
    the record went away between listing and reading.
    """

    ref: ModelRef
    key: bytes
    value: bytes | None
    revision: int


async def read_held(etcd: Etcd, keys: Keys) -> HeldIndex:
    """All entries of etcd."""
    return HeldIndex(
        await _read_models(etcd, keys, keys.models_prefix),
        await _read_settings(etcd, keys.tenants_prefix),
        await _read_settings(etcd, keys.applications_prefix),
    )


async def read_held_tenant(etcd: Etcd, keys: Keys, tenant: str) -> HeldIndex:
    """The entries of one tenant."""
    models = await _read_models(etcd, keys, keys.tenant_models_prefix(tenant))
    _, found = await etcd.get(keys.tenant(tenant))
    return HeldIndex(models, {tenant: held(found)} if found is not None else {}, {})


async def _read_models(etcd: Etcd, keys: Keys, prefix: bytes) -> dict[str, dict[str, Held]]:
    models: dict[str, dict[str, Held]] = {}
    async with aclosing(etcd.pages(prefix)) as pages:
        async for page in pages:
            for kv in page:
                ref = keys.model_ref(kv.key)
                if ref is not None:
                    models.setdefault(ref.tenant, {})[ref.model] = held(kv)
    return models


async def _read_settings(etcd: Etcd, prefix: bytes) -> dict[str, Held]:
    async with aclosing(etcd.pages(prefix)) as pages:
        return {kv.key[len(prefix) :].decode(errors="replace"): held(kv) async for page in pages for kv in page}


def held(kv: KeyValue) -> Held:
    """What is kept of an entry."""
    try:
        revision = msgspec.json.decode(kv.value, type=_Revision).revision
    except msgspec.DecodeError:
        revision = 0
    return Held(kv.mod_revision, revision, _digest(kv.value))


async def newest_revisions(store: ArtifactStore, folder: str) -> dict[str, int]:
    """By model, the greatest revision of its records below a tenant's folder of models."""
    newest: dict[str, int] = {}
    skip = len(folder) + 1
    async with aclosing(store.list_recursive(folder)) as pages:
        async for page in pages:
            for path, _ in page:
                model, _, rest = path[skip:].partition("/")
                if rest.startswith("aliases/"):
                    revision = layout.revision_of(rest[8:]) or 0
                    if revision > newest.get(model, 0):
                        newest[model] = revision
    return newest


async def read_wanted(
    store: ArtifactStore, keys: Keys, newest: Mapping[ModelRef, int], fail: Callable[[str, str], None]
) -> list[Wanted]:
    """What these records say that etcd should have; those that are damaged go to `fail`."""
    found = []
    for ref, revision in newest.items():
        try:
            found.append((ref, keys.model(ref), layout.record_path(layout.aliases_folder(ref), revision), revision))
        except ScoreMeshError as error:
            fail(name_of(ref), error.message)
    wanted = []
    for (ref, key, path, revision), data in zip(found, await store.get_many([at[2] for at in found]), strict=True):
        try:
            wanted.append(Wanted(ref, key, None, 0) if data is None else _wanted(ref, key, revision, data, path))
        except ModelUnusableError as error:
            fail(name_of(ref), error.message)
    return wanted


def name_of(ref: ModelRef) -> str:
    """A model's resource name."""
    return f"tenants/{ref.tenant}/models/{ref.model}"


class _Revision(msgspec.Struct):
    """The part that all records have."""

    revision: int


def _wanted(ref: ModelRef, key: bytes, revision: int, data: bytes, path: str) -> Wanted:
    record = decode(AliasRecord, data, path)
    if record.revision != revision:
        raise ModelUnusableError(f"the record {path} in object storage is damaged: it is revision {record.revision}")
    try:
        return Wanted(ref, key, None if record.gone else encode(index_of(record)), revision)
    except KeyError as error:
        raise ModelUnusableError(f"the record {path} is damaged: it lacks version {error.args[0]!r}") from error


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()
