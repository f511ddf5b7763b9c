"""Real pipelines over real data, converted to a spec and a model, must answer as scikit-learn does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

from ops.convert import Converted, convert
from ops.convert_columns import to_spec
from ops.sample_rows import SampleRows
from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from scorer.engine import Rows, engine_for
from scorer.transforms import SharedTables, TransformedModel, compile_transform

pytestmark = pytest.mark.filterwarnings("ignore")  # of scikit-learn and LightGBM on each other's arrays


def mixed_frame() -> tuple[pd.DataFrame, np.ndarray]:
    """Wine with texts made of its own numbers, and gaps."""
    wine = load_wine(as_frame=True)
    frame = wine.data[["alcohol", "malic_acid", "ash", "hue", "proline"]].copy()
    frame["colour"] = pd.cut(wine.data["color_intensity"], 4, labels=["pale", "röt", "dark", "black"]).astype(str)
    frame["size"] = np.where(wine.data["proline"] > 700, "large", "small")
    frame.iloc[::9, 1] = np.nan
    return frame, wine.target.to_numpy()


def columns() -> ColumnTransformer:
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["malic_acid", "ash"]),
            ("skewed", FunctionTransformer(np.log1p), ["proline"]),
            ("bins", KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"), ["hue"]),
            ("one hot", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["colour"]),
            ("ordinal", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), ["size"]),
        ],
        remainder="passthrough",
        sparse_threshold=0,
    )


def _converted(pipeline: Any, folder: Path, sample: SampleRows | None = None) -> Converted:
    path = folder / "pipeline.pkl"
    joblib.dump(pipeline, path)
    return convert(path, sample)


def _predict(converted: Converted, frame: pd.DataFrame) -> np.ndarray:
    assert converted.transforms is not None
    spec, engine = converted.transforms, engine_for(converted.runtime)
    rows = Rows(frame[list(spec.features)].to_numpy(np.float64), {n: frame[n].tolist() for n in spec.string_columns})
    inner = engine.load(converted.data, engine.describe(converted.data))
    model = TransformedModel(inner, compile_transform(spec, SharedTables()))
    try:
        return model.predict(rows)[0]
    finally:
        model.close()


@pytest.mark.parametrize("kind", [LGBMClassifier, LGBMRegressor])
def test_a_lightgbm_pipeline_answers_the_same_bits(kind: Any, tmp_path: Path) -> None:
    frame, target = mixed_frame()
    pipeline = make_pipeline(columns(), kind(n_estimators=20, verbose=-1, n_jobs=1)).fit(frame, target)
    converted = _converted(pipeline, tmp_path)
    assert converted.runtime is Runtime.LIGHTGBM
    assert converted.worst_difference == 0
    assert len(converted.golden.dense) > 0
    wanted = pipeline.predict_proba(frame) if kind is LGBMClassifier else pipeline.predict(frame)
    assert np.array_equal(_predict(converted, frame), wanted)
    unseen = frame.head(3).assign(colour=["green", "", "pale"], size=["huge", "", "small"])
    wanted = pipeline.predict_proba(unseen) if kind is LGBMClassifier else pipeline.predict(unseen)
    assert np.array_equal(_predict(converted, unseen), wanted)


def test_words_before_a_linear_model(tmp_path: Path) -> None:
    loads = (load_breast_cancer, load_diabetes, load_iris, load_wine)
    lines = [(line, place) for place, load in enumerate(loads) for line in load().DESCR.splitlines() if line.strip()]
    frame = pd.DataFrame(lines, columns=["text", "about"])
    frame["length"] = [float(len(text)) for text in frame["text"]]
    transformer = ColumnTransformer(
        [("words", TfidfVectorizer(ngram_range=(1, 2)), "text"), ("length", StandardScaler(), ["length"])],
        sparse_threshold=0,
    )
    pipeline = make_pipeline(transformer, LogisticRegression(max_iter=500)).fit(
        frame[["text", "length"]], frame["about"]
    )
    sample = SampleRows(("text", "length"), tuple((text, str(len(text))) for text in frame["text"][:200]))
    converted = _converted(pipeline, tmp_path, sample)
    assert converted.runtime is Runtime.ONNX
    assert np.allclose(_predict(converted, frame), pipeline.predict_proba(frame[["text", "length"]]), atol=1e-5)


def test_every_scaler_is_the_same_to_the_last_bit() -> None:
    frame = load_breast_cancer(as_frame=True).data.iloc[:, :5]
    frame.columns = list("abcde")
    transformer = ColumnTransformer(
        [
            ("a", MinMaxScaler((-1, 1), clip=True), ["a", "b"]),
            ("b", RobustScaler(with_centering=False), ["b"]),
            ("c", MaxAbsScaler(), ["c"]),
            ("d", StandardScaler(with_mean=False), ["d", "a"]),
            ("e", "drop", ["e"]),
        ]
    ).fit(frame)
    spec = to_spec(transformer)
    assert spec.features == ("a", "b", "c", "d")
    assert len({*spec.outputs}) == 6
    transform = compile_transform(spec, SharedTables())
    rows = Rows(frame[list("abcd")].to_numpy(), {})
    assert np.array_equal(transform(rows).dense, transformer.transform(frame))


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (PolynomialFeatures(), "a PolynomialFeatures in 'it'"),
        (SimpleImputer(add_indicator=True), "add_indicator"),
        (FunctionTransformer(np.sqrt), "sqrt"),
        (OneHotEncoder(), "a missing number is a category"),
    ],
)
def test_what_a_spec_can_not_say_is_refused_by_name(step: Any, says: str) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0 if isinstance(step, PolynomialFeatures) else np.nan]})
    with pytest.raises(ArtifactRejectedError, match=says):
        to_spec(ColumnTransformer([("it", step, ["x"])]).fit(frame))
