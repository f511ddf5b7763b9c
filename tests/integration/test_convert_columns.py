"""Real pipelines over real data, converted to a spec and a model, must answer as scikit-learn does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor, early_stopping
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
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
from xgboost import XGBClassifier

from ops.convert import Converted, convert
from ops.convert_columns import missing_texts, to_spec
from ops.demo_tables import passengers
from ops.sample_rows import SampleRows, read_sample_rows
from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from registry.transforms import TransformSpec
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


def _check_equal(transformer: Any, frame: pd.DataFrame, unseen: pd.DataFrame | None = None) -> TransformSpec:
    """Fitted on the one, the same bits as scikit-learn for both, one row at a time and all together."""
    transformer.fit(frame)
    spec = to_spec(transformer)
    transform = compile_transform(spec, SharedTables())
    for each in (frame, unseen):
        if each is None:
            continue
        wanted = transformer.transform(each)
        wanted = np.asarray(wanted.todense() if hasattr(wanted, "todense") else wanted, np.float64)
        texts = {name: ["" if text != text else text for text in each[name]] for name in spec.string_columns}  # noqa: PLR0124
        rows = Rows(each[list(spec.features)].to_numpy(np.float64), texts)
        assert np.array_equal(transform(rows).dense, wanted, equal_nan=True)
        for row in range(0, len(each), 37):
            one = Rows(rows.dense[row : row + 1], {name: values[row : row + 1] for name, values in texts.items()})
            assert np.array_equal(transform(one).dense[0], wanted[row], equal_nan=True)
    return spec


_NUMBERS = ["pclass", "age", "sibsp", "parch", "fare"]
_FILLED = ["pclass", "sibsp", "parch"]
_TEXTS = ["sex", "embarked", "cabin", "home"]
_FILL = SimpleImputer(strategy="most_frequent")
_CONSTANT = SimpleImputer(strategy="constant", fill_value="none")
_BELOW = SimpleImputer(strategy="constant", fill_value=-1.5, add_indicator=True)
_BY_MEANS = KBinsDiscretizer(5, encode="onehot-dense", strategy="kmeans")
_IGNORE = OneHotEncoder(handle_unknown="ignore")
_ENCODE = {"handle_unknown": "use_encoded_value", "unknown_value": -1}


@pytest.mark.parametrize(
    ("step", "columns"),
    [
        (SimpleImputer(), _NUMBERS),
        (SimpleImputer(strategy="median", add_indicator=True), _NUMBERS),
        (make_pipeline(_BELOW, MaxAbsScaler()), _NUMBERS),
        (StandardScaler(), _NUMBERS),
        (StandardScaler(with_mean=False), _NUMBERS),
        (StandardScaler(with_std=False), _NUMBERS),
        (MinMaxScaler((-1, 1), clip=True), _NUMBERS),
        (MinMaxScaler(), _NUMBERS),
        (MaxAbsScaler(), _NUMBERS),
        (RobustScaler(), _NUMBERS),
        (RobustScaler(with_centering=False), _NUMBERS),
        (RobustScaler(with_scaling=False), _NUMBERS),
        (FunctionTransformer(np.log1p), _NUMBERS),
        (FunctionTransformer(), _NUMBERS),
        (KBinsDiscretizer(4, encode="ordinal", strategy="uniform"), _FILLED),
        (KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"), _FILLED),
        (make_pipeline(SimpleImputer(), _BY_MEANS), ["age", "fare"]),
        (OrdinalEncoder(**_ENCODE), [*_TEXTS, *_FILLED]),
        (OrdinalEncoder(encoded_missing_value=-7, **_ENCODE), ["age", "cabin"]),
        (make_pipeline(OrdinalEncoder(**_ENCODE), StandardScaler()), _TEXTS),
        (make_pipeline(_FILL, OrdinalEncoder(**_ENCODE)), _TEXTS),
        (OneHotEncoder(handle_unknown="ignore"), [*_TEXTS, *_FILLED]),
        (OneHotEncoder(drop="first", handle_unknown="ignore"), _TEXTS),
        (OneHotEncoder(drop="if_binary", sparse_output=False, handle_unknown="ignore"), _TEXTS),
        (OneHotEncoder(min_frequency=5, handle_unknown="infrequent_if_exist"), [*_TEXTS, *_FILLED]),
        (OneHotEncoder(max_categories=4, handle_unknown="ignore"), _TEXTS),
        (OneHotEncoder(min_frequency=5, drop="first", handle_unknown="ignore"), _TEXTS),
        (OneHotEncoder(min_frequency=3, drop=["male", "S", "C23 C25 C27", "New York, NY"]), _TEXTS),
        (make_pipeline(_FILL, OneHotEncoder(handle_unknown="ignore")), _TEXTS),
        (make_pipeline(_CONSTANT, _IGNORE), _TEXTS),
        (CountVectorizer(), "name"),
        (CountVectorizer(ngram_range=(1, 2), max_features=300), "name"),
        (CountVectorizer(lowercase=False, binary=True, min_df=2), "name"),
        (CountVectorizer(stop_words=["mrs", "mr"], max_df=0.3), "name"),
        (TfidfVectorizer(), "name"),
        (TfidfVectorizer(sublinear_tf=True, norm="l1", ngram_range=(1, 3), max_features=500), "name"),
        (TfidfVectorizer(use_idf=False, smooth_idf=False), "name"),
        (TfidfVectorizer(binary=True, norm=None, sublinear_tf=True), "name"),
        (make_pipeline(CountVectorizer(), TfidfTransformer(norm="l1")), "name"),
        (HashingVectorizer(n_features=300), "name"),
        (HashingVectorizer(n_features=64, alternate_sign=False, norm=None, ngram_range=(1, 2)), "name"),
        (HashingVectorizer(n_features=16, binary=True, norm="l1"), "name"),
        (FeatureUnion([("one", CountVectorizer()), ("other", HashingVectorizer(n_features=32))]), "name"),
        (make_pipeline("passthrough", StandardScaler()), _NUMBERS),
        ("drop", _NUMBERS),
    ],
    ids=str,
)  # fmt: skip
def test_each_transformer_on_real_passengers(step: Any, columns: Any) -> None:
    """Fitted on some, compared on all, with categories, words and gaps that were never seen."""
    table = passengers()
    learn, _ = table.split()
    transformer = ColumnTransformer([("it", step, columns), ("rest", "passthrough", ["pclass"])], sparse_threshold=0)
    has_unknown = not (isinstance(step, OneHotEncoder) and step.handle_unknown == "error")
    _check_equal(transformer, table.frame(learn), table.frame() if has_unknown else None)


def test_nested_pipelines_of_all_kinds() -> None:
    table = passengers()
    numbers = ColumnTransformer(
        [("age", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["age"])], remainder="passthrough"
    )
    inner = Pipeline([("numbers", numbers), ("again", MinMaxScaler()), ("none", None)])
    transformer = ColumnTransformer(
        [
            ("numbers", inner, ["fare", "age"]),
            ("nothing", StandardScaler(), []),
            ("name", TfidfVectorizer(max_features=50), "name"),
            ("texts", make_pipeline(_FILL, _IGNORE), make_column_selector("embarked|sex")),
        ],
        sparse_threshold=0,
    )  # fmt: skip
    spec = _check_equal(transformer, table.frame(table.split()[0]), table.frame())
    assert spec.features == ("age", "fare")
    assert spec.string_columns == ("name", "sex", "embarked")
    whole = Pipeline([("columns", transformer), ("last", "passthrough")])
    assert to_spec(whole) == spec
    behind = Pipeline([("numbers", numbers), ("again", RobustScaler())])
    _check_equal(behind, table.frame()[["age", "fare"]])


def test_a_missing_text_may_be_none() -> None:
    frame = passengers().frame()[["embarked", "cabin"]].astype(object)
    frame = frame.where(frame.notna(), None)
    for step in (
        OrdinalEncoder(**_ENCODE),
        OneHotEncoder(),
        SimpleImputer(missing_values=None, strategy="most_frequent"),
    ):
        end = step if not isinstance(step, SimpleImputer) else make_pipeline(step, OneHotEncoder())
        transformer = ColumnTransformer([("it", end, ["embarked", "cabin"])], sparse_threshold=0).fit(frame)
        assert missing_texts(transformer) == {"embarked": None, "cabin": None}
        wanted = transformer.transform(frame)
        texts = {name: [text or "" for text in frame[name]] for name in frame}
        got = compile_transform(to_spec(transformer), SharedTables())(Rows(np.empty((len(frame), 0)), texts)).dense
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize(
    "kind", [LGBMClassifier, LGBMRegressor, LogisticRegression, RandomForestClassifier, XGBClassifier]
)
@pytest.mark.parametrize("sampled", [False, True])
def test_pipelines_of_real_passengers(kind: Any, sampled: bool, tmp_path: Path) -> None:
    """With gaps in texts: compared on made rows, and on real ones from a CSV file."""
    table = passengers()
    learn, held = table.split()
    more = {"max_iter": 500} if kind is LogisticRegression else {"n_estimators": 20, "n_jobs": 1}
    pipeline = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), _NUMBERS),
                ("filled", make_pipeline(_FILL, OneHotEncoder(handle_unknown="ignore")), ["sex", "embarked"]),
                ("cabin", OrdinalEncoder(encoded_missing_value=-2, **_ENCODE), ["cabin"]),
            ]
        ),
        kind(**more, **({"verbose": -1} if kind.__module__.startswith("lightgbm") else {})),
    ).fit(table.frame(learn), table.target[learn])
    sample = None
    if sampled:
        table.frame(held).to_csv(tmp_path / "rows.csv", index=False)
        sample = read_sample_rows(tmp_path / "rows.csv")
    converted = _converted(pipeline, tmp_path, sample)
    is_lightgbm = kind.__module__.startswith("lightgbm")
    assert converted.runtime is (Runtime.LIGHTGBM if is_lightgbm else Runtime.ONNX)
    frame = table.frame(held)
    wanted = pipeline.predict(frame) if kind is LGBMRegressor else pipeline.predict_proba(frame)
    got = _predict(converted, frame.fillna(dict.fromkeys(_TEXTS, "")))
    assert np.allclose(got, wanted, rtol=0, atol=0 if is_lightgbm else 1e-5)


def test_a_pipeline_without_columns_before_lightgbm(tmp_path: Path) -> None:
    rows, target = load_wine(return_X_y=True)
    rows[::7, 2] = np.nan
    names = np.array(["barbera", "barolo", "grignolino"])[target]
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1))
    pipeline.fit(rows, names)
    converted = _converted(pipeline, tmp_path)
    assert converted.transforms is not None
    assert converted.transforms.features == tuple(f"x{place}" for place in range(13))
    assert converted.training["classes"] == "barbera, barolo, grignolino"
    model = TransformedModel(
        engine_for(Runtime.LIGHTGBM).load(converted.data, engine_for(Runtime.LIGHTGBM).describe(converted.data)),
        compile_transform(converted.transforms, SharedTables()),
    )
    assert np.array_equal(model.predict(Rows(rows, {}))[0], pipeline.predict_proba(rows))
    model.close()


def test_as_many_trees_as_the_original_stopped_at(tmp_path: Path) -> None:
    frame, target = mixed_frame()
    before = columns().fit(frame)
    rows = before.transform(frame)
    model = LGBMClassifier(n_estimators=60, learning_rate=0.5, verbose=-1, n_jobs=1)
    model.fit(
        rows[::2], target[::2], eval_set=[(rows[1::2], target[1::2])], callbacks=[early_stopping(2, verbose=False)]
    )
    assert model.best_iteration_ < 60
    pipeline = make_pipeline(before, model)
    assert np.array_equal(_predict(_converted(pipeline, tmp_path), frame), pipeline.predict_proba(frame))


@pytest.mark.parametrize(
    ("step", "columns", "says"),
    [
        (PolynomialFeatures(), _FILLED, "a PolynomialFeatures in 'it'; what can be converted: ColumnTransformer, "),
        (make_pipeline(SimpleImputer(), PolynomialFeatures()), _NUMBERS, "in 'polynomialfeatures'"),
        (SimpleImputer(missing_values=0), _FILLED, "SimpleImputer in 'it': missing_values=0 can't be converted"),
        (SimpleImputer(missing_values="S", strategy="most_frequent"), ["sex"], "missing_values='S'"),
        (FunctionTransformer(np.sqrt), _FILLED, "sqrt"),
        (FunctionTransformer(np.log1p, kw_args={"dtype": np.float64}), _FILLED, "kw_args"),
        (OneHotEncoder(), ["age"], "a missing number is a category"),
        (OrdinalEncoder(min_frequency=5), ["sex"], "infrequent categories can't be converted"),
        (KBinsDiscretizer(3, dtype=np.float32, strategy="uniform"), _FILLED, "dtype"),
        (make_pipeline(OneHotEncoder(), StandardScaler(with_mean=False)), ["sex"], "2 columns where 1 come in"),
        (CountVectorizer(analyzer="char"), "name", "CountVectorizer in 'it': analyzer can't be converted"),
        (CountVectorizer(token_pattern=r"\w+"), "name", "token_pattern"),  # noqa: S106
        (CountVectorizer(stop_words=["mr"], ngram_range=(1, 2)), "name", "stop_words with several words in a row"),
        (CountVectorizer(ngram_range=(2, 2)), "name", "ngram_range that doesn't begin with 1"),
        (TfidfVectorizer(strip_accents="unicode"), "name", "strip_accents"),
        (TfidfVectorizer(dtype=np.float32), "name", "dtype float32"),
        (HashingVectorizer(), "name", "1048576 outputs, at most 10000"),
        (OneHotEncoder(), ["born"], "OneHotEncoder in 'it': float"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_spec_can_not_say_is_refused_by_name(step: Any, columns: Any, says: str) -> None:
    frame = passengers().frame()
    frame["born"] = pd.Timestamp("1912-04-15") - pd.to_timedelta(frame["pclass"] * 365, unit="D")
    with pytest.raises(ArtifactRejectedError, match=re.escape(says)):
        to_spec(ColumnTransformer([("it", step, columns)]).fit(frame))


def test_weights_and_ambiguous_texts_are_refused() -> None:
    frame = passengers().frame()
    weighed = ColumnTransformer([("it", StandardScaler(), ["fare"])], transformer_weights={"it": 2.0}).fit(frame)
    with pytest.raises(ArtifactRejectedError, match="transformer_weights"):
        to_spec(weighed)
    empty = pd.DataFrame({"text": ["a", "", "b", np.nan, "a"]}, dtype=object)
    for step in (make_pipeline(_FILL, OneHotEncoder()), OneHotEncoder(), OrdinalEncoder()):
        with pytest.raises(ArtifactRejectedError, match=r"empty|twice"):
            to_spec(ColumnTransformer([("it", step, ["text"])]).fit(empty))
