"""What the throw-away process does to one model: check, rewrite, load, score, measure.

Contract: nothing here protects anybody; `scorer.sandbox` does. The order matters. The static check and the rewriting of
LightGBM and XGBoost models are Python and hand the result out before the engine reads a byte, so that a file that takes
over the engine can't change what scorers will load. ONNX Runtime itself optimises a graph, after the static check.

- The rewritten model and the one that was offered are both loaded and score the golden rows. LightGBM and XGBoost must
  answer the same bit for bit, as must the model with its training notes, from which contributions are computed. ONNX
  may differ by 1e-6 of the greater of 1 and the number, as fused operators round differently; where it differs by more,
  scorers get the graph as it was offered.
- Golden rows that came with the offer must get their answers within their tolerance; without them, rows are made up.
- Bytes are measured over several copies of what scorers will load, each after it has scored; the first copy also pays
  for what the engine sets up once a process, so it isn't measured. Microseconds are the best of several.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np

from registry.errors import ArtifactRejectedError, InvalidFeaturesError
from registry.manifest import GoldenRows
from registry.model import ModelSchema, Runtime
from registry.probe_wire import CONTROL, Findings, Order, Rewritten, least_resident_bytes, most_memory_bytes, names_of
from registry.transforms import TransformSpec
from scorer.contributions import contributions_of
from scorer.engine import LoadedModel, Rows, engine_for
from scorer.formats import FORMATS, Format
from scorer.golden import TOLERANCES, compare, generate, generated_count, record, to_rows
from scorer.memory import measure_load
from scorer.transforms import SharedTables, TransformedModel, compile_transform
from scorer.transforms.samples import fit_rows

_COPIES = 4
_LARGE_BYTES = 8 << 20  # one copy of a large model tells its size, and four may not fit
_REPEATS = 5
_COUNTS = (1, 64)
_MOST_ROWS = 256  # that scorers give to one run of ONNX Runtime
_RUN_BYTES = 512 << 20
_ONNX_DIFFERENCE = 1e-6


@cache
def runtime_version(runtime: Runtime) -> str:
    """Of the installed engine. Reads files at the first call. Raises ArtifactRejectedError where there is none."""
    packages = FORMATS[runtime].packages
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    raise ArtifactRejectedError(f"{runtime.value} models can't be tried here: {' or '.join(packages)} isn't installed")


def admit(data: bytes, order: Order, hand_out: Callable[[Rewritten], None], memory: int | None = None) -> Findings:
    """Try a model; `hand_out` gets the rewritten bytes as soon as they are there. `memory`: see `onnx_optimise`.

    Raises:
        ScoreMeshError: no scorer may load it.
    """
    version = runtime_version(order.runtime)
    FORMATS[order.runtime].check(data)
    room_bytes = most_memory_bytes(len(data))
    with _at_most_more(room_bytes):
        try:
            found = _admit_checked(data, order, hand_out, memory)
        except MemoryError as error:
            raise ArtifactRejectedError(f"the model wants more than {room_bytes >> 20} MiB of memory") from error
    return msgspec.structs.replace(found, runtime_version=version)


def _admit_checked(data: bytes, order: Order, hand_out: Callable[[Rewritten], None], memory: int | None) -> Findings:
    runtime, form = order.runtime, FORMATS[order.runtime]
    artifact, annotated = msgspec.structs.astuple(form.rewrite(data, memory))
    hand_out(Rewritten(artifact, annotated if annotated != artifact else b""))
    trial = _Trial(runtime, engine_for(runtime).describe(data), order.transforms)
    schema = trial.schema
    _check_names(schema)
    rows = _golden_rows(order.golden, trial, form)
    before, after = (trial.answers(some, rows) for some in (data, artifact))
    if form.is_exact:
        _require_identical(before, after)
    rewritten = form.is_exact or _near(before, after)
    golden = _golden(order.golden, rows, schema, after if rewritten else before, runtime)
    resident_bytes, predict_us = _measure(artifact if rewritten else data, trial, form)
    explains, annotated_bytes = _explains(annotated, trial, rows, after) if annotated else (False, 0)
    return Findings(schema, max(resident_bytes, annotated_bytes), predict_us, "", golden, rewritten, explains)


def _explains(annotated: bytes, trial: _Trial, rows: Rows, answers: list[np.ndarray]) -> tuple[bool, int]:
    """Whether contributions can be computed, and the bytes of a loaded copy."""
    model, taken = measure_load(lambda: trial.load(annotated))
    try:
        _require_identical(answers, model.predict(rows))
        found = contributions_of(model, trial.rows(2, missing=False), trial.schema.outputs[0])
        return all(np.isfinite(one.values).all() for one in found), taken
    finally:
        model.close()


def _check_names(schema: ModelSchema) -> None:
    bad = next(filter(CONTROL.search, names_of(schema)), None)
    if bad is not None:
        raise ArtifactRejectedError(f"the name {bad[:200]!r} of a feature or output has a control character")


class _Trial:
    """What is tried: models of an engine, behind transforms where there are some. `schema`: what callers send."""

    def __init__(self, runtime: Runtime, found: ModelSchema, transforms: TransformSpec | None) -> None:
        self.runtime = runtime
        self._transforms = transforms
        self._found = found
        self.schema = found if transforms is None else _before_transforms(found, transforms)

    def load(self, artifact: bytes) -> LoadedModel:
        """A copy that shares nothing with others, so that it's measured whole."""
        model = engine_for(self.runtime).load(artifact, self._found)
        if self._transforms is None:
            return model
        return TransformedModel(model, compile_transform(self._transforms, SharedTables()))

    def rows(self, count: int, *, missing: bool) -> Rows:
        """Made rows."""
        rows = generate(self.schema, count, missing=missing)
        return rows if self._transforms is None else fit_rows(self._transforms, rows)

    def answers(self, artifact: bytes, rows: Rows) -> list[np.ndarray]:
        """What a copy answers."""
        model = self.load(artifact)
        try:
            return model.predict(rows)
        except InvalidFeaturesError as error:
            raise ArtifactRejectedError(f"golden rows: {error.message}") from error
        finally:
            model.close()


