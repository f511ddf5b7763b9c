"""What publishing writes for a version, made for a copy of an admitted model. Pure.

Contract: for the same model the objects and the entry of etcd are those that `registry.publish.Publisher` writes for
its first version, published as "live", but for times and nonces; a test holds both against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ops.catalogue.bases import Base
from registry import layout
from registry.change import published
from registry.keys import Keys, encode
from registry.library import index_of
from registry.manifest import GoldenRows, Manifest, Registration, encode_schema, schema_digest
from registry.manifest import encode as encode_object
from registry.model import LIVE, ModelRef
from registry.next_record import EMPTY, Condition, next_record, publication
from registry.offer import sha256
from scorer.engine import Rows
from scorer.golden import record as golden_rows

VERSION = "1"


class Made(NamedTuple):
    """A copy's records. `source`: digest of its bytes. `objects`: path and bytes of all that must be there before
    `alias`, its model record. `key`, `value`: etcd's entry.
    """

    ref: ModelRef
    source: str
    schema_path: str
    registration_path: str
    objects: tuple[tuple[str, bytes], ...]
    alias: tuple[str, bytes]
    key: bytes
    value: bytes


class Stamp(NamedTuple):
    """RFC 3339 in UTC; who publishes; and a nonce for each record."""

    now: str
    by: str
    nonces: tuple[str, str, str]


class Recorder:
    """Makes the records of the copies of one base. `rows`: its golden rows."""

    def __init__(self, base: Base, rows: Rows, keys: Keys) -> None:
        self._base, self._rows, self._keys = base, rows, keys
        self._schema, self._schema_bytes = schema_digest(base.schema), encode_schema(base.schema)

    def make(self, ref: ModelRef, artifact: bytes, answers: Sequence[np.ndarray], stamp: Stamp) -> Made:
        """`answers`: of the copy, to the golden rows."""
        golden = golden_rows(self._rows, self._base.schema, answers, self._base.golden.tolerance)
        digest = sha256(artifact)
        registered = Registration(version=VERSION, source=digest, created_at=stamp.now, nonce=stamp.nonces[0])
        manifest = self._manifest(ref, digest, len(artifact), golden, stamp)
        schema_path = layout.schema_path(ref.tenant, self._schema)
        registration_path = layout.registration_path(ref, VERSION)
        objects = (
            (layout.artifact_path(ref.tenant, digest), artifact),
            (schema_path, self._schema_bytes),
            (registration_path, encode_object(registered)),
            (layout.manifest_path(ref, VERSION), encode_object(manifest)),
        )
        told = alias_of(manifest, self._keys, stamp.now, stamp.nonces[2])
        return Made(ref, digest, schema_path, registration_path, objects, *told)

    def _manifest(self, ref: ModelRef, digest: str, size: int, golden: GoldenRows, stamp: Stamp) -> Manifest:
        base = self._base
        return Manifest(
            tenant=ref.tenant,
            model=ref.model,
            version=VERSION,
            runtime=base.runtime,
            runtime_version=base.runtime_version,
            source=digest,
            source_bytes=size,
            artifact=digest,
            artifact_bytes=size,
            schema=self._schema,
            resident_bytes=base.resident_bytes,
            predict_us=base.predict_us,
            golden=golden,
            training={"copy of": base.title},
            created_at=stamp.now,
            nonce=stamp.nonces[1],
            published_by=stamp.by,
        )


def alias_of(manifest: Manifest, keys: Keys, now: str, nonce: str) -> tuple[tuple[str, bytes], bytes, bytes]:
    """The model record of a first version, by path and bytes, and key and value of etcd's entry."""
    ref = manifest.ref
    change = published(ref, manifest.to_version(), (LIVE,), "", contract=manifest.schema, application="")
    condition = Condition(what=publication(VERSION, (LIVE,)))
    record = next_record(EMPTY, change, condition, now=now, nonce=nonce)
    path = layout.record_path(layout.aliases_folder(ref), record.revision)
    return (path, encode_object(record)), keys.model(ref), encode(index_of(record))
