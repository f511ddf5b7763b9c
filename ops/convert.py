"""Models of scikit-learn, and of XGBoost if that is wanted, become ONNX on the machine of the one who publishes them.

Contract: what is converted is compared, on sample rows, with what the original library answers, through the engine
that scorers use; a difference that single precision doesn't explain is a refusal. The same file gives the same ONNX
bytes, so that publishing it twice is publishing it once. Some of the rows go along as golden rows, with the original's
answers.

Sizes of differences: ONNX computes in single precision, so 1e-4 of an output's size is allowed for sums over many trees
or weights; a row that a split sends to another side differs by far more.
"""

from __future__ import annotations

import zipfile
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import typer

from ops.convert_draft import Draft, require
from ops.sample_rows import SampleRows, make_rows
from registry.errors import ArtifactRejectedError, InvalidFeaturesError, ModelUnusableError
from registry.manifest import GoldenRows
from registry.model import ModelSchema, OutputKind, Runtime
from registry.offer import sha256
from registry.onnx_graph import check_onnx
from registry.transforms import TransformSpec
from scorer.engine import LoadedModel, Rows, engine_for
from scorer.transforms import SharedTables, TransformedModel, compile_transform
from scorer.transforms.samples import fit_rows

LARGEST_DIFFERENCE = 1e-4
_LEAST_TOLERANCE = 1e-5
_GOLDEN_ROWS = 8
_HEAD_BYTES = 32
_WHY = (
    "Single precision can do this to rows that lie on a threshold of a split: train on float32 numbers, or round the "
    "features, so that thresholds lie between them. Many differing rows mean that the converter gets this model wrong"
)
_MADE_HINT = ". Made rows may be unlike any that it will see: compare on real ones with --sample"


class Source(StrEnum):
    """What a file that needs conversion is."""

    XGBOOST = "xgboost"
    PICKLE = "pickle"
    SKOPS = "skops"


class Converted(NamedTuple):
    """`data`: a file of `runtime`. `golden`: rows with the original's answers. `training`: what it was made from and
    with. `worst_difference`: the greatest one on the sample rows, as a part of the output's size. `transforms`: what is
    before it.
    """

    data: bytes
    golden: GoldenRows
    training: dict[str, str]
    worst_difference: float
    runtime: Runtime = Runtime.ONNX
    transforms: TransformSpec | None = None


class _Worst(NamedTuple):
    difference: float
    row: int
    column: int


