"""ONNX models, scored with ONNX Runtime on the CPU.

Contract: predictions equal those of a plain `InferenceSession` on the same bytes. Numbers come in by at most one float
or double input of shape [N, features]; each text column is a string input [N, 1] of that name. Every float or double
output is an output of the model: one number a row, or several; beside a label output it is the probabilities of a
classifier. Labels themselves are not returned. Names come from the model's metadata, where they are JSON lists of
strings, `feature_names` and `class_labels`; without the latter, labels come from the classifier operator of the graph.

Invariants: a session has one thread and no arena of its own, so that many sessions fit into one process; what a model
allocates is freed with it. ONNX Runtime always gives up the interpreter lock in a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import onnxruntime

from registry.errors import ArtifactRejectedError, InvalidFeaturesError, ModelUnusableError
from registry.model import ModelSchema, OutputKind, OutputSchema
from registry.onnx_graph import read_class_labels
from scorer.engine import Rows, check_dense

_DENSE_TYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}
_STRINGS = "tensor(string)"
_LABEL_TYPES = {"tensor(int64)", "tensor(int32)", "tensor(bool)", _STRINGS}
_LOG_ERRORS_ONLY = 3

onnxruntime.set_default_logger_severity(_LOG_ERRORS_ONLY)


def _options() -> Any:
    """One thread, no arena, no memory plan: 100 KB instead of 257 for a small network, at no cost in latency.

    Basic optimisations fold constants; the extended ones take 30 KB a session more and gained nothing for small models.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _LOG_ERRORS_ONLY
    return options


_OPTIONS = _options()


