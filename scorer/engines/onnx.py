"""ONNX models, scored with ONNX Runtime on the CPU.

Contract: predictions equal those of a plain `InferenceSession` on the same bytes, which are ONNX or, after admission,
ONNX Runtime's own format. What goes in is told in `scorer.engines.onnx_inputs`. Every float or double output is an
output of the model: one number a row, or several; beside a label output it is the probabilities of a classifier.
Labels themselves are not returned. Class labels come from the model's metadata, where they are a JSON list of
strings, `class_labels`; without it, from the classifier operator of the graph.

Invariants: sessions are as `scorer.onnx_session` makes them. Loading optimises nothing: admission has done it, once.
One run has at most `MAX_ROWS_A_RUN` rows. ONNX Runtime always gives up the interpreter lock in a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from registry.errors import ArtifactRejectedError, InvalidFeaturesError, ModelUnusableError
from registry.model import ModelSchema, OutputKind, OutputSchema
from registry.onnx_graph import read_class_labels
from scorer.engine import Rows, check_dense
from scorer.engines.onnx_inputs import (
    FLOATS,
    STRINGS,
    describe_inputs,
    feed,
    feed_text,
    numeric_inputs,
    read_names,
    text_inputs,
)
from scorer.onnx_session import open_session, session_options

_LABEL_TYPES = {"tensor(int64)", "tensor(int32)", "tensor(bool)", STRINGS}
# Admission measures what a run of so many rows takes; no run has more, so it can't take more.
MAX_ROWS_A_RUN = 256
_ORT_MAGIC = b"ORTM"

# Admission has optimised what scorers load.
_OPTIONS = session_options(optimise=False)


class OnnxModel:
    """A session and the names of its ends. Implements `scorer.engine.LoadedModel`."""

    def __init__(self, artifact: bytes, schema: ModelSchema) -> None:
        try:
            self._session = open_session(artifact, _OPTIONS)
        except Exception as error:  # see open_session
            raise ModelUnusableError(f"ONNX Runtime can't load the model: {error}") from error
        inputs = self._session.get_inputs()
        self._numeric = numeric_inputs(inputs)
        self._features = len(schema.features)
        self._string_columns = schema.string_columns
        self._outputs = schema.outputs
        self._output_names = [output.name for output in schema.outputs]
        self._check_names(inputs)
        # Roughly, in both formats; admission measures the true figure.
        self.resident_bytes = (len(artifact) // 2 if artifact[4:8] == _ORT_MAGIC else 5 * len(artifact)) + 30_000

    def _check_names(self, inputs: list[Any]) -> None:
        known = {output.name for output in self._session.get_outputs()}
        width = self._numeric[-1].columns.stop if self._numeric else 0
        same = width == self._features and {*text_inputs(inputs)} == {*self._string_columns}
        if not known.issuperset(self._output_names) or not same:
            raise ModelUnusableError("the model's inputs or outputs are not those of its schema")

    def predict(self, rows: Rows) -> list[np.ndarray]:
        """As `LoadedModel.predict`."""
        check_dense(rows.dense, self._features)
        self._check_text(rows)
        if len(rows.dense) <= MAX_ROWS_A_RUN:
            return self._run(rows)
        pieces = zip(*map(self._run, self._cut(rows)), strict=True)
        return [np.concatenate(piece) for piece in pieces]

    def _cut(self, rows: Rows) -> Iterator[Rows]:
        for start in range(0, len(rows.dense), MAX_ROWS_A_RUN):
            part = slice(start, start + MAX_ROWS_A_RUN)
            strings = {column: rows.strings[column][part] for column in self._string_columns}
            yield Rows(rows.dense[part], strings)

    def _run(self, rows: Rows) -> list[np.ndarray]:
        feeds = feed(self._numeric, rows.dense)
        if self._string_columns:
            feeds |= feed_text(self._string_columns, rows)
        try:
            answers = self._session.run(self._output_names, feeds)
        except Exception as error:  # as at load; the text may quote the rows, so it stays in the cause
            raise ModelUnusableError("ONNX Runtime failed to run the model") from error
        return [
            _float64(answer, output, len(rows.dense)) for answer, output in zip(answers, self._outputs, strict=True)
        ]

    def _check_text(self, rows: Rows) -> None:
        for column in self._string_columns:
            values = rows.strings.get(column)
            if values is None or len(values) != len(rows.dense):
                got = "no value" if values is None else f"{len(values)} values"
                raise InvalidFeaturesError(f"text column {column!r} has {got}, wanted {len(rows.dense)}")

    def close(self) -> None:
        """Free the session."""
        del self._session


def _float64(answer: np.ndarray, output: OutputSchema, count: int) -> np.ndarray:
    if answer.size != count * max(1, len(output.columns)):
        raise ModelUnusableError(f"output {output.name!r} has shape {answer.shape} for {count} rows")
    return answer.astype(np.float64).reshape((count, len(output.columns)) if output.columns else (count,))


class OnnxEngine:
    """Loads ONNX models. Implements `scorer.engine.Engine`."""

    def load(self, artifact: bytes, schema: ModelSchema) -> OnnxModel:
        """As `Engine.load`."""
        return OnnxModel(artifact, schema)

    def describe(self, artifact: bytes) -> ModelSchema:
        """As `Engine.describe`. Runs two rows, since the shapes that a model declares are often incomplete."""
        try:
            session = open_session(artifact, _OPTIONS)
        except Exception as error:  # as in OnnxModel
            raise ArtifactRejectedError(f"ONNX Runtime can't load the model: {error}") from error
        metadata = session.get_modelmeta().custom_metadata_map
        features, strings, dtypes = describe_inputs(session.get_inputs(), metadata)
        outputs = _outputs(session, metadata, read_class_labels(artifact))
        return ModelSchema(features=features, outputs=outputs, string_columns=strings, dtypes=dtypes)


ENGINE = OnnxEngine()


def _outputs(session: Any, metadata: Mapping[str, str], graph_labels: tuple[str, ...]) -> tuple[OutputSchema, ...]:
    declared = session.get_outputs()
    for output in declared:
        if output.type not in FLOATS and output.type not in _LABEL_TYPES:
            hint = "; convert a classifier with zipmap=False" if "map(" in output.type else ""
            raise ArtifactRejectedError(f"output {output.name!r} is a {output.type}, wanted a tensor{hint}")
    names = [output.name for output in declared if output.type in FLOATS]
    if not names:
        raise ArtifactRejectedError("the model has no float or double output")
    classifier = len(names) == 1 and len(declared) == 2
    widths = [_width(name, answer) for name, answer in zip(names, _run_two_rows(session, names), strict=True)]
    if classifier and widths[0] > 1:
        found = graph_labels if len(graph_labels) == widths[0] else _numbered(widths[0])
        labels = read_names(metadata, "class_labels", widths[0]) or found
        return (OutputSchema(names[0], OutputKind.CLASS_PROBABILITIES, labels),)
    return tuple(_plain_output(name, width) for name, width in zip(names, widths, strict=True))


def _plain_output(name: str, width: int) -> OutputSchema:
    if width == 1:
        return OutputSchema(name, OutputKind.REGRESSION)
    return OutputSchema(name, OutputKind.MULTI_OUTPUT, _numbered(width))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _run_two_rows(session: Any, names: list[str]) -> list[np.ndarray]:
    inputs, strings = numeric_inputs(session.get_inputs()), text_inputs(session.get_inputs())
    width = inputs[-1].columns.stop if inputs else 0
    feeds = feed(inputs, np.zeros((2, width))) | {name: np.full((2, 1), "", dtype=object) for name in strings}
    try:
        answers: list[np.ndarray] = session.run(names, feeds)
    except Exception as error:  # as in OnnxModel
        raise ArtifactRejectedError(f"ONNX Runtime can't run the model: {error}") from error
    return answers


def _width(name: str, answer: np.ndarray) -> int:
    """Numbers a row."""
    if answer.ndim not in {1, 2} or len(answer) != 2 or not answer.size:
        raise ArtifactRejectedError(f"output {name!r} has shape {list(answer.shape)} for 2 rows, wanted [2] or [2, k]")
    return answer.size // 2
