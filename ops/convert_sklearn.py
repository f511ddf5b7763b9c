"""scikit-learn estimators and pipelines become ONNX by skl2onnx.

Contract: classifiers with probabilities and regressors are converted, alone or behind preprocessing. The graph has
what scorers take: one dense input, and one input for each text column. A pipeline that ends in trees is computed in
double precision up to the trees, and rounded there, as scikit-learn does: in single precision a scaled number may fall
on the other side of a split. HistGradientBoosting compares in double precision, so its graph does. A pickle runs code
when it is read, so it is read here, on the machine of the one who names it, and nowhere else; a .skops file runs none.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ops import convert_xgboost
from ops.convert_columns import missing_texts, to_spec
from ops.convert_draft import OPSETS, Draft, add_names, require
from ops.pipeline_split import Split, split_pipeline
from ops.sample_rows import Column
from ops.sklearn_columns import columns_of, first_step, is_of_trees, last_step
from ops.sklearn_graph import accept_unknown, append_graph, conversions, declare, join_inputs
from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from registry.transforms import TransformSpec
from scorer.engine import Rows


def load_pickle(path: Path) -> Draft:
    """Convert an estimator that pickle or joblib wrote. Runs code from the file.

    Raises:
        ArtifactRejectedError: it can't be read or converted, or a library that it needs is not installed.
    """
    require("sklearn")
    joblib = require("joblib")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions of libraries; the comparison tells whether it matters
            estimator = joblib.load(path)
    except ImportError as error:
        raise ArtifactRejectedError(f"the pickle needs a module that is not installed: {error.name}") from error
    except Exception as error:  # whatever the code in the pickle raises
        raise ArtifactRejectedError(f"the pickle can't be read: {type(error).__name__}") from error
    return convert_estimator(estimator)


def load_skops(data: bytes) -> Draft:
    """Convert an estimator that skops wrote; types that skops doesn't know as harmless are refused.

    Raises:
        ArtifactRejectedError: as `load_pickle`.
    """
    loader = require("skops.io")
    try:
        unknown = loader.get_untrusted_types(data=data)
        if not unknown:
            return convert_estimator(loader.loads(data, trusted=[]))
    except ArtifactRejectedError:
        raise
    except Exception as error:  # of zipfile, json and skops
        raise ArtifactRejectedError(f"the .skops file can't be read: {type(error).__name__}") from error
    raise ArtifactRejectedError(f"the .skops file has types that it can't be trusted with: {', '.join(unknown[:5])}")


def convert_estimator(estimator: Any) -> Draft:
    """Convert a trained estimator.

    Raises:
        ArtifactRejectedError: it is no classifier with probabilities and no regressor, or skl2onnx can't convert it.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search over parameters
    library = type(estimator).__module__.partition(".")[0]
    if library == "xgboost":
        return convert_xgboost.convert_estimator(estimator)
    split = split_pipeline(estimator)
    if split is not None and (split.needs_spec or split.has_columns):
        try:
            return _convert_behind_spec(estimator, split)
        except ArtifactRejectedError:
            if split.needs_spec:
                raise
    if library == "lightgbm":
        raise ArtifactRejectedError(
            "the pickle is a LightGBM model, which needs no conversion: publish what save_model() of its Booster writes"
        )
    is_classifier = _check(estimator)
    columns = columns_of(estimator)
    labels = [str(label) for label in estimator.classes_] if is_classifier else []
    data = _convert(estimator, columns, labels)
    sklearn, skl2onnx = (importlib.import_module(name) for name in ("sklearn", "skl2onnx"))
    training = {
        "library": f"scikit-learn {sklearn.__version__}",
        "estimator": _name(estimator),
        "converter": f"skl2onnx {skl2onnx.__version__}",
    }
    return Draft(data, columns, lambda rows: _predict(estimator, columns, rows, is_classifier), training)


def _convert_behind_spec(pipeline: Any, split: Split) -> Draft:
    """A pipeline whose transforms become a spec, and its last step a model of its own."""
    spec, missing = to_spec(*split.before), missing_texts(*split.before)
    is_classifier = _check(pipeline)
    labels = [str(label) for label in pipeline.classes_] if is_classifier else []
    columns = _columns_before(pipeline, split, spec)
    runtime, data = _model_behind(split.last, len(spec.outputs), labels)
    training = {
        "library": f"scikit-learn {importlib.import_module('sklearn').__version__}",
        "estimator": _name(pipeline),
        "converter": "transform spec",
    }
    if labels and runtime is Runtime.LIGHTGBM:  # whose files have no names for them
        training["classes"] = ", ".join(labels)

    def predict(rows: Rows) -> np.ndarray:
        strings = {name: [text or missing.get(name, "") for text in texts] for name, texts in rows.strings.items()}
        return _predict(pipeline, columns, rows._replace(strings=strings), is_classifier)

    return Draft(data, columns, predict, training, runtime, spec)


def _columns_before(pipeline: Any, split: Split, spec: TransformSpec) -> list[Column]:
    """The columns that callers send, in the order of the original, with what is known of their values."""
    names = {*spec.features, *spec.string_columns}
    places = (f"x{place}" for place in range(len(names)))
    order = [str(name) for name in getattr(pipeline, "feature_names_in_", places)]
    # What counts words has no columns that anything is known of.
    known = {} if split.needs_spec else {column.name: column for column in columns_of(split.before[0])}
    return [
        known.get(name, Column(name))._replace(is_text=name in spec.string_columns) for name in order if name in names
    ]


