"""Real models of XGBoost and scikit-learn, trained on real data sets, against what a scorer makes of the ONNX file."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas
import pytest
import skops.io
import xgboost
from sklearn import datasets
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, QuantileTransformer, StandardScaler
from sklearn.svm import SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from ops.convert import Converted, Source, convert, convertible
from ops.sample_rows import read_sample_rows
from registry.errors import ArtifactRejectedError
from registry.model import OutputKind, Runtime
from registry.onnx_graph import check_onnx
from scorer.engine import LoadedModel, Rows, engine_for
from scorer.transforms import SharedTables, TransformedModel, compile_transform


class Data(NamedTuple):
    rows: np.ndarray
    target: np.ndarray


def data(name: str, missing: bool = False) -> Data:
    rows, target = getattr(datasets, f"load_{name}")(return_X_y=True)
    if missing:
        rows = rows.copy()
        rows[::5, 1] = rows[::7, 2] = rows[2::9, 0] = np.nan
    return Data(rows, target)


def grades(target: np.ndarray) -> np.ndarray:
    return np.asarray(np.digitize(target, [90, 140, 200]))


def scored(converted: Converted, rows: np.ndarray, strings: dict[str, list[str]] | None = None) -> np.ndarray:
    """What a scorer answers, after the checks of admission."""
    check_onnx(converted.data)
    engine = engine_for(Runtime.ONNX)
    model: LoadedModel = engine.load(converted.data, engine.describe(converted.data))
    if converted.transforms is not None:
        model = TransformedModel(model, compile_transform(converted.transforms, SharedTables()))
    answer = model.predict(Rows(np.ascontiguousarray(rows, dtype=np.float64), strings or {}))[0]
    model.close()
    return answer


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    size = np.abs(want).max()
    np.testing.assert_allclose(got / size, want.reshape(got.shape) / size, rtol=0, atol=1e-5)


def assert_golden(converted: Converted) -> None:
    """The golden rows hold in the engine, within their tolerance."""
    golden = converted.golden
    rows = np.array([[np.nan if cell is None else cell for cell in row] for row in golden.dense])
    got = scored(converted, rows, {name: list(values) for name, values in golden.strings.items()})
    (want,) = golden.outputs.values()
    np.testing.assert_allclose(got.ravel(), np.array(want), rtol=golden.tolerance, atol=golden.tolerance)
    assert 0 < golden.tolerance <= 1e-3


XGBOOST: dict[str, tuple[dict[str, Any], Callable[[bool], Data]]] = {
    "binary": ({"objective": "binary:logistic"}, lambda gaps: data("breast_cancer", gaps)),
    "unsure": ({"objective": "binary:logistic", "base_score": 0.5}, lambda gaps: data("breast_cancer", gaps)),
    "logit": ({"objective": "binary:logitraw"}, lambda gaps: data("breast_cancer", gaps)),
    "share": ({"objective": "reg:logistic"}, lambda gaps: data("breast_cancer", gaps)),
    "multiclass": ({"objective": "multi:softprob", "num_class": 3}, lambda gaps: data("wine", gaps)),
    "softmax": ({"objective": "multi:softmax", "num_class": 10}, lambda gaps: data("digits", gaps)),
    "two_classes": ({"objective": "multi:softprob", "num_class": 2}, lambda gaps: data("breast_cancer", gaps)),
    "regression": ({"objective": "reg:squarederror"}, lambda gaps: data("diabetes", gaps)),
    "absolute": ({"objective": "reg:absoluteerror"}, lambda gaps: data("diabetes", gaps)),
    "poisson": ({"objective": "count:poisson"}, lambda gaps: data("diabetes", gaps)),
    "gamma": ({"objective": "reg:gamma"}, lambda gaps: data("diabetes", gaps)),
    "tweedie": ({"objective": "reg:tweedie"}, lambda gaps: data("diabetes", gaps)),
    "quantiles": (
        {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5]},
        lambda gaps: data("diabetes", gaps),
    ),
    "targets": ({"objective": "reg:squarederror"}, lambda gaps: data("linnerud", gaps)),
    "dart": (
        {"booster": "dart", "rate_drop": 0.5, "objective": "reg:squarederror"},
        lambda gaps: data("diabetes", gaps),
    ),
    "forest": (
        {"objective": "binary:logistic", "num_parallel_tree": 4, "subsample": 0.5},
        lambda gaps: data("breast_cancer", gaps),
    ),
    "pruned": (
        {"objective": "reg:squarederror", "gamma": 5000, "tree_method": "exact"},
        lambda gaps: data("diabetes", gaps),
    ),
    "ranking": ({"objective": "rank:pairwise"}, lambda gaps: data("diabetes", gaps)),
    "ndcg": ({"objective": "rank:ndcg"}, lambda gaps: data("diabetes", gaps)),
}


def train(parameters: dict[str, Any], learned: Data, rounds: int = 20) -> Any:
    target = grades(learned.target) if parameters["objective"].startswith("rank") else learned.target
    matrix = xgboost.DMatrix(learned.rows, target, nthread=1)
    if parameters["objective"].startswith("rank"):
        matrix.set_group([34] * 13)
    return xgboost.train({"nthread": 1, "seed": 1, **parameters}, matrix, rounds)


@pytest.mark.parametrize("gaps", [False, True], ids=["full", "missing"])
@pytest.mark.parametrize("key", XGBOOST)
def test_xgboost(tmp_path: Path, key: str, gaps: bool) -> None:
    parameters, load = XGBOOST[key]
    learned = load(gaps)
    booster = train(parameters, learned)
    path = tmp_path / f"model.{'ubj' if gaps else 'json'}"
    booster.save_model(path)
    assert convertible(path) is Source.XGBOOST
    converted = convert(path, None)
    got = scored(converted, learned.rows)
    if key == "softmax":
        np.testing.assert_array_equal(got.argmax(axis=1), booster.predict(xgboost.DMatrix(learned.rows)))
    else:
        want = booster.predict(xgboost.DMatrix(learned.rows, nthread=1))
        assert_same(got[:, 1] if got.ndim == 2 and want.ndim == 1 else got, want)
    assert_golden(converted)
    assert converted.training["objective"] == parameters["objective"]


def test_xgboost_keeps_names_and_the_best_iteration(tmp_path: Path) -> None:
    rows, target = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
    model = xgboost.XGBClassifier(n_estimators=200, early_stopping_rounds=2, n_jobs=1, learning_rate=0.9)
    model.fit(rows[:300], target[:300], eval_set=[(rows[300:], target[300:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    model.save_model(tmp_path / "model.json")
    joblib.dump(model, tmp_path / "model.joblib")
    answers = []
    for name in ("model.json", "model.joblib"):
        converted = convert(tmp_path / name, None)
        schema = engine_for(Runtime.ONNX).describe(converted.data)
        assert schema.features == tuple(rows.columns)
        assert schema.outputs[0].kind is OutputKind.CLASS_PROBABILITIES
        assert schema.outputs[0].columns == ("0", "1")
        answers.append(scored(converted, rows.to_numpy()))
        assert_same(answers[-1], model.predict_proba(rows))
    np.testing.assert_array_equal(answers[0], answers[1])


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"objective": "binary:hinge"}, "objective binary:hinge"),
        ({"objective": "reg:squarederror", "booster": "gblinear"}, "booster gblinear"),
    ],
)
def test_xgboost_that_cant_be_converted(tmp_path: Path, parameters: dict[str, Any], told: str) -> None:
    train(parameters, data("breast_cancer"), 2).save_model(tmp_path / "model.json")
    with pytest.raises(ArtifactRejectedError, match=told):
        convert(tmp_path / "model.json", None)


def test_xgboost_that_splits_on_categories(tmp_path: Path) -> None:
    rows, target = data("diabetes")
    codes = (np.arange(len(rows)) * 7 % 12).astype(np.float32)
    matrix = xgboost.DMatrix(codes[:, None], target + 50 * (codes % 5), feature_types=["c"], enable_categorical=True)
    xgboost.train({"objective": "reg:squarederror", "max_cat_to_onehot": 1}, matrix, 3).save_model(tmp_path / "m.json")
    with pytest.raises(ArtifactRejectedError, match="splits on categories"):
        convert(tmp_path / "m.json", None)


def test_xgboost_with_another_missing_value(tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(n_estimators=2, missing=-1.0).fit(*data("diabetes"))
    joblib.dump(model, tmp_path / "m.joblib")
    with pytest.raises(ArtifactRejectedError, match=r"missing=-1\.0"):
        convert(tmp_path / "m.joblib", None)


SKLEARN: dict[str, tuple[Any, Data]] = {
    "logistic": (LogisticRegression(max_iter=5000), data("iris")),
    "scaled_logistic": (make_pipeline(StandardScaler(), LogisticRegression()), data("breast_cancer")),
    "network": (make_pipeline(MinMaxScaler(), MLPClassifier((16,), max_iter=2000, random_state=1)), data("digits")),
    "bayes": (GaussianNB(), data("wine")),
    "calibrated": (make_pipeline(StandardScaler(), CalibratedClassifierCV(LinearSVC())), data("breast_cancer")),
    "tree": (DecisionTreeClassifier(max_depth=4, random_state=1), data("iris")),
    "forest": (RandomForestClassifier(30, random_state=1), data("wine")),
    "forest_missing": (RandomForestClassifier(30, random_state=1), data("wine", missing=True)),
    "tree_missing": (DecisionTreeClassifier(random_state=1), data("wine", missing=True)),
    "scaled_forest": (make_pipeline(StandardScaler(), RandomForestClassifier(30, random_state=1)), data("wine")),
    "extra_trees": (ExtraTreesClassifier(20, random_state=1), data("digits")),
    "boosting": (GradientBoostingClassifier(n_estimators=20, random_state=1), data("wine")),
    "hist": (HistGradientBoostingClassifier(max_iter=20), data("breast_cancer")),
    "hist_multiclass": (HistGradientBoostingClassifier(max_iter=10), data("wine")),
    "hist_missing": (HistGradientBoostingClassifier(max_iter=20), data("breast_cancer", missing=True)),
    "hist_regression": (HistGradientBoostingRegressor(max_iter=30), data("diabetes")),
    "imputed": (make_pipeline(SimpleImputer(), StandardScaler(), Ridge()), data("diabetes", missing=True)),
    "imputed_boosting": (
        make_pipeline(SimpleImputer(), GradientBoostingRegressor(random_state=1)),
        data("diabetes", missing=True),
    ),
    "linear": (LinearRegression(), data("diabetes")),
    "poisson": (PoissonRegressor(), data("diabetes")),
    "support": (make_pipeline(StandardScaler(), SVR()), data("diabetes")),
    "selected": (make_pipeline(SelectKBest(k=5), Ridge()), data("diabetes")),
    "forest_regression": (RandomForestRegressor(20, random_state=1), data("diabetes")),
    "several": (Ridge(), data("linnerud")),
    "searched": (GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}), data("diabetes")),
}


@pytest.mark.parametrize("key", SKLEARN)
def test_sklearn(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    estimator, learned = SKLEARN[key]
    estimator.fit(*learned)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(estimator))
    assert convertible(path) is Source.PICKLE
    converted = convert(path, None)
    assert capsys.readouterr().err == f"reading {path} runs the code in it: it is a pickle\n"
    predict = estimator.predict_proba if hasattr(estimator, "classes_") else estimator.predict
    assert_same(scored(converted, learned.rows), predict(learned.rows))
    assert_golden(converted)
    schema = engine_for(Runtime.ONNX).describe(converted.data)
    if hasattr(estimator, "classes_"):
        assert schema.outputs[0].columns == tuple(map(str, estimator.classes_))
    assert converted.worst_difference < 1e-5


def table() -> tuple[pandas.DataFrame, np.ndarray]:
    """The wine data with two text columns, a number that stands for a category, and a column that no model uses."""
    wine = datasets.load_wine(as_frame=True)
    rows, chance = wine.data.copy(), np.random.default_rng(5)
    rows.insert(2, "city of birth", chance.choice(["Oslo", "Rome", "Wien"], len(rows)))
    rows["size"] = np.where(rows["alcohol"] > 13, "large", chance.choice(["small", "medium"], len(rows)))
    rows["year"] = chance.choice([2019, 2020, 2021], len(rows))
    rows["note"] = "text that nobody reads"
    return rows, wine.target.to_numpy()


def prepared() -> ColumnTransformer:
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["alcohol", "ash", "proline", "hue"]),
            ("city", OneHotEncoder(handle_unknown="ignore"), ["city of birth"]),
            ("size", OrdinalEncoder(), ["size"]),
            ("year", OneHotEncoder(handle_unknown="ignore"), ["year"]),
            ("rest", "passthrough", ["od280/od315_of_diluted_wines"]),
        ]
    )


TABLE_NUMBERS = ("alcohol", "ash", "hue", "od280/od315_of_diluted_wines", "proline", "year")
TABLE_TEXTS = ("city of birth", "size")


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=2000),
        RandomForestClassifier(30, random_state=1),
        HistGradientBoostingClassifier(max_iter=10),
        xgboost.XGBClassifier(n_estimators=10, n_jobs=1),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("graph", [False, True], ids=["spec", "graph"])
def test_tables_with_text_columns(tmp_path: Path, model: Any, graph: bool) -> None:
    """As a spec and a model behind it; as one graph where a part of it is nothing for a spec."""
    rows, target = table()
    before = prepared()
    if graph:
        before.transformers.append(("axis", make_pipeline(SimpleImputer(), PCA(1)), ["alcohol", "hue"]))
    pipeline = make_pipeline(before, model).fit(rows, target)
    joblib.dump(pipeline, tmp_path / "model.joblib", compress=3)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    for sample in (None, read_sample_rows(tmp_path / "rows.csv")):
        converted = convert(tmp_path / "model.joblib", sample)
        schema = engine_for(Runtime.ONNX).describe(converted.data)
        assert schema.outputs[0].columns == ("0", "1", "2")
        assert (converted.transforms is None) == graph
        sent = converted.transforms or schema
        assert sorted(sent.features) == sorted(TABLE_NUMBERS)
        assert sent.string_columns == TABLE_TEXTS
        strings = {name: rows[name].tolist() for name in TABLE_TEXTS}
        got = scored(converted, rows[list(sent.features)].to_numpy(), strings)
        assert_same(got, pipeline.predict_proba(rows))
        assert_golden(converted)
        assert set(converted.golden.strings) == set(TABLE_TEXTS)


@pytest.mark.parametrize("rest", ["passthrough", PCA(2)], ids=["spec", "graph"])
def test_text_labels_and_arrays_of_objects(tmp_path: Path, rest: Any) -> None:
    rows, target = table()
    array = rows[["city of birth", "alcohol", "hue"]].to_numpy(dtype=object)
    labels = np.array(["barbera", "barolo", "grignolino"])[target]
    encoder = ColumnTransformer([("city", OneHotEncoder(), [0])], remainder=rest)
    pipeline = make_pipeline(encoder, LogisticRegression(max_iter=5000)).fit(array, labels)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    converted = convert(tmp_path / "model.joblib", None)
    schema = engine_for(Runtime.ONNX).describe(converted.data)
    assert schema.outputs[0].columns == ("barbera", "barolo", "grignolino")
    got = scored(converted, array[:, 1:].astype(float), {"x0": array[:, 0].tolist()})
    assert_same(got, pipeline.predict_proba(array))


def test_skops_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = data("breast_cancer")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(*learned)
    skops.io.dump(pipeline, tmp_path / "model.skops")
    assert convertible(tmp_path / "model.skops") is Source.SKOPS
    converted = convert(tmp_path / "model.skops", None)
    assert capsys.readouterr().err == ""
    assert_same(scored(converted, learned.rows), pipeline.predict_proba(learned.rows))
    assert converted.training["estimator"] == "StandardScaler > LogisticRegression"


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also in another process, where sets and dictionaries of strings are in another order."""
    rows, target = table()
    joblib.dump(make_pipeline(prepared(), RandomForestClassifier(5)).fit(rows, target), tmp_path / "model.joblib")
    train(*_BINARY).save_model(tmp_path / "model.json")
    for name in ("model.joblib", "model.json"):
        program = (
            "import sys, pathlib; from ops.convert import convert; made = convert(pathlib.Path(sys.argv[1]), None);"
            "sys.stdout.buffer.write(made.data + repr(made.golden).encode())"
        )
        outputs = {
            subprocess.run(
                [sys.executable, "-c", program, tmp_path / name],
                capture_output=True, check=True, env={"PYTHONPATH": ".:protos", "PYTHONHASHSEED": seed},
            ).stdout
            for seed in ("1", "2")
        }  # fmt: skip
        assert len(outputs) == 1


