"""Loads and scores admitted artifacts as a scorer does, one after another, and explains the scores where it can.

    python -m tests.fuzz.score_admitted FOLDER NAME...

For each it prints the name, then the outcome: "ok", or "unusable: why" where the engine raised what a scorer handles,
and the megabytes that the process then takes. A name without an outcome is where the process ended. Has a limit of
memory far above what one model may take.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil

from registry.errors import InvalidFeaturesError, ScoreMeshError
from registry.model import ModelSchema, Runtime
from scorer.contributions import contributions_of
from scorer.engine import LoadedModel, Rows, engine_for

ROOM_BYTES = 2 << 30
_COUNTS = (1, 2, 37, 255, 256, 1000)
_EXPLAINED = 5
ANNOTATED = ".annotated"


class Artifact(msgspec.Struct):
    """What admission said: the file lies beside it, without `.json`."""

    runtime: Runtime
    schema: ModelSchema


def _rows(schema: ModelSchema, count: int) -> list[Rows]:
    """Plain ones, and ones with every number that arithmetic dislikes."""
    generator = np.random.default_rng(count)
    shape = (count, len(schema.features))
    hostile = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-310, 2**31, -(2**63), 255.0, 1e9])
    words = ["a", "", "Oslo", "\U0001f600" * 100]
    strings = {column: [words[i % 4] for i in range(count)] for column in schema.string_columns}
    dense = [generator.standard_cauchy(shape) * 10, generator.choice(hostile, shape), np.zeros(shape, np.float32)]
    return [Rows(numbers, strings) for numbers in dense]


def _score(model: LoadedModel, schema: ModelSchema) -> None:
    for count in _COUNTS:
        for rows in _rows(schema, count):
            with contextlib.suppress(InvalidFeaturesError):  # a model of whole numbers says so
                for answer, output in zip(model.predict(rows), schema.outputs, strict=True):
                    assert answer.shape == ((count, len(output.columns)) if output.columns else (count,))


def _explain(model: LoadedModel, schema: ModelSchema) -> None:
    for rows in _rows(schema, _EXPLAINED):
        with contextlib.suppress(InvalidFeaturesError):  # XGBoost explains no infinite features
            for one in contributions_of(model, rows, schema.outputs[0]):
                assert one.values.shape == (_EXPLAINED, len(schema.features) + 1)


def _outcome(path: Path) -> str:
    told = msgspec.json.decode(path.with_name(f"{path.name}.json").read_bytes(), type=Artifact)
    annotated = path.with_name(f"{path.name}{ANNOTATED}")
    outcome = _try(path, told, _score)
    return _try(annotated, told, _explain) if outcome == "ok" and annotated.exists() else outcome


def _try(path: Path, told: Artifact, use: Callable[[LoadedModel, ModelSchema], None]) -> str:
    try:
        model = engine_for(told.runtime).load(path.read_bytes(), told.schema)
    except ScoreMeshError as error:
        return f"unusable: {error.message[:200]!r}"
    try:
        use(model, told.schema)
    except ScoreMeshError as error:
        return f"unusable: {error.message[:200]!r}"
    finally:
        model.close()
    return "ok"


def main(folder: str, *names: str) -> None:
    for runtime in Runtime:
        engine_for(runtime)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM_BYTES, taken + ROOM_BYTES))
    for name in names:
        print(name, flush=True)
        print(_outcome(Path(folder) / name), psutil.Process().memory_info().rss >> 20, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