class OnnxModel:
    """A session and the names of its ends. Implements `scorer.engine.LoadedModel`."""

    def __init__(self, artifact: bytes, schema: ModelSchema) -> None:
        try:
            self._session = onnxruntime.InferenceSession(artifact, _OPTIONS, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise ModelUnusableError(f"ONNX Runtime can't load the model: {error}") from error
        inputs = self._session.get_inputs()
        self._dense = next(((i.name, _DENSE_TYPES[i.type]) for i in inputs if i.type in _DENSE_TYPES), None)
        self._features = len(schema.features)
        self._string_columns = schema.string_columns
        self._outputs = schema.outputs
        self._output_names = [output.name for output in schema.outputs]
        self._check_names(inputs)
        self.resident_bytes = 5 * len(artifact) + 60_000

    def _check_names(self, inputs: list[Any]) -> None:
        known = {output.name for output in self._session.get_outputs()}
        strings = {i.name for i in inputs if i.type == _STRINGS}
        if not known.issuperset(self._output_names) or strings != set(self._string_columns):
            raise ModelUnusableError("the model's inputs or outputs are not those of its schema")

    def predict(self, rows: Rows) -> list[np.ndarray]:
        """As `LoadedModel.predict`."""
        check_dense(rows.dense, self._features)
        feeds = self._text_feeds(rows) if self._string_columns else {}
        if self._dense is not None:
            name, dtype = self._dense
            feeds[name] = rows.dense.astype(dtype, order="C", copy=False)
        try:
            answers = self._session.run(self._output_names, feeds)
        except Exception as error:  # as at load; the text may quote the rows, so it stays in the cause
            raise ModelUnusableError("ONNX Runtime failed to run the model") from error
        return [
            _float64(answer, output, len(rows.dense)) for answer, output in zip(answers, self._outputs, strict=True)
        ]

    def _text_feeds(self, rows: Rows) -> dict[str, np.ndarray]:
        feeds = {}
        for column in self._string_columns:
            values = rows.strings.get(column)
            if values is None or len(values) != len(rows.dense):
                got = "no value" if values is None else f"{len(values)} values"
                raise InvalidFeaturesError(f"text column {column!r} has {got}, wanted {len(rows.dense)}")
            feeds[column] = np.array(values, dtype=object).reshape(-1, 1)
        return feeds

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
            session = onnxruntime.InferenceSession(artifact, _OPTIONS, providers=["CPUExecutionProvider"])
        except Exception as error:  # as in OnnxModel
            raise ArtifactRejectedError(f"ONNX Runtime can't load the model: {error}") from error
        metadata = session.get_modelmeta().custom_metadata_map
        features = _features(session.get_inputs(), metadata)
        strings = tuple(i.name for i in session.get_inputs() if i.type == _STRINGS)
        outputs = _outputs(session, metadata, read_class_labels(artifact))
        return ModelSchema(features=features, outputs=outputs, string_columns=strings)


ENGINE = OnnxEngine()


def _features(inputs: list[Any], metadata: Mapping[str, str]) -> tuple[str, ...]:
    dense = [i for i in inputs if i.type in _DENSE_TYPES]
    for i in inputs:
        if i.type not in _DENSE_TYPES and i.type != _STRINGS:
            raise ArtifactRejectedError(
                f"input {i.name!r} is a {i.type}; float, double and string tensors are accepted"
            )
        _check_batched(i)
    if len(dense) > 1:
        raise ArtifactRejectedError(f"the model has {len(dense)} numeric inputs; wanted one of shape [N, features]")
    width = dense[0].shape[1] if dense else 0
    return _names(metadata, "feature_names", width) or tuple(f"x{i}" for i in range(width))


def _check_batched(tensor: Any) -> None:
    """Wants shape [N, k]: N free, k fixed, and 1 for a text column."""
    shape = tensor.shape
    text = tensor.type == _STRINGS
    if len(shape) != 2 or isinstance(shape[0], int) or not isinstance(shape[1], int) or (text and shape[1] != 1):
        wanted = "[N, 1]" if text else "[N, features]"
        raise ArtifactRejectedError(f"input {tensor.name!r} has shape {shape}; wanted {wanted} with N left open")


def _names(metadata: Mapping[str, str], key: str, count: int) -> tuple[str, ...]:
    """The names in the model's metadata; empty where there are none."""
    if key not in metadata:
        return ()
    try:
        names = msgspec.json.decode(metadata[key], type=tuple[str, ...])
    except msgspec.DecodeError as error:
        raise ArtifactRejectedError(f"metadata {key} is not a JSON list of strings") from error
    if len(names) != count or len(set(names)) != count:
        raise ArtifactRejectedError(f"metadata {key} has {len(names)} names, wanted {count} different ones")
    return names


def _outputs(session: Any, metadata: Mapping[str, str], graph_labels: tuple[str, ...]) -> tuple[OutputSchema, ...]:
    declared = session.get_outputs()
    for output in declared:
        if output.type not in _DENSE_TYPES and output.type not in _LABEL_TYPES:
            hint = "; convert a classifier with zipmap=False" if "map(" in output.type else ""
            raise ArtifactRejectedError(f"output {output.name!r} is a {output.type}, wanted a tensor{hint}")
    names = [output.name for output in declared if output.type in _DENSE_TYPES]
    if not names:
        raise ArtifactRejectedError("the model has no float or double output")
    classifier = len(names) == 1 and len(declared) == 2
    widths = [_width(name, answer) for name, answer in zip(names, _run_two_rows(session, names), strict=True)]
    if classifier and widths[0] > 1:
        found = graph_labels if len(graph_labels) == widths[0] else _numbered(widths[0])
        labels = _names(metadata, "class_labels", widths[0]) or found
        return (OutputSchema(names[0], OutputKind.CLASS_PROBABILITIES, labels),)
    return tuple(_plain_output(name, width) for name, width in zip(names, widths, strict=True))


def _plain_output(name: str, width: int) -> OutputSchema:
    if width == 1:
        return OutputSchema(name, OutputKind.REGRESSION)
    return OutputSchema(name, OutputKind.MULTI_OUTPUT, _numbered(width))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _run_two_rows(session: Any, names: list[str]) -> list[np.ndarray]:
    feeds = {
        i.name: np.full((2, 1), "", dtype=object)
        if i.type == _STRINGS
        else np.zeros((2, i.shape[1]), _DENSE_TYPES[i.type])
        for i in session.get_inputs()
    }
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
