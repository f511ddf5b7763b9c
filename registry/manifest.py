"""The records in object storage: what a version is (Manifest) and what the aliases point at (AliasRecord). Pure.

Both are JSON, written once and never changed. `nonce` differs in every record ever written: a writer whose create was
repeated by the transport finds its own nonce in what "is already there", and so knows that it won.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from registry.errors import ModelUnusableError
from registry.model import ModelRef, ModelSchema, ModelVersion, Runtime

FORMAT = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All about one immutable version.

    `digest`: lower-case sha256 of the artifact; `uri`: its path inside the store. `resident_bytes`: upper bound of a
    loaded copy's memory; `predict_us`: measured microseconds of one predict, by its
    number of rows. `created_at`: RFC 3339, UTC.
    `format`: number of this record's layout; a reader refuses one that it doesn't know.
    """

    tenant: str
    model: str
    version: str
    runtime: Runtime
    digest: str
    uri: str
    artifact_bytes: int
    resident_bytes: int
    schema: ModelSchema
    predict_us: dict[str, float]
    created_at: str
    nonce: str
    published_by: str = ""
    labels: dict[str, str] = {}
    format: int = FORMAT

    @property
    def ref(self) -> ModelRef:
        """The model that this is a version of."""
        return ModelRef(self.tenant, self.model)

    def to_version(self) -> ModelVersion:
        """What a scorer must know of it."""
        return ModelVersion(
            version=self.version,
            digest=self.digest,
            uri=self.uri,
            runtime=self.runtime,
            artifact_bytes=self.artifact_bytes,
            resident_bytes=self.resident_bytes,
            schema=self.schema,
        )


class AliasRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where every alias of a model points from this revision on: alias -> version.

    `previous`: the revision that it was made from, 0 for the first.
    """

    revision: int
    aliases: dict[str, str]
    created_at: str
    nonce: str
    previous: int = 0
    format: int = FORMAT


_Record = TypeVar("_Record", Manifest, AliasRecord)
_manifest_decoder = msgspec.json.Decoder(Manifest)
_alias_decoder = msgspec.json.Decoder(AliasRecord)


def encode(record: Manifest | AliasRecord) -> bytes:
    """JSON of a record, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def decode_manifest(data: bytes, path: str) -> Manifest:
    """Parse a manifest. Raises ModelUnusableError, naming `path`, where it is damaged or of an unknown format."""
    return _decode(_manifest_decoder, data, path)


def decode_aliases(data: bytes, path: str) -> AliasRecord:
    """Parse an alias record. Raises ModelUnusableError, naming `path`, where it is damaged or of an unknown format."""
    return _decode(_alias_decoder, data, path)


def _decode(decoder: msgspec.json.Decoder[_Record], data: bytes, path: str) -> _Record:
    try:
        record = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ModelUnusableError(f"the record {path} in object storage is damaged: {error}") from error
    if record.format != FORMAT:
        raise ModelUnusableError(f"the record {path} has format {record.format}; this program knows format {FORMAT}")
    return record
