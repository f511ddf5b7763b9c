"""Schemas and golden rows: records to protos and back. Pure.

Contract: as for `registry.service.messages`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from registry.errors import InvalidRequestError
from registry.manifest import GoldenRows, encode_schema
from registry.model import ModelSchema, OutputKind, OutputSchema, Runtime
from scoremesh.registry.v1 import registry_pb2 as pb

DTYPES = ("", "int", "bool", "category")
# Of a contract, and of what a version may be published with.
SCHEMA_LIMIT_BYTES = 512 << 10


def to_schema(schema: ModelSchema) -> pb.Schema:
    """A schema."""
    return pb.Schema(
        features=[
            pb.Feature(name=name, dtype=schema.dtypes.get(name, ""), categories=schema.categories.get(name, ()))
            for name in schema.features
        ],
        string_columns=schema.string_columns,
        outputs=[
            pb.OutputColumn(name=output.name, kind=output.kind.value, columns=output.columns)
            for output in schema.outputs
        ],
    )


def schema_bytes(schema: ModelSchema) -> int:
    """How large a schema is, as JSON."""
    return len(encode_schema(schema))


def from_schema(schema: pb.Schema) -> ModelSchema:
    """A schema that a caller wants to be kept to."""
    features = tuple(feature.name for feature in schema.features)
    _check_distinct("features", features)
    _check_distinct("string_columns", schema.string_columns)
    _check_distinct("outputs", [output.name for output in schema.outputs])
    for feature in schema.features:
        if feature.dtype not in DTYPES or (feature.categories and feature.dtype != "category"):
            raise InvalidRequestError(f"schema: feature {feature.name!r} has a wrong dtype {feature.dtype[:80]!r}")
    return ModelSchema(
        features=features,
        outputs=tuple(_from_output(output) for output in schema.outputs),
        string_columns=tuple(schema.string_columns),
        dtypes={feature.name: feature.dtype for feature in schema.features if feature.dtype},
        categories={feature.name: tuple(feature.categories) for feature in schema.features if feature.categories},
    )


def _from_output(output: pb.OutputColumn) -> OutputSchema:
    if output.kind not in list(OutputKind):
        kinds = ", ".join(kind.value for kind in OutputKind)
        raise InvalidRequestError(f"schema: output {output.name!r} is of kind {output.kind[:80]!r}; there are {kinds}")
    return OutputSchema(output.name, OutputKind(output.kind), tuple(output.columns))


def _check_distinct(field: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            raise InvalidRequestError(f"schema.{field}: {f'{name!r} is there twice' if name else 'a name is missing'}")
        seen.add(name)


def to_golden(golden: GoldenRows) -> pb.GoldenRows:
    """Golden rows; None becomes NaN."""
    return pb.GoldenRows(
        row_count=len(golden.dense),
        dense=[_to_nan(value) for row in golden.dense for value in row],
        string_columns=[pb.StringColumn(name=name, values=values) for name, values in golden.strings.items()],
        outputs=[
            pb.GoldenOutput(name=name, values=[_to_nan(value) for value in values])
            for name, values in golden.outputs.items()
        ],
        tolerance=golden.tolerance,
    )


def from_golden(golden: pb.GoldenRows) -> GoldenRows:
    """Golden rows of a caller; numbers that aren't finite become None."""
    rows = golden.row_count
    check_amounts("golden", {"tolerance": golden.tolerance})
    if not 1 <= rows <= max(len(golden.dense), *(len(column.values) for column in golden.string_columns), 1):
        raise InvalidRequestError(f"golden.row_count: there are not {rows} rows")
    for field, length, exact in _golden_lengths(golden):
        if length % rows or (exact and length != rows):
            raise InvalidRequestError(f"golden.{field}: {length} values can't be of {rows} rows")
    width = len(golden.dense) // rows
    dense = [_to_none(value) for value in golden.dense]
    return GoldenRows(
        dense=tuple(tuple(dense[row * width : (row + 1) * width]) for row in range(rows)),
        outputs={output.name: tuple(_to_none(value) for value in output.values) for output in golden.outputs},
        strings={column.name: tuple(column.values) for column in golden.string_columns},
        tolerance=golden.tolerance,
    )


def _golden_lengths(golden: pb.GoldenRows) -> Iterable[tuple[str, int, bool]]:
    yield "dense", len(golden.dense), False
    for column in golden.string_columns:
        yield f"string_columns {column.name[:80]!r}", len(column.values), True
    for output in golden.outputs:
        yield f"outputs {output.name[:80]!r}", len(output.values), False


def _to_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _to_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def check_amounts(field: str, amounts: dict[str, float]) -> None:
    """Refuse an amount that is negative or not finite."""
    for name, value in amounts.items():
        if not (math.isfinite(value) and value >= 0):
            raise InvalidRequestError(f"{field}.{name}: {value:g} is not a finite number of at least 0")


def check_runtime(field: str, runtime: str) -> Runtime | None:
    """The runtime that a caller names; None where the file is to tell it."""
    if runtime and runtime not in list(Runtime):
        raise InvalidRequestError(f"{field}: {runtime[:80]!r} is unknown; there are {', '.join(Runtime)}")
    return Runtime(runtime) if runtime else None
