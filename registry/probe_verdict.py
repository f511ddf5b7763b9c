"""What the end of a throw-away process says about the model that it tried. Pure.

Contract: whatever it wrote and however it ended, the verdict is an `Admitted` or an ArtifactRejectedError that says
what happened. The answer of such a process is bounded before it is read, and checked for its form and for what can't
be. A LightGBM or XGBoost model that was written anew leaves it before native code reads the file, so a file that takes
over the engine may lie about what was found, but can't change what scorers load. Of an ONNX model it may change the
optimised graph too; what that can do in a scorer, the original could.
"""

from __future__ import annotations

import math
import signal
from typing import NamedTuple

from registry.errors import ArtifactRejectedError
from registry.model import ModelSchema, Runtime
from registry.offer import Admitted, Offer
from registry.probe_wire import (
    CONTROL,
    MOST_REASON,
    OUT_OF_TIME,
    TOO_TALKATIVE,
    Findings,
    Refused,
    least_resident_bytes,
    most_answer_bytes,
    most_memory_bytes,
    names_of,
    read_answer,
)

CPU_SHARE = 2 / 3  # of the time that a model may take, so that a busy machine doesn't refuse it


class Ended(NamedTuple):
    """How it ended (a constant of `registry.probe_wire`), its exit code or minus its signal, and what it wrote."""

    ending: int
    exit_code: int
    answer: bytes


def judge(offer: Offer, ended: Ended, limit_s: float) -> Admitted:
    """What was admitted. `limit_s`: the time that the process had.

    Raises:
        ArtifactRejectedError: says what happened to it, or why it refused the model.
    """
    if ended.ending == OUT_OF_TIME:
        raise ArtifactRejectedError(f"the model did not finish loading and predicting in {limit_s:.3g} s")
    if ended.ending == TOO_TALKATIVE:
        limit = most_answer_bytes(len(offer.data))
        raise ArtifactRejectedError(f"the process that loads the model wrote more than {limit} bytes")
    if ended.exit_code < 0:
        raise ArtifactRejectedError(_crashed(-ended.exit_code, math.ceil(limit_s * CPU_SHARE)))
    try:
        rewritten, told = read_answer(ended.answer)
    except ValueError as error:
        raise ArtifactRejectedError("the process that loads the model gave an answer that makes no sense") from error
    if isinstance(told, Refused):
        raise ArtifactRejectedError(_readable(told.why) or "the model was refused without a reason")
    if rewritten is not None and told is not None:
        artifact = rewritten.artifact if told.rewritten else offer.data
        return _admitted(offer, artifact, (rewritten.annotated or artifact) if told.explains else b"", told)
    raise ArtifactRejectedError(
        f"the process that loads the model ended with exit code {ended.exit_code} and no result"
    )


def _readable(why: str) -> str:
    """Fit for a log and a terminal, whoever wrote it; lines stay lines."""
    shown = why if len(why) <= MOST_REASON else f"{why[:MOST_REASON]}..."
    return "\n".join(CONTROL.sub("?", line) for line in shown.split("\n"))


def _crashed(number: int, cpu_s: int) -> str:
    if number == signal.SIGXCPU:
        return f"the process was ended with SIGXCPU: the model takes more than {cpu_s} s of CPU time"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the process crashed with {name} while loading the model"


def _admitted(offer: Offer, artifact: bytes, annotated: bytes, found: Findings) -> Admitted:
    if fault := _untrue(found, offer, artifact):
        raise ArtifactRejectedError(f"the process that loads the model gave an answer that can't be true: {fault}")
    return Admitted(
        artifact=artifact,
        schema=found.schema,
        resident_bytes=found.resident_bytes,
        predict_us=found.predict_us,
        runtime_version=found.runtime_version,
        golden=found.golden,
        annotated=annotated,
    )


def _untrue(found: Findings, offer: Offer, artifact: bytes) -> str:
    """What can't be so, whoever wrote the answer; "" where nothing is."""
    if offer.runtime is not Runtime.ONNX and not found.rewritten:
        return "rewritten"
    if offer.runtime is Runtime.ONNX and found.explains:
        return "explains"
    if not least_resident_bytes(len(artifact)) <= found.resident_bytes <= most_memory_bytes(len(offer.data)):
        return "resident_bytes"
    if found.predict_us.keys() != {"1", "64"} or not all(0 < us < math.inf for us in found.predict_us.values()):
        return "predict_us"
    if not 0 < len(found.runtime_version) < 64 or CONTROL.search(found.runtime_version):
        return "runtime_version"
    return _untrue_schema(found.schema) or _untrue_golden(found)


def _untrue_schema(schema: ModelSchema) -> str:
    names = [*schema.features, *schema.string_columns]
    outputs = [output.name for output in schema.outputs]
    unique = len({*names}) == len(names) and len({*outputs}) == len(outputs)
    known = {*names}.issuperset(schema.dtypes) and {*names}.issuperset(schema.categories)
    plain = not any(map(CONTROL.search, names_of(schema)))
    return "" if names and outputs and unique and known and plain else "schema"


def _untrue_golden(found: Findings) -> str:
    rows, schema = found.golden.dense, found.schema
    sizes = {output.name: len(rows) * max(1, len(output.columns)) for output in schema.outputs}
    given = {name: len(numbers) for name, numbers in found.golden.outputs.items()}
    texts = {column: len(values) for column, values in found.golden.strings.items()}
    wide = all(len(row) == len(schema.features) for row in rows)
    fits = sizes == given and texts == dict.fromkeys(schema.string_columns, len(rows))
    return "" if rows and wide and fits else "golden"
