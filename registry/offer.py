"""A file offered for publishing, read once, and what admission says of it.

Contract: what is admitted is what is stored: the bytes are read once, whatever happens to the file meanwhile. Nothing
here loads a model in this process.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from registry.detect import detect_runtime
from registry.errors import ArtifactRejectedError
from registry.manifest import GoldenRows
from registry.model import ModelSchema, Runtime
from registry.transform_check import parse_spec
from registry.transform_tables import split_tables
from registry.transforms import TransformSpec, spec_digest

_HEAD_BYTES = 64


class Admitted(NamedTuple):
    """What admission made and found. `artifact`: the bytes that scorers load, which may be the offered ones.
    `annotated`: the model with what contributions are computed from, empty where it hasn't that; may be the artifact.
    `resident_bytes`: upper bound of what one loaded copy takes. `predict_us`: microseconds of one predict with so many
    rows (the keys, "1" and "64"), best of several. `golden`: rows with the answers that the artifact gives: those
    offered, else some of its own.
    """

    artifact: bytes
    schema: ModelSchema
    resident_bytes: int
    predict_us: dict[str, float]
    runtime_version: str = ""
    golden: GoldenRows | None = None
    annotated: bytes = b""


class Offer(NamedTuple):
    """The bytes of a model file, their lower-case sha256, the engine that they are for, and what they are to answer.
    `transforms`: what is done to features before them, with its tables in it.
    """

    data: bytes
    digest: str
    runtime: Runtime
    golden: GoldenRows | None = None
    transforms: TransformSpec | None = None


# Tries an offer out where it can do no harm. Raises ArtifactRejectedError when no scorer may load it.
Admit = Callable[[Offer], Awaitable[Admitted]]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher says of a version besides the file; see `registry.manifest.Manifest`. `allow_breaking`: the
    version may break the contract, and makes a new one.
    """

    application: str = ""
    labels: dict[str, str] = {}
    training: dict[str, str] = {}
    transforms: msgspec.Raw = msgspec.Raw(b"null")
    signature: str = ""
    golden: GoldenRows | None = None
    allow_breaking: bool = False


NO_FACTS = Facts()


async def read_offer(path: Path, runtime: Runtime | None, limit_bytes: int, facts: Facts = NO_FACTS) -> Offer:
    """Read a file; without `runtime` its first bytes tell the engine.

    Raises:
        ArtifactRejectedError: it can't be read, is larger than `limit_bytes`, or is no model file; or its transforms
            aren't what they should be.
    """
    transforms = read_transforms(facts)
    data = await asyncio.to_thread(_read, path, limit_bytes)
    runtime = runtime or detect_runtime(data[:_HEAD_BYTES])
    digest = await asyncio.to_thread(sha256, data)
    return Offer(data, digest, runtime, facts.golden, transforms)


def read_transforms(facts: Facts) -> TransformSpec | None:
    """The transforms that a publisher gives, checked. Raises ArtifactRejectedError."""
    data = bytes(facts.transforms)
    return None if data == b"null" else parse_spec(data)


def split_digest(offer: Offer) -> str:
    """Lower-case sha256 of an offer's transforms, as they are stored; "" where it has none."""
    return "" if offer.transforms is None else spec_digest(split_tables(offer.transforms)[0])


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise ArtifactRejectedError(f"can't read {path}: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise ArtifactRejectedError(f"{path} is larger than the limit of {limit_bytes} bytes")
    return data
