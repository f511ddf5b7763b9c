"""Golden rows: rows with known answers, made from a schema, scored, compared. Pure.

Contract: what `record` notes of a model's answers passes `compare` against the same answers, and against no answer that
differs by more than the tolerance. Rows made for a schema are the same at each run, so that a published model has the
same golden rows wherever it is admitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from registry.errors import ArtifactRejectedError
from registry.manifest import GoldenRows
from registry.model import ModelSchema, OutputSchema, Runtime
from registry.probe_wire import MOST_GOLDEN_ROWS
from scorer.engine import Rows

# Another version of an engine, or another CPU, may compute the last digits differently: LightGBM in float64, XGBoost
# and most ONNX graphs in float32.
TOLERANCES = {Runtime.LIGHTGBM: 1e-9, Runtime.XGBOOST: 1e-6, Runtime.ONNX: 1e-5}

_GENERATED_ROWS = 8
_GENERATED_NUMBERS = 4096  # the rows of a wide model are fewer, so that its manifest stays small
_TEXTS = ("a", "", "B c", "\N{LATIN SMALL LETTER E WITH ACUTE}", "0", "a long text of several words, with a comma")
_CODES = 10


def generate(schema: ModelSchema, count: int, *, missing: bool) -> Rows:
    """Rows of float64 with numbers of many magnitudes, so that different branches of a tree are taken, and codes and
    texts of the model's own categories. `missing`: some numbers are NaN, in every other row.
    """
    generator = np.random.default_rng(0)
    dense = _rounded(generator.standard_cauchy(size=(count, len(schema.features))) * 10)
    if missing:
        dense[1::2][generator.random(dense[1::2].shape) < 0.1] = np.nan
    for place, name in enumerate(schema.features):
        if name in schema.dtypes:
            dense[:, place] = _typed(generator, schema, name, dense[:, place])
    strings = {column: _texts(schema, column, count) for column in schema.string_columns}
    return Rows(np.ascontiguousarray(dense), strings)


def generated_count(schema: ModelSchema) -> int:
    """How many golden rows a model gets that was published without."""
    return max(1, min(_GENERATED_ROWS, _GENERATED_NUMBERS // max(1, len(schema.features))))


def _rounded(values: np.ndarray) -> np.ndarray:
    """To three digits: short in a manifest, and different enough."""
    size = 10.0 ** (np.floor(np.log10(np.abs(values) + 1e-9)) - 2)
    return np.asarray(np.round(np.round(values / size) * size, 12))


def _typed(generator: np.random.Generator, schema: ModelSchema, name: str, values: np.ndarray) -> np.ndarray:
    dtype, codes = schema.dtypes[name], len(schema.categories.get(name, ())) or _CODES
    if dtype == "int":
        return np.asarray(np.clip(np.trunc(np.nan_to_num(values)), -(2**31), 2**31 - 1))
    if dtype in {"bool", "category"}:
        return generator.integers(0, 2 if dtype == "bool" else codes, len(values)).astype(np.float64)
    return values


def _texts(schema: ModelSchema, column: str, count: int) -> list[str]:
    known = schema.categories.get(column) or _TEXTS
    return [known[row % len(known)] for row in range(count)]


def to_rows(golden: GoldenRows, schema: ModelSchema) -> Rows:
    """The rows as a model takes them; NaN where a value is missing.

    Raises:
        ArtifactRejectedError: they aren't rows of such a model; the text says what is wrong.
    """
    count = len(golden.dense)
    if not 1 <= count <= MOST_GOLDEN_ROWS:
        raise ArtifactRejectedError(f"there are {count} golden rows, wanted 1-{MOST_GOLDEN_ROWS}")
    for number, row in enumerate(golden.dense, 1):
        if len(row) != len(schema.features):
            raise ArtifactRejectedError(
                f"golden row {number} has {len(row)} numbers, the model has {len(schema.features)} features"
            )
    for column in schema.string_columns:
        if len(golden.strings.get(column, ())) != count:
            got = len(golden.strings.get(column, ()))
            raise ArtifactRejectedError(f"text column {column!r} of the golden rows has {got} values, wanted {count}")
    dense = [[math.nan if value is None else value for value in row] for row in golden.dense]
    return Rows(np.array(dense, np.float64).reshape(count, len(schema.features)), golden.strings)


def record(rows: Rows, schema: ModelSchema, answers: Sequence[np.ndarray], tolerance: float) -> GoldenRows:
    """The rows and what a model answered to them, in the order of the schema's outputs."""
    return GoldenRows(
        dense=tuple(tuple(map(_finite, row)) for row in rows.dense.tolist()),
        outputs={
            output.name: tuple(map(_finite, answer.ravel().tolist()))
            for output, answer in zip(schema.outputs, answers, strict=True)
        },
        strings={column: tuple(rows.strings[column]) for column in schema.string_columns},
        tolerance=tolerance,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def compare(golden: GoldenRows, schema: ModelSchema, answers: Sequence[np.ndarray]) -> None:
    """Compare a model's answers to golden rows with those that they name; `answers` is as `LoadedModel.predict` gives
    it. Two numbers agree that differ by at most the tolerance, plus as much of the expected one.

    Raises:
        ArtifactRejectedError: names the first row and output that differ, and both numbers.
    """
    found = {output.name: (output, answer) for output, answer in zip(schema.outputs, answers, strict=True)}
    faults = [_first_fault(golden, name, *_known(found, name)) for name in golden.outputs]
    first = min((fault for fault in faults if fault is not None), default=None)
    if first is not None:
        raise ArtifactRejectedError(first[1])


def _known(found: dict[str, tuple[OutputSchema, np.ndarray]], name: str) -> tuple[OutputSchema, np.ndarray]:
    if name not in found:
        raise ArtifactRejectedError(f"the golden rows name output {name!r}; the model has {', '.join(found)}")
    return found[name]


def _first_fault(golden: GoldenRows, name: str, output: OutputSchema, answer: np.ndarray) -> tuple[int, str] | None:
    """(row, what differs there), or None."""
    numbers = golden.outputs[name]
    if len(numbers) != answer.size:
        raise ArtifactRejectedError(
            f"output {name!r} of the golden rows has {len(numbers)} numbers, the model gives {answer.size}"
        )
    expected = np.array([math.nan if number is None else number for number in numbers], np.float64)
    got = answer.ravel()
    both = np.isfinite(expected) & np.isfinite(got)
    with np.errstate(invalid="ignore"):
        near = np.abs(got - expected) <= golden.tolerance * (1 + np.abs(expected))
    agree = np.where(both, near, ~np.isfinite(expected) & ~np.isfinite(got))
    if agree.all():
        return None
    place = int(np.argmin(agree))
    row, column = divmod(place, max(1, len(output.columns)))
    named = f"output {name}, column {output.columns[column]}" if output.columns else f"output {name}"
    wanted = "no finite number" if numbers[place] is None else f"{numbers[place]:.9g}"
    return row, f"golden row {row + 1}, {named}: expected {wanted}, got {got[place]:.9g}"
