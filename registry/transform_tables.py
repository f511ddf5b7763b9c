"""The long lists of transform specs, taken out and put in again. Pure.

The models of one application mostly differ in their trees and not in their vocabularies. So long lists are stored by
their content, once for all specs of a tenant that have them, and held once in a scorer's memory.

Invariant: `join_tables` of what `split_tables` gave is the spec again, and a table's digest is that of its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import msgspec

from registry.errors import ModelUnusableError
from registry.transforms import AnyStep, Table, TransformSpec

# A shorter list is no longer than what would stand for it.
_LEAST_BYTES = 200
_FIELDS = ("categories", "infrequent", "edges", "vocabulary", "idf")
_LISTS = msgspec.json.Decoder(tuple[str | float, ...])


def split_tables(spec: TransformSpec) -> tuple[TransformSpec, dict[str, bytes]]:
    """The spec with its long lists named by their digests, and these lists, as JSON, by digest."""
    tables: dict[str, bytes] = {}

    def split(step: AnyStep) -> AnyStep:
        changed: dict[str, Table] = {}
        for name in _FIELDS:
            values = getattr(step, name, ())
            data = msgspec.json.encode(values)
            if not isinstance(values, Table) and len(data) >= _LEAST_BYTES:
                digest = hashlib.sha256(data).hexdigest()
                tables[digest] = data
                changed[name] = Table(digest)
        return msgspec.structs.replace(step, **changed) if changed else step

    columns = tuple(
        msgspec.structs.replace(column, outputs=column.outputs, steps=tuple(map(split, column.steps)))
        for column in spec.columns
    )
    return msgspec.structs.replace(spec, columns=columns), tables


def join_tables(spec: TransformSpec, tables: Mapping[str, tuple[str | float, ...]]) -> TransformSpec:
    """The spec with the lists put in. Raises KeyError where one is missing."""

    def join(step: AnyStep) -> AnyStep:
        named = {name: getattr(step, name) for name in _FIELDS if isinstance(getattr(step, name, None), Table)}
        return msgspec.structs.replace(step, **{name: tables[value.table] for name, value in named.items()})

    columns = tuple(msgspec.structs.replace(column, steps=tuple(map(join, column.steps))) for column in spec.columns)
    return msgspec.structs.replace(spec, columns=columns)


def table_digests(spec: TransformSpec) -> Iterator[str]:
    """The tables that a spec names."""
    for column in spec.columns:
        for step in column.steps:
            for name in _FIELDS:
                value = getattr(step, name, None)
                if isinstance(value, Table):
                    yield value.table


def decode_table(data: bytes) -> tuple[str | float, ...]:
    """A list from its bytes. Raises ModelUnusableError."""
    try:
        return _LISTS.decode(data)
    except msgspec.DecodeError as error:
        raise ModelUnusableError(f"a table of transforms in object storage is damaged: {error}") from error
