"""The records in object storage: what a version is (Manifest), the number that its publisher took (Registration), and
where a model stands (AliasRecord). Pure.

All are JSON, written once and never changed. `nonce` differs in every record ever written: a writer whose create was
repeated by the transport finds its own nonce in what "is already there", and so knows that it won.

A version's state follows from them: registered (a number was taken, no manifest yet), validated (it has a manifest, so
admission passed), live (an alias or a rollout means it), retired (the alias record says so).
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TypeVar

import msgspec

from registry.errors import ModelUnusableError
from registry.model import ModelRef, ModelSchema, ModelVersion, Rollout, Runtime

FORMAT = 2


class VersionState(StrEnum):
    """See the module."""

    REGISTERED = "registered"
    VALIDATED = "validated"
    LIVE = "live"
    RETIRED = "retired"


class GoldenRows(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows with known answers, to check a model wherever it is loaded. `dense`: one tuple a row, None for a missing
    value; `strings`: column name to one value a row. `outputs`: output name to the numbers of all rows, row after row,
    None for one that isn't finite. `tolerance`: the greatest absolute and relative difference.
    """

    dense: tuple[tuple[float | None, ...], ...]
    outputs: dict[str, tuple[float | None, ...]]
    strings: dict[str, tuple[str, ...]] = {}
    tolerance: float = 0.0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All about one immutable version.

    `runtime_version`: of the engine that admitted it; with `runtime` the pool that may load it. `source`,
    `source_bytes`: sha256 and size of the file as it was published; `artifact`, `artifact_bytes`: of what admission
    made of it and scorers load. `annotated`, `annotated_bytes`: of the same model with what contributions are computed
    from, which scorers load when somebody asks for them; may be the artifact; "" where there are none, or where the
    version is older than they. `schema`: sha256 of the ModelSchema. `resident_bytes`: upper bound of a loaded copy's
    memory; `predict_us`: measured microseconds of one predict, by its number of rows. `training`: what the publisher
    says of the training (run, metrics). `labels`: for selecting. `signature`: the publisher's own, over `source`;
    kept, not checked. `created_at`: RFC 3339, UTC. `request_id`: of the request that published it. `format`: number of
    this record's layout; a reader refuses one that it doesn't know.
    """

    tenant: str
    model: str
    version: str
    application: str = ""
    runtime: Runtime
    runtime_version: str = ""
    source: str
    source_bytes: int
    artifact: str
    artifact_bytes: int
    annotated: str = ""
    annotated_bytes: int = 0
    schema: str
    resident_bytes: int
    predict_us: dict[str, float]
    golden: GoldenRows | None = None
    transforms: msgspec.Raw = msgspec.Raw(b"null")
    transforms_digest: str = ""
    training: dict[str, str] = {}
    labels: dict[str, str] = {}
    signature: str = ""
    created_at: str
    nonce: str
    published_by: str = ""
    request_id: str = ""
    format: int = FORMAT

    @property
    def ref(self) -> ModelRef:
        """The model that this is a version of."""
        return ModelRef(self.tenant, self.model)

    def to_version(self) -> ModelVersion:
        """What a scorer must know of it."""
        return ModelVersion(
            version=self.version,
            package=package_of(self.artifact, self.schema, self.transforms_digest),
            tenant=self.tenant,
            artifact=self.artifact,
            schema=self.schema,
            runtime=self.runtime,
            artifact_bytes=self.artifact_bytes,
            resident_bytes=self.resident_bytes,
            transforms=self.transforms_digest,
        )

    def to_annotated(self) -> ModelVersion | None:
        """What a scorer must know to compute contributions; None where nobody can."""
        if not self.annotated:
            return None
        return msgspec.structs.replace(
            self.to_version(),
            package=package_of(self.annotated, self.schema, self.transforms_digest),
            artifact=self.annotated,
            artifact_bytes=self.annotated_bytes,
        )


class Registration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A version number that a publisher took before it did anything else; `source`: sha256 of its file."""

    version: str
    source: str
    created_at: str
    nonce: str
    request_id: str = ""
    format: int = FORMAT


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What runs beside an alias's version; see `registry.model.Rollout`. `canary`, `shadow`: versions. `guarded`: the
    registry takes it back by itself when the canary fails or its scores drift, by the numbers below.
    """

    id: str
    canary: str = ""
    percent: float = 0.0
    shadow: str = ""
    guarded: bool = True
    max_error_ratio: float = 0.01
    max_drift: float = 0.25
    min_requests: int = 200
    created_at: str = ""


class AliasRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a model stands from this revision on.

    `aliases`: alias -> version. `before`: alias -> the version that it meant before its last move. `rollouts`: alias ->
    what runs beside it. `versions`: what scorers must know of every version in `aliases` and `rollouts`, so that the
    index is made of this record alone. `contract`: sha256 of the schema that new versions must keep to. `retired`,
    `deleted`: versions that nothing may point at any more, and names that are never used again. `gone`: the model
    was deleted. `requests`: the last request ids, newest last, with what each came to, in words, so that a repeated
    request is known, and one id for two things is refused. `previous`: the revision that it was made from, 0 for the
    first.
    """

    revision: int
    aliases: dict[str, str]
    versions: dict[str, ModelVersion] = {}
    before: dict[str, str] = {}
    rollouts: dict[str, RolloutSpec] = {}
    application: str = ""
    contract: str = ""
    retired: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    gone: bool = False
    requests: tuple[tuple[str, str], ...] = ()
    created_at: str
    nonce: str
    previous: int = 0
    format: int = FORMAT

    def target(self, alias: str) -> ModelVersion:
        """What an alias means, with what runs beside it. Raises KeyError where there is no such alias."""
        version = self.versions[self.aliases[alias]]
        spec = self.rollouts.get(alias)
        if spec is None:
            return version
        rollout = Rollout(spec.id, self.versions.get(spec.canary), spec.percent, self.versions.get(spec.shadow))
        return msgspec.structs.replace(version, rollout=rollout)


_Record = TypeVar("_Record", bound=msgspec.Struct)


def package_of(artifact: str, schema: str, transforms: str = "") -> str:
    """The name of what is loaded from this artifact with this schema and these transforms."""
    parts = f"{artifact}:{schema}:{transforms}" if transforms else f"{artifact}:{schema}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def encode_schema(schema: ModelSchema) -> bytes:
    """Canonical JSON: equal schemas give equal bytes."""
    return msgspec.json.encode(schema, order="deterministic")


def schema_digest(schema: ModelSchema) -> str:
    """Lower-case sha256 of a schema's canonical JSON."""
    return hashlib.sha256(encode_schema(schema)).hexdigest()


def encode(record: msgspec.Struct) -> bytes:
    """JSON of a record, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def decode(kind: type[_Record], data: bytes, path: str) -> _Record:
    """Parse a record. Raises ModelUnusableError, naming `path`, where it is damaged or of an unknown format."""
    try:
        record = msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ModelUnusableError(f"the record {path} in object storage is damaged: {error}") from error
    if getattr(record, "format", FORMAT) != FORMAT:
        raise ModelUnusableError(f"the record {path} has a format that is unknown here; this program knows {FORMAT}")
    return record