_BINARY = ({"objective": "binary:logistic"}, data("breast_cancer"))


def test_a_difference_is_told(tmp_path: Path) -> None:
    """skl2onnx interpolates quantiles otherwise than scikit-learn."""
    learned = data("diabetes")
    model = make_pipeline(QuantileTransformer(n_quantiles=50), Ridge()).fit(*learned)
    joblib.dump(model, tmp_path / "model.joblib")
    np.save(tmp_path / "rows.npy", learned.rows)
    told = (
        r"differs in \d+ of 442 sample rows, most in row \d+, output variable: the original answers [\d.]+, ONNX [\d.]+"
    )
    with pytest.raises(ArtifactRejectedError, match=told):
        convert(tmp_path / "model.joblib", read_sample_rows(tmp_path / "rows.npy"))


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        ({"a": 1}, "has a dict; a classifier or a regressor"),
        (StandardScaler().fit(data("iris").rows), "has a StandardScaler"),
        (LogisticRegression(), "never trained"),
        (LinearSVC().fit(*data("iris")), "gives no probabilities"),
        (KNeighborsClassifier().fit(*data("iris")), "operator Scan is not accepted"),
    ],
    ids=["dict", "scaler", "untrained", "margin", "neighbours"],
)
def test_what_is_refused(tmp_path: Path, thing: Any, told: str) -> None:
    joblib.dump(thing, tmp_path / "model.joblib")
    with pytest.raises(ArtifactRejectedError, match=told):
        convert(tmp_path / "model.joblib", None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x80\x04damaged", "the pickle can't be read"),
        (b"\x80\x04cno_such_module\nModel\n.", "not installed: no_such_module"),
        (b'{"learner": 1}', "XGBoost can't read a model"),
        (b'{"some": "json"}', "XGBoost can't read a model"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner", "XGBoost can't read a model"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ArtifactRejectedError, match=told):
        convert(tmp_path / "model", None)


def test_what_needs_no_conversion(tmp_path: Path) -> None:
    for content in (b"tree\nversion=v4\n", b"\x08\x08\x12\x07skl2onnx", b"PK\x03\x04 no zip", b""):
        (tmp_path / "model").write_bytes(content)
        assert convertible(tmp_path / "model") is None
    with pytest.raises(ArtifactRejectedError, match="can't read"):
        convertible(tmp_path / "no such file")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(*_BINARY, 1).save_model(tmp_path / "model.json")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ArtifactRejectedError, match=r"xgboost is needed: pip install 'scoremesh\[convert\]'"):
        convert(tmp_path / "model.json", None)