def _model_behind(last: Any, inputs: int, labels: list[str]) -> tuple[Runtime, bytes]:
    library = type(last).__module__.partition(".")[0]
    if library == "lightgbm":
        return Runtime.LIGHTGBM, last.booster_.model_to_string().encode()  # as many trees as it predicts with
    if library == "xgboost":
        return Runtime.ONNX, convert_xgboost.convert_estimator(last).data
    return Runtime.ONNX, _convert(last, [Column(f"x{place}") for place in range(inputs)], labels)


def _check(estimator: Any) -> bool:
    """Whether it is a classifier; refuses what is neither that nor a regressor."""
    from sklearn.base import is_classifier, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(estimator).__name__
    if not hasattr(estimator, "fit") or not (is_classifier(estimator) or is_regressor(estimator)):
        raise ArtifactRejectedError(f"the file has a {name}; a classifier or a regressor of scikit-learn is accepted")
    try:
        check_is_fitted(last_step(estimator))
    except NotFittedError as error:
        raise ArtifactRejectedError(f"the {name} was never trained") from error
    if is_regressor(estimator):
        return False
    if not hasattr(estimator, "predict_proba"):
        raise ArtifactRejectedError(f"the {_name(estimator)} gives no probabilities: wrap it in CalibratedClassifierCV")
    if not isinstance(estimator.classes_, np.ndarray):
        raise ArtifactRejectedError("a classifier with several targets can't be converted: publish one for each target")
    return True


def _name(estimator: Any) -> str:
    steps = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    return " > ".join(step if isinstance(step, str) else type(step).__name__ for step in steps)


def _convert(estimator: Any, columns: list[Column], labels: list[str]) -> bytes:
    require("skl2onnx")
    name = _name(estimator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # skl2onnx's own
            model = _graph(estimator, columns, is_classifier=bool(labels))
    except ArtifactRejectedError:
        raise
    except Exception as error:  # skl2onnx raises its own and many others
        told = str(error).partition("\n")[0][:200]
        raise ArtifactRejectedError(f"skl2onnx can't convert this {name}: {told}") from error
    names = [column.name for column in columns if not column.is_text]
    has_names = hasattr(estimator, "feature_names_in_") or len(names) < len(columns)
    add_names(model, names if has_names else (), labels)
    return bytes(model.SerializeToString(deterministic=True))


def _graph(estimator: Any, columns: list[Column], *, is_classifier: bool) -> Any:
    """The ModelProto, with the inputs that scorers take."""
    import onnx
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    last = last_step(estimator)
    is_histogram = hasattr(last, "_predictors")  # the one that doesn't round its input
    is_xgboost = type(last).__module__.startswith("xgboost.")
    in_double = is_histogram or is_xgboost or (last is not estimator and is_of_trees(last))
    number = DoubleTensorType if in_double else FloatTensorType
    is_split = any(column.is_text for column in columns) or hasattr(first_step(estimator), "transformers_")
    types = [("X", number([None, len(columns)]))]
    if is_split:
        types = [
            (column.name, StringTensorType([None, 1]) if column.is_text else number([None, 1])) for column in columns
        ]
    model = skl2onnx.convert_sklearn(
        _rounded(estimator, to=None if is_xgboost else last) if in_double and not is_histogram else estimator,
        initial_types=types,
        options={"zipmap": False} if is_classifier and not is_xgboost else None,
        target_opset=OPSETS,
        name="sklearn",
        custom_conversion_functions=conversions(),
    )
    if is_xgboost:
        model = append_graph(model, onnx.load_from_string(convert_xgboost.convert_estimator(last).data).graph)
    declare(model)
    accept_unknown(model)
    if is_split:
        join_inputs(model, columns)
    return model


def _rounded(pipeline: Any, to: Any) -> Any:
    """The same pipeline, that says where its trees round their input to single precision; `to`: the trees, None for
    all that is before them.
    """
    from skl2onnx.sklapi import CastTransformer
    from sklearn.pipeline import Pipeline

    steps = [step for step in pipeline.steps[:-1] if step[1] not in (None, "passthrough")]
    steps.append(("to float32", CastTransformer(dtype=np.float32).fit(np.zeros((1, 1)))))
    return Pipeline(steps if to is None else [*steps, ("trees", to)])


def _predict(estimator: Any, columns: list[Column], rows: Rows, is_classifier: bool) -> np.ndarray:
    """What scikit-learn itself answers. Raises ArtifactRejectedError where it can't."""
    predict = estimator.predict_proba if is_classifier else estimator.predict
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(predict(_frame(estimator, columns, rows)), dtype=np.float64)
    except ArtifactRejectedError:
        raise
    except Exception as error:  # of any step of the pipeline
        told = str(error).partition("\n")[0][:200]
        raise ArtifactRejectedError(f"{_name(estimator)} can't score the sample rows itself: {told}") from error


def _frame(estimator: Any, columns: list[Column], rows: Rows) -> Any:
    """Rows as the estimator was trained on: a table with names, or an array."""
    numbers = iter(rows.dense.T)
    values = {c.name: rows.strings[c.name] if c.is_text else next(numbers) for c in columns}
    if hasattr(estimator, "feature_names_in_"):
        pandas = require("pandas")
        return pandas.DataFrame(values, columns=list(estimator.feature_names_in_))
    if not rows.strings:
        return rows.dense
    return np.array([list(row) for row in zip(*values.values(), strict=True)], dtype=object)
