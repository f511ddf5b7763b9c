"""A model's versions, as lists and the model itself show them: no more than one message can hold.

Contract: a version that goes away meanwhile, or whose record is damaged, is left out; the log tells of the latter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from registry.layout import version_order
from registry.library import Library, state_of
from registry.manifest import AliasRecord
from registry.model import ModelRef
from registry.service.messages import to_registered, to_version
from registry.service.pages import LIMIT_BYTES
from registry.service.schemas import to_schema
from registry.service.work import or_none, read_each
from scoremesh.registry.v1 import registry_pb2 as pb

NEWEST = 200
_NEWEST_WITH_SCHEMA = 20
_WITHOUT_SCHEMAS_BYTES = 2 << 20  # the rest of a message is for schemas
_FRAME_BYTES = 16  # at most, around a message within a message


class Listed(NamedTuple):
    """A version, and the digest of its schema, "" for one that is registered only."""

    version: pb.Version
    schema: str


async def names_of_versions(library: Library, ref: ModelRef) -> list[str]:
    """All versions that were published or registered, in their order."""
    published, registered = await asyncio.gather(library.list_versions(ref), library.list_registered(ref))
    return sorted({*published, *registered}, key=version_order)


async def read_versions(
    library: Library, ref: ModelRef, record: AliasRecord, names: Iterable[str]
) -> list[Listed | None]:
    """These versions, without schemas; None for one that is left out."""

    async def read(name: str) -> Listed | None:
        manifest = await library.find_manifest(ref, name)
        if manifest is not None:
            return Listed(to_version(manifest, state_of(record, name)), manifest.schema)
        found = await library.find_registration(ref, name)
        return Listed(to_registered(ref, found), "") if found is not None else None

    return await read_each(or_none(read), names)


async def newest_versions(
    library: Library, ref: ModelRef, record: AliasRecord, names: Sequence[str]
) -> list[pb.Version]:
    """The newest of these versions, which are in their order; with the schemas of those that an alias or a rollout
    means and of the newest few. What doesn't fit is left out, older versions and their schemas first.
    """
    newest = names[: -NEWEST - 1 : -1]
    shown: dict[str, Listed] = {}
    left_bytes = _WITHOUT_SCHEMAS_BYTES
    for name, listed in zip(newest, await read_versions(library, ref, record, newest), strict=True):
        if listed is None:
            continue
        left_bytes -= listed.version.ByteSize() + _FRAME_BYTES
        if left_bytes < 0:
            break
        shown[name] = listed
    telling = dict.fromkeys([*(name for name in shown if name in record.versions), *newest[:_NEWEST_WITH_SCHEMA]])
    left_bytes = LIMIT_BYTES - sum(listed.version.ByteSize() + _FRAME_BYTES for listed in shown.values())
    await _add_schemas(library, ref, [shown[name] for name in telling if name in shown], left_bytes)
    return [listed.version for listed in reversed(shown.values())]


async def _add_schemas(library: Library, ref: ModelRef, listed: Sequence[Listed], left_bytes: int) -> None:
    """Give versions their schemas, in this order, as far as they fit."""

    async def read(digest: str) -> pb.Schema | None:
        return to_schema(await library.read_schema(ref.tenant, digest))

    digests = list(dict.fromkeys(each.schema for each in listed if each.schema))  # mostly one, of all of them
    schemas = dict(zip(digests, await read_each(or_none(read), digests), strict=True))
    for version, digest in listed:
        schema = schemas.get(digest)
        if schema is None:
            continue
        left_bytes -= schema.ByteSize() + _FRAME_BYTES
        if left_bytes < 0:
            return
        version.schema.CopyFrom(schema)
