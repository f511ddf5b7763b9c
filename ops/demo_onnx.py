"""The demo's ONNX models: scikit-learn estimators, converted by skl2onnx, scored by onnxruntime with its own defaults.

Contract of an artifact: one float32 input (rows, features). A classifier gives its label and a tensor of probabilities;
any other model gives one float tensor. Its metadata has `feature_names` and, of a classifier, `class_labels`, as JSON
lists, since ONNX itself keeps neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.demo_data import DemoModel, Split, data_set
from registry.model import ModelRef, Runtime

_SEED = 7
_TOLERANCE = 1e-6
# float32 arithmetic against scikit-learn's float64.
_CONVERSION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class GraphRecipe:
    """How to train one ONNX model. `estimator` makes an untrained scikit-learn estimator."""

    ref: ModelRef
    title: str
    estimator: Callable[[], Any]
    split: Callable[[], Split]

    def train(self, directory: Path) -> DemoModel:
        """Train, convert, save and score.

        Raises:
            RuntimeError: the converted model doesn't answer as the estimator does.
        """
        split = self.split()
        # The estimator learns from the float32 rows that the graph will see, so that no split threshold lies between a
        # number and its rounded self.
        estimator = self.estimator().fit(split.train_rows.astype(np.float32), split.train_target)
        path = directory / f"{self.ref.tenant}.{self.ref.model}.onnx"
        artifact = converted(estimator, split)
        path.write_bytes(artifact)
        rows = np.ascontiguousarray(split.held_rows, dtype=np.float32)
        expected = _run(artifact, rows)
        self._check(expected, estimator, rows)
        return DemoModel(self.ref, Runtime.ONNX, path, rows, [expected], _TOLERANCE, self.title)

    def _check(self, expected: NDArray[np.float64], estimator: Any, rows: NDArray[np.float32]) -> None:
        predict = getattr(estimator, "predict_proba", None) or estimator.predict
        if not np.allclose(expected, predict(rows), rtol=_CONVERSION_TOLERANCE, atol=_CONVERSION_TOLERANCE):
            raise RuntimeError(f"the converted model {self.ref} doesn't answer as its scikit-learn estimator does")


def converted(estimator: Any, split: Split) -> bytes:
    """An ONNX graph of a trained scikit-learn estimator, with the names of features and classes in its metadata."""
    import onnx
    from skl2onnx import to_onnx

    # Without this option the probabilities come as a list of dictionaries, one a row.
    options = {id(estimator): {"zipmap": False}} if split.labels else None
    graph = to_onnx(estimator, split.train_rows[:1].astype(np.float32), options=options, target_opset=18)
    metadata = {"feature_names": json.dumps(split.features)}
    if split.labels:
        metadata["class_labels"] = json.dumps(split.labels)
    onnx.helper.set_model_props(graph, metadata)
    return bytes(graph.SerializeToString())


def _run(artifact: bytes, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The last output as float64; (rows,) where a row has one number. A classifier's first output is its label."""
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    output = np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[-1], dtype=np.float64)
    return output[:, 0] if output.shape[1] == 1 else output


def _scaled(estimator: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator)


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return _scaled(LogisticRegression(max_iter=500))


def _ridge() -> Any:
    from sklearn.linear_model import Ridge

    return _scaled(Ridge())


def _network() -> Any:
    from sklearn.neural_network import MLPClassifier

    # Few rounds are enough here; stopping early on purpose avoids scikit-learn's warning about it.
    return _scaled(MLPClassifier((32,), early_stopping=True, max_iter=200, random_state=_SEED))


def _boosted() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=15, random_state=_SEED)


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(40, max_depth=6, n_jobs=1, random_state=_SEED)


def _forest_regressor() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(40, max_depth=6, n_jobs=1, random_state=_SEED)


GRAPH_RECIPES = (
    GraphRecipe(
        ModelRef("acme", "tumour-linear"), "Is a tumour benign, linear", _logistic, lambda: data_set("breast_cancer")
    ),
    GraphRecipe(
        ModelRef("globex", "digit"), "Which digit a picture shows, network", _network, lambda: data_set("digits")
    ),
    GraphRecipe(
        ModelRef("globex", "digit-boosted"), "Which digit a picture shows, trees", _boosted, lambda: data_set("digits")
    ),
    GraphRecipe(ModelRef("initech", "iris"), "Which iris a flower is", _logistic, lambda: data_set("iris")),
    GraphRecipe(
        ModelRef("initech", "progression-linear"), "Diabetes in a year, linear", _ridge, lambda: data_set("diabetes")
    ),
    GraphRecipe(
        ModelRef("initech", "cultivar-forest"), "Which of three vines a wine is from", _forest, lambda: data_set("wine")
    ),
    GraphRecipe(
        ModelRef("initech", "body"), "Weight, waist and pulse from exercises", _ridge, lambda: data_set("linnerud")
    ),
    GraphRecipe(
        ModelRef("hooli", "progression-forest"),
        "Diabetes in a year, forest",
        _forest_regressor,
        lambda: data_set("diabetes"),
    ),
)
