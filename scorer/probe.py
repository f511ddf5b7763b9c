"""Loads a file offered for publishing, in a process that may die: `python -m scorer.probe RUNTIME PATH`.

Contract: prints one line of JSON on standard output, {"probed": {...}} or {"refused": "why"}; see `registry.probing`,
which starts it and explains every other end of it. The limits are set before the file is read. The engine's own output
never reaches standard output.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from registry.errors import ScoreMeshError
from registry.lightgbm_text import check_lightgbm_text
from registry.model import ModelSchema, Runtime
from registry.onnx_graph import check_onnx
from scorer.engine import Engine, LoadedModel, Rows, engine_for
from scorer.memory import measure_load

_CHECKS = {Runtime.LIGHTGBM: check_lightgbm_text, Runtime.ONNX: check_onnx}
_ADDRESS_SPACE_BYTES = 4 << 30
_CPU_S = 60
_COPIES = 4
_REPEATS = 5


def limit_resources() -> None:
    """Bound what the engine can take: address space, CPU time, no core dump, no file written."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def probe(artifact: bytes, runtime: Runtime) -> dict[str, object]:
    """Schema, bytes a copy and microseconds a predict; see `registry.probing.Probed`.

    Raises:
        ScoreMeshError: the file is refused.
    """
    _CHECKS[runtime](artifact)
    engine = engine_for(runtime)
    schema = engine.describe(artifact)
    predict_us: dict[str, float] = {}
    # The first copy also pays for what the engine sets up once a process, so it is not measured.
    warm = _load_and_run(engine, artifact, schema, predict_us)
    copies = [measure_load(lambda: _load_and_run(engine, artifact, schema, {})) for _ in range(_COPIES)]
    measured = max(taken for _, taken in copies)
    resident_bytes = max(measured, warm.resident_bytes)
    for model in (warm, *(model for model, _ in copies)):
        model.close()
    return {"schema": schema, "resident_bytes": resident_bytes, "predict_us": predict_us}


def _load_and_run(engine: Engine, artifact: bytes, schema: ModelSchema, predict_us: dict[str, float]) -> LoadedModel:
    model = engine.load(artifact, schema)
    for count in (1, 64):
        rows = _some_rows(schema, count)
        predict_us[str(count)] = min(_timed_us(model, rows) for _ in range(_REPEATS))
    return model


def _some_rows(schema: ModelSchema, count: int) -> Rows:
    """Rows of many magnitudes, so that different branches of a tree are taken; the same at each run."""
    generator = np.random.default_rng(0)
    dense = generator.standard_cauchy(size=(count, len(schema.features))) * 10
    return Rows(dense, {column: ["a"] * count for column in schema.string_columns})


def _timed_us(model: LoadedModel, rows: Rows) -> float:
    start = time.perf_counter()
    model.predict(rows)
    return (time.perf_counter() - start) * 1e6


def main(runtime: str, path: str) -> None:
    """Probe one file and print the outcome."""
    limit_resources()
    answer = os.dup(1)
    os.dup2(2, 1)
    outcome: dict[str, object]
    try:
        outcome = {"probed": probe(Path(path).read_bytes(), Runtime(runtime))}
    except ScoreMeshError as error:
        outcome = {"refused": error.message}
    except MemoryError:
        outcome = {"refused": f"the model wants more than {_ADDRESS_SPACE_BYTES >> 30} GiB of memory"}
    with os.fdopen(answer, "wb") as output:
        output.write(msgspec.json.encode(outcome) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
