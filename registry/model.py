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


class ModelSchema(msgspec.Struct, frozen=True):
    """What goes in and what comes out. `features`: names of the numeric columns of the dense matrix, in order;
    `string_columns`: names of the text columns.
    """

    features: tuple[str, ...]
    outputs: tuple[OutputSchema, ...]
    string_columns: tuple[str, ...] = ()


class ModelVersion(msgspec.Struct, frozen=True):
    """All that a scorer must know to load and run one immutable version.

    `digest`: lower-case sha256 of the artifact. `uri`: the artifact's path inside the store. `resident_bytes`: upper
    bound of the memory that a loaded copy takes, measured when it was published.
    """

    version: str
    digest: str
    uri: str
    runtime: Runtime
    artifact_bytes: int
    resident_bytes: int
    schema: ModelSchema


class ModelRecord(msgspec.Struct, frozen=True):
    """The index entry of a model: where each alias points. `revision` counts the changes of the aliases and is the
    number of the alias record in object storage that this entry mirrors.
    """

    revision: int
    aliases: dict[str, ModelVersion]


class MemberState(StrEnum):
    """`ready`: takes work. `draining`: finishes what it has; routers choose others."""

    READY = "ready"
    DRAINING = "draining"


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