# Plain, and as joblib compresses: zlib at its levels, gzip, bzip2, xz, lzma.
_PICKLES = (b"\x80", b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00\x00")


def convertible(path: Path) -> Source | None:
    """What a file is to be converted from, by its first bytes; None where it needs no conversion, or is no model.

    Raises:
        ArtifactRejectedError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ArtifactRejectedError(f"can't read {path}: {error.strerror}") from error
    if head.startswith(b"{"):  # JSON, and UBJSON too
        return Source.XGBOOST
    if head.startswith(_PICKLES):
        return Source.PICKLE
    return Source.SKOPS if head.startswith(b"PK") and _is_skops(path) else None


def _is_skops(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "schema.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def convert(path: Path, sample: SampleRows | None) -> Converted:
    """Convert a file that is `convertible`, and compare it on `sample`, or on rows made from what the model knows.

    Raises:
        ArtifactRejectedError: it can't be converted, or the converted model answers otherwise; the text says how.
    """
    source = convertible(path)
    if source is None:
        raise ArtifactRejectedError(f"{path} is no model of XGBoost or scikit-learn")
    require("onnx")
    draft = _draft(path, source)
    if draft.runtime is Runtime.ONNX:
        check_onnx(draft.data)
    rows = sample.select(draft.columns) if sample else make_rows(draft.columns)
    if draft.transforms is not None and sample is None:
        rows = fit_rows(draft.transforms, rows)
    want, schema, got = draft.predict(rows), *_score(draft, rows)
    worst = _compare(want, got, schema, is_made=sample is None)
    training = draft.training | {"converted_from_sha256": sha256(path.read_bytes())}
    golden = _golden(rows, want, got, schema)
    return Converted(draft.data, golden, training, worst.difference, draft.runtime, draft.transforms)


def _draft(path: Path, source: Source) -> Draft:
    from ops import convert_sklearn, convert_xgboost

    if source is Source.PICKLE:
        typer.echo(f"reading {path} runs the code in it: it is a pickle", err=True)
        return convert_sklearn.load_pickle(path)
    load = convert_xgboost.load_xgboost if source is Source.XGBOOST else convert_sklearn.load_skops
    return load(path.read_bytes())


def _score(draft: Draft, rows: Rows) -> tuple[ModelSchema, np.ndarray]:
    """What a scorer makes of the converted model, and answers."""
    engine = engine_for(draft.runtime)
    schema = engine.describe(draft.data)
    try:
        model: LoadedModel = engine.load(draft.data, schema)
        if draft.transforms is not None:
            model = TransformedModel(model, compile_transform(draft.transforms, SharedTables()))
        try:
            return schema, model.predict(rows)[0]
        finally:
            model.close()
    except (ModelUnusableError, InvalidFeaturesError) as error:
        raise ArtifactRejectedError(f"a scorer can't run the converted model: {error.message}") from error


def _compare(want: np.ndarray, got: np.ndarray, schema: ModelSchema, *, is_made: bool) -> _Worst:
    """The greatest difference. Raises ArtifactRejectedError where it is too great."""
    if want.size != got.size:
        raise ArtifactRejectedError(f"the converted model answers {got.shape}, the original {want.shape}")
    want, got = want.reshape(len(got), -1), got.reshape(len(got), -1)
    output = schema.outputs[0]
    off = _differences(want, got, output.kind)
    row, column = (int(place) for place in np.unravel_index(np.argmax(off), off.shape))
    worst = _Worst(float(off[row, column]), row, column)
    if worst.difference <= LARGEST_DIFFERENCE:
        return worst
    name = f"{output.name} {output.columns[column]!r}" if output.columns else output.name
    rows = f"{(off > LARGEST_DIFFERENCE).any(axis=1).sum()} of {len(want)} {'made' if is_made else 'sample'} rows"
    raise ArtifactRejectedError(
        f"the converted model differs in {rows}, most in row {row}, output {name}: the original answers "
        f"{want[row, column]:.9g}, ONNX {got[row, column]:.9g}. {_WHY}{_MADE_HINT if is_made else ''}"
    )


def _differences(want: np.ndarray, got: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Each difference as a part of the greatest number of its output; of a probability as it is."""
    same = (want == got) | (np.isnan(want) & np.isnan(got))
    size = np.max(np.abs(want), axis=0, where=np.isfinite(want), initial=np.finfo(np.float32).tiny)
    size = 1.0 if kind is OutputKind.CLASS_PROBABILITIES else size
    with np.errstate(invalid="ignore"):
        off = np.abs(want - got) / size
    return np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))


def _golden(rows: Rows, want: np.ndarray, got: np.ndarray, schema: ModelSchema) -> GoldenRows:
    """Rows from all over the sample. The tolerance allows four times the difference that is measured here, so that
    another version of the runtime may add up in another order.
    """
    count = len(want)
    chosen = sorted({count * number // _GOLDEN_ROWS for number in range(_GOLDEN_ROWS)})
    want, got = want.reshape(count, -1)[chosen], got.reshape(count, -1)[chosen]
    finite = np.isfinite(want) & np.isfinite(got)
    sizes = np.maximum(1.0, np.abs(want[finite]))
    measured = float(np.max(np.abs(want[finite] - got[finite]) / sizes, initial=0.0))
    scale = min(1.0, float(np.max(np.abs(want[finite]), initial=0.0)))
    return GoldenRows(
        dense=tuple(_optional(row) for row in rows.dense[chosen]),
        outputs={schema.outputs[0].name: _optional(want.ravel())},
        strings={name: tuple(values[place] for place in chosen) for name, values in rows.strings.items()},
        tolerance=max(_LEAST_TOLERANCE * scale, 4 * measured),
    )


def _optional(numbers: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(number) if np.isfinite(number) else None for number in numbers)