def _before_transforms(found: ModelSchema, transforms: TransformSpec) -> ModelSchema:
    made = len(transforms.outputs)
    if found.string_columns or made != len(found.features):
        texts = f" and {len(found.string_columns)} text columns" if found.string_columns else ""
        raise ArtifactRejectedError(f"the transforms give {made} numbers, the model takes {len(found.features)}{texts}")
    return ModelSchema(transforms.features, found.outputs, transforms.string_columns)


def _golden_rows(golden: GoldenRows | None, trial: _Trial, form: Format) -> Rows:
    if golden is not None:
        return to_rows(golden, trial.schema)
    # What ONNX operators make of NaN depends on how they were fused.
    return trial.rows(generated_count(trial.schema), missing=form.takes_missing)


def _require_identical(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    if not all(np.array_equal(a.view(np.int64), b.view(np.int64)) for a, b in zip(before, after, strict=True)):
        raise ArtifactRejectedError("the model answers differently after it was rewritten")


def _near(before: list[np.ndarray], after: list[np.ndarray]) -> bool:
    return all(
        np.allclose(b, a, rtol=_ONNX_DIFFERENCE, atol=_ONNX_DIFFERENCE, equal_nan=True)
        for a, b in zip(before, after, strict=True)
    )


def _golden(
    offered: GoldenRows | None, rows: Rows, schema: ModelSchema, answers: list[np.ndarray], runtime: Runtime
) -> GoldenRows:
    if offered is None:
        return record(rows, schema, answers, TOLERANCES[runtime])
    compare(offered, schema, answers)
    return record(rows, schema, answers, max(offered.tolerance, TOLERANCES[runtime]))


def _measure(artifact: bytes, trial: _Trial, form: Format) -> tuple[int, dict[str, float]]:
    """(bytes of one copy, microseconds of a predict by its number of rows)."""
    batches = {str(count): trial.rows(count, missing=False) for count in _COUNTS}

    def load_and_run() -> LoadedModel:
        model = trial.load(artifact)
        for rows in batches.values():
            model.predict(rows)
        return model

    models = [load_and_run()]
    try:
        if form.has_large_runs:
            _try_most_rows(models[0], trial)
        copies = [measure_load(load_and_run) for _ in range(_COPIES if len(artifact) < _LARGE_BYTES else 1)]
        models += [model for model, _ in copies]
        predict_us = {count: _best_us(models[0], rows) for count, rows in batches.items()}
        taken_bytes = max(models[0].resident_bytes, *(taken for _, taken in copies))
        return max(taken_bytes, least_resident_bytes(len(artifact))), predict_us
    finally:
        for model in models:
            model.close()


def _best_us(model: LoadedModel, rows: Rows) -> float:
    taken = []
    for _ in range(_REPEATS):
        began = perf_counter()
        model.predict(rows)
        taken.append(perf_counter() - began)
    return round(min(taken) * 1e6, 2)


def _try_most_rows(model: LoadedModel, trial: _Trial) -> None:
    """A graph may be small and yet make large tensors; what it takes for the most rows of one run bounds every run."""
    rows = trial.rows(_MOST_ROWS, missing=False)
    with _at_most_more(_RUN_BYTES):
        try:
            model.predict(rows)
        except Exception as error:  # of memory, by whatever name the engine gives it: 64 rows went well
            raise ArtifactRejectedError(
                f"the model can't score {_MOST_ROWS} rows with {_RUN_BYTES >> 20} MiB of memory"
            ) from error


@contextmanager
def _at_most_more(room_bytes: int) -> Iterator[None]:
    """Let this process take at most so much more address space meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted = taken + room_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if soft == resource.RLIM_INFINITY else min(wanted, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
