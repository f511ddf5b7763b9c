"""The vocabulary: what a model, a version and a member are. Pure; imports no IO.

All records are frozen `msgspec.Struct`s: cheap to build, compared by value, and encoded to JSON at the edges
(`registry.keys` for etcd, `registry.manifest` for object storage). Unknown fields are ignored on decoding, so that an
older reader survives a newer writer.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

import msgspec

from registry.errors import InvalidRequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LIVE = "live"
DEFAULT_POOL = "default"


def check_name(what: str, value: str) -> str:
    """Return `value` if it may name a tenant, model, version, alias or member.

    Raises:
        InvalidRequestError: it is empty, longer than 128 bytes or has a character outside `A-Z a-z 0-9 . _ -`.
    """
    if not value:
        raise InvalidRequestError(f"{what} is missing")
    if not _NAME.fullmatch(value):
        raise InvalidRequestError(
            f"{what} {value[:140]!r} is not a valid name: 1-128 of A-Z a-z 0-9 . _ -, the first one a letter or digit"
        )
    return value


class ModelRef(NamedTuple):
    """A model: whose it is and what it is called. Placement depends on nothing else, so that a new version of a model
    lands where the old one is warm.
    """

    tenant: str
    model: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.model}"


class Runtime(StrEnum):
    """The engine that a model needs; the first part of a pool's name."""

    LIGHTGBM = "lightgbm"
    ONNX = "onnx"
    XGBOOST = "xgboost"


class OutputKind(StrEnum):
    """The type of a model's output; see `scoremesh.scoring.v1.Output`."""

    CLASS_PROBABILITIES = "class_probabilities"
    REGRESSION = "regression"
    MULTI_OUTPUT = "multi_output"
    RANKING = "ranking"


class OutputSchema(msgspec.Struct, frozen=True):
    """One output. `columns`: class labels or column names; empty for one number a row."""

    name: str
    kind: OutputKind
    columns: tuple[str, ...] = ()


class ModelSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes in and what comes out. `features`: names of the columns of the dense matrix, in order. `dtypes`: what
    those that aren't plain numbers hold ("int", "bool", "category"), by name. `categories`: the values of a
    categorical feature, by name, in the order of their codes. `string_columns`: names of the text columns.
    """

    features: tuple[str, ...]
    outputs: tuple[OutputSchema, ...]
    string_columns: tuple[str, ...] = ()
    dtypes: dict[str, str] = {}
    categories: dict[str, tuple[str, ...]] = {}


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """What runs beside an alias's version. `id`: differs for each rollout, and seeds the split. `canary`: answers
    `percent` of the entities instead. `shadow`: scores what the alias's version scored too, and answers nobody.
    """

    id: str
    canary: ModelVersion | None = None
    percent: float = 0.0
    shadow: ModelVersion | None = None


class ModelVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a scorer must know to load and run one immutable version; small, as etcd holds one for each alias.

    `package`: names what is loaded; versions with the same one are the same in memory. `tenant`: whose folder of the
    store has it, which is another's where a shared model is used. `artifact`, `schema`: lower-case sha256 of the bytes
    that the engine loads and of the ModelSchema's JSON. `resident_bytes`: upper bound of the memory that a loaded copy
    takes, measured when it was published. `transforms`: lower-case sha256 of the JSON of its transforms,
    "" for a model that takes features as they come. `rollout`: what runs beside it, where an alias means it.
    """

    version: str
    package: str
    tenant: str
    artifact: str
    schema: str
    runtime: Runtime
    artifact_bytes: int
    resident_bytes: int
    rollout: Rollout | None = None
    transforms: str = ""


class ModelRecord(msgspec.Struct, frozen=True):
    """The index entry of a model: where each alias points. `revision` counts the changes of the model and is the
    number of the record in object storage that this entry mirrors.
    """

    revision: int
    aliases: dict[str, ModelVersion]


class TenantRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A tenant's settings; 0 means the cluster's default, or no limit. `revision`: counts the changes. `shard_size`:
    the members that its models may be on. `requests_per_s`, `concurrency`: its quota over the whole cluster.
    `guaranteed_bytes`, `max_bytes`: memory for models on each scorer that is always its own, and that it may have at
    most. `premium`: its shard overlaps those of other premium tenants as little as can be. `dedicated_pool`: the pool
    of scorers that serves it and nobody else, "" for none. `hedge`: what takes long is also sent to a second member
    that is warm. `deleting`: its deletion has begun. `request_id`: of the last change, "" for one without.
    """

    tenant: str
    revision: int = 0
    shard_size: int = 0
    requests_per_s: float = 0.0
    concurrency: int = 0
    guaranteed_bytes: int = 0
    max_bytes: int = 0
    premium: bool = False
    dedicated_pool: str = ""
    hedge: bool = False
    deleting: bool = False
    request_id: str = ""
    created_at: str = ""
    nonce: str = ""


class PlacementRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How models are placed, the same in every process of a cluster. `replicas`: members that own a model.
    `shard_size`: members of a tenant that has no size of its own; 0: all. `refill_after_s`: how long a dead member's
    places stay empty.
    """

    replicas: int = 2
    shard_size: int = 4
    refill_after_s: float = 60.0


class ApplicationRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the models of one application have in common. `revision`: counts the changes. `pool`: the scorers that run
    them, "" for each runtime's own. `contract`: the schema that they all keep to. `shared`: who answers for a tenant
    that has no model of the application's name. `request_id`: of the last change, "" for one without.
    """

    application: str
    revision: int = 0
    pool: str = ""
    contract: ModelSchema | None = None
    shared: ModelRef | None = None
    deleted: bool = False
    request_id: str = ""
    created_at: str = ""
    nonce: str = ""


class QuarantineRecord(msgspec.Struct, frozen=True):
    """A package that no scorer may load: why, who said so, from when until when (RFC 3339, UTC; "" for no end)."""

    package: str
    reason: str
    by: str
    since: str
    until: str = ""
    tenant: str = ""
    model: str = ""
    version: str = ""


class MemberState(StrEnum):
    """`warming`: loads what it will own; no router chooses it yet. `ready`: takes work. `leaving`: takes work until
    others have loaded what it has. `draining`: finishes what it has; routers choose others. `down`: said of one that
    died and whose places are kept for a while; nobody announces it of himself.
    """

    WARMING = "warming"
    READY = "ready"
    LEAVING = "leaving"
    DRAINING = "draining"
    DOWN = "down"


class Member(msgspec.Struct, frozen=True):
    """One scorer process, announced under a lease. `incarnation` differs at each start, so that a restarted process
    under an old id is seen as new. `capacity_bytes`: its memory for models; the weight in placement.
    """

    id: str
    address: str
    host: str
    zone: str
    pool: str
    capacity_bytes: int
    incarnation: str
    state: MemberState = MemberState.READY
