from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from registry.detect import detect_runtime
from registry.errors import ArtifactRejectedError
from registry.model import OutputKind, OutputSchema, Runtime
from registry.ubjson import BadUbjsonError, Typed, decode, encode
from registry.xgboost_model import Forest, describe_xgboost, read_xgboost
from registry.xgboost_rewrite import rewrite
from registry.xgboost_tree import MAX_DEPTH

OBJECTIVES = [
    *("reg:squarederror", "reg:squaredlogerror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"),
    *("reg:logistic", "reg:gamma", "reg:tweedie", "count:poisson", "survival:cox", "binary:logitraw"),
    *("binary:logistic", "multi:softprob", "rank:pairwise", "rank:ndcg", "rank:map"),
]
KINDS: dict[str, dict[str, Any]] = {
    "parallel": {"num_parallel_tree": 3, "subsample": 0.5},
    "pruned": {"gamma": 500.0, "tree_method": "exact", "max_depth": 6},
    "several targets": {},
    "dart": {"booster": "dart", "rate_drop": 0.5},
}
Model = dict[str, Any]


def train(rows: np.ndarray, target: np.ndarray, **parameters: Any) -> xgboost.Booster:
    matrix = xgboost.DMatrix(rows, target)
    if parameters.get("objective", "").startswith("rank:"):
        matrix.set_group([34] * 13)
    return xgboost.train({"max_depth": 4, "nthread": 1, "seed": 1, **parameters}, matrix, 6)


def of_objective(objective: str) -> tuple[xgboost.Booster, np.ndarray]:
    more: dict[str, Any] = {"quantile_alpha": [0.1, 0.9]} if "quantile" in objective else {}
    rows, target = (load_iris if objective == "multi:softprob" else load_diabetes)(return_X_y=True)
    if objective == "multi:softprob":
        return train(rows, target, objective=objective, num_class=3), rows
    if objective.startswith(("binary:", "rank:")) or objective == "reg:logistic":
        target = (target > 140).astype(float)
    rows = rows.copy()
    rows[::7, 2] = np.nan
    return train(rows, target, objective=objective, **more), rows


def load(data: bytes) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(data))
    return booster


def check_rewrite(booster: xgboost.Booster, rows: np.ndarray) -> Forest:
    """The rewritten model answers and explains as the original does, to the last bit, whichever form it came in."""
    forests = [read_xgboost(bytes(booster.save_raw(form))) for form in ("ubj", "json")]
    written = [rewrite(forest) for forest in forests]
    assert written[0] == written[1]
    assert rewrite(read_xgboost(written[0])) == written[0]
    again = load(written[0])
    np.testing.assert_array_equal(again.inplace_predict(rows), booster.inplace_predict(rows))
    wanted = booster.predict(xgboost.DMatrix(rows), pred_contribs=True)
    np.testing.assert_array_equal(again.predict(xgboost.DMatrix(rows), pred_contribs=True), wanted)
    return forests[0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_written_anew(objective: str) -> None:
    forest = check_rewrite(*of_objective(objective))
    assert all(tree.has_counts for tree in forest.trees)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_forest_is_written_anew(kind: str) -> None:
    rows, target = load_diabetes(return_X_y=True)
    targets = np.stack([target, rows[:, 0]], axis=1) if kind == "several targets" else target
    booster = train(rows, targets, **KINDS[kind])
    forest = check_rewrite(booster, rows)
    if kind == "pruned":
        assert len(rewrite(forest)) < len(booster.save_raw("ubj"))
    if kind == "several targets":
        assert describe_xgboost(forest).outputs == (OutputSchema("values", OutputKind.MULTI_OUTPUT, ("0", "1")),)


@pytest.mark.parametrize("fourth", ["Turku", "Ålesund"])
def test_categories_are_kept_and_described(fourth: str) -> None:
    pandas = pytest.importorskip("pandas")
    rows, target = load_diabetes(return_X_y=True)
    cities = np.array(["Oslo", "Rome", "Bergen", fourth])[np.arange(len(rows)) % 4]
    frame = pandas.DataFrame({"city": pandas.Categorical(cities), "age": rows[:, 0]})
    matrix = xgboost.DMatrix(frame, target + 40.0 * (np.arange(len(rows)) % 4), enable_categorical=True)
    booster = xgboost.train({"max_cat_to_onehot": 1, "nthread": 1}, matrix, 5)
    forest = read_xgboost(bytes(booster.save_raw("ubj")))
    schema = describe_xgboost(forest)
    assert schema.features == ("city", "age")
    assert schema.dtypes == {"city": "category"}
    assert schema.categories == ({"city": ("Bergen", "Oslo", "Rome", fourth)} if fourth.isascii() else {})
    codes = np.stack([frame["city"].cat.codes.to_numpy().astype(float), rows[:, 0]], axis=1)
    np.testing.assert_array_equal(load(rewrite(forest)).inplace_predict(codes), booster.predict(matrix))


def test_an_estimator_answers_with_its_best_iteration(tmp_path: Any) -> None:
    rows, target = load_breast_cancer(return_X_y=True)
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, n_jobs=1, learning_rate=0.9)
    model.fit(rows[::2], target[::2], eval_set=[(rows[1::2], target[1::2])], verbose=False)
    model.save_model(tmp_path / "m.ubj")
    data = (tmp_path / "m.ubj").read_bytes()
    forest = read_xgboost(data)
    assert forest.kept_trees == model.best_iteration + 1 < len(forest.trees)
    got = load(rewrite(forest)).inplace_predict(rows)
    np.testing.assert_array_equal(got, model.predict_proba(rows)[:, 1])
    as_booster = read_xgboost(bytes(model.get_booster().save_raw("ubj")))
    assert as_booster.kept_trees == len(as_booster.trees)


def test_older_files_have_one_base_score_and_no_rounds() -> None:
    model = json.loads(sound())
    model["version"] = [1, 7, 5]
    model["learner"]["learner_model_param"]["base_score"] = "5E-1"
    del model["learner"]["gradient_booster"]["model"]["iteration_indptr"]
    del model["learner"]["gradient_booster"]["model"]["cats"]
    data = json.dumps(model).encode()
    rows = load_iris(return_X_y=True)[0]
    np.testing.assert_array_equal(
        load(rewrite(read_xgboost(data))).inplace_predict(rows), load(data).inplace_predict(rows)
    )


@cache
def sound() -> bytes:
    rows, target = load_iris(return_X_y=True)
    return bytes(train(rows, (target > 0).astype(float), objective="binary:logistic").save_raw("json"))


def tree(model: Model) -> Any:
    return model["learner"]["gradient_booster"]["model"]["trees"][1]


def set_tree(key: str, place: int, value: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        tree(model)[key][place] = value

    return change


def set_in(path: str, value: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        *folders, last = path.split("/")
        where: Any = model["learner"]
        for folder in folders:
            where = where[int(folder)] if isinstance(where, list) else where[folder]
        where[last] = value

    return change


def deep(model: Model) -> None:
    """A chain of left children."""
    splits = MAX_DEPTH + 2
    count = 2 * splits + 1
    chain = tree(model)
    for key, value in {"split_indices": 0, "default_left": 0, "split_type": 0}.items():
        chain[key] = [value] * count
    for key in ("split_conditions", "base_weights", "loss_changes", "sum_hessian"):
        chain[key] = [1.0] * count
    chain["left_children"] = [-1] * count
    chain["right_children"] = [-1] * count
    chain["parents"] = [2**31 - 1] + [0] * (count - 1)
    at = 0
    for child in range(1, count, 2):
        chain["left_children"][at], chain["right_children"][at] = child, child + 1
        chain["parents"][child] = chain["parents"][child + 1] = at
        at = child
    chain["tree_param"]["num_nodes"] = str(count)


DAMAGES: dict[str, tuple[Callable[[Model], None], str]] = {
    "cycle": (set_tree("left_children", 1, 1), "form one tree|one child"),
    "outside": (set_tree("left_children", 0, 10_000), "outside the tree"),
    "apart": (set_tree("right_children", 0, 1), "not side by side"),
    "one child": (set_tree("right_children", 0, -1), "one child"),
    "feature": (set_tree("split_indices", 0, 4), "split_indices is outside 0-3"),
    "parent": (set_tree("parents", 1, 2), "parents don't fit"),
    "leaf": (set_tree("split_conditions", -1, 1e39), "leaf is not finite"),
    "hessian": (set_tree("sum_hessian", 0, -1.0), "sum_hessian is negative"),
    "category": (set_tree("split_type", 0, 1), "categories_nodes are not those"),
    "kind": (set_tree("split_type", 0, 2), "split_type is unknown"),
    "text in a list": (set_tree("left_children", 0, "1"), "left_children is no list of numbers"),
    "fraction": (set_tree("left_children", 0, 1.5), "aren't whole"),
    "length": (lambda model: tree(model)["left_children"].pop(), "left_children has .* entries"),
    "no list": (set_in("gradient_booster/model/trees/1/parents", 7), "parents is no list"),
    "id": (set_in("gradient_booster/model/trees/1/id", 0), "has another id"),
    "no tree": (set_in("gradient_booster/model/trees", []), "has 0 trees"),
    "vector leaves": (set_in("gradient_booster/model/trees/1/tree_param/size_leaf_vector", "2"), "several numbers"),
    "nodes": (set_in("gradient_booster/model/trees/1/tree_param/num_nodes", "-1"), "has no num_nodes"),
    "group": (set_in("gradient_booster/model/tree_info", [0, 1, 0, 0, 0, 0]), "tree_info is outside 0-0"),
    "rounds": (set_in("gradient_booster/model/iteration_indptr", [0, 6]), "iteration_indptr doesn't fit"),
    "width": (set_in("gradient_booster/model/gbtree_model_param/num_parallel_tree", "4"), "no whole rounds"),
    "booster": (set_in("gradient_booster/name", "gblinear"), "only gbtree and dart"),
    "softmax": (set_in("objective/name", "multi:softmax"), "multi:softprob"),
    "objective": (set_in("objective/name", "binary:hinge"), "binary:hinge' can't be scored"),
    "base": (set_in("learner_model_param/base_score", "[2E0]"), "base_score is outside 0 to 1"),
    "base text": (set_in("learner_model_param/base_score", "[a]"), "base_score is no number"),
    "classes": (set_in("learner_model_param/num_class", "3"), "3 classes"),
    "features": (set_in("learner_model_param/num_feature", "0"), "num_feature is 0"),
    "names": (set_in("feature_names", ["a", "a", "b", "c"]), "empty or repeated name"),
    "too few names": (set_in("feature_names", ["a"]), "not one text a feature"),
    "old": (lambda model: model.update(version=[1, 4, 0]), "1.6 or newer"),
    "no version": (lambda model: model.pop("version"), "has no version"),
    "no learner": (lambda model: model.pop("learner"), "no XGBoost model"),
    "depth": (deep, f"deeper than {MAX_DEPTH}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str) -> None:
    change, words = DAMAGES[damage]
    model = json.loads(sound())
    change(model)
    with pytest.raises(ArtifactRejectedError, match=words):
        read_xgboost(json.dumps(model).encode())


@pytest.mark.parametrize("data", [b"{}", b'{"a": 1}', b"{L", b'{"learner"', b'{"x":' + b"[" * 10_000, b"{i\x01ai\x01}"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    assert detect_runtime(data[:64]) is Runtime.XGBOOST
    with pytest.raises(ArtifactRejectedError):
        read_xgboost(data)


def test_a_model_without_weights_of_nodes_has_no_counts() -> None:
    model = json.loads(sound())
    tree(model)["sum_hessian"] = [0.0] * len(tree(model)["sum_hessian"])
    trees = read_xgboost(json.dumps(model).encode()).trees
    assert [each.has_counts for each in trees] == [True, False, *[True] * 4]


def test_ubjson_goes_back_and_forth() -> None:
    value = {
        "b": [1, "x", 1.5],
        "a": {"empty": {}},
        "typed": Typed("l", np.array([1, -2])),
        "none": Typed("d", np.zeros(0)),
    }
    got = decode(encode(value))
    assert list(got) == ["a", "b", "none", "typed"]
    assert got["b"] == [1, "x", 1.5]
    np.testing.assert_array_equal(got["typed"], [1, -2])
    assert got["typed"].dtype == np.int32


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off"),
        (b"{}x", "something follows"),
        (b"[#L\x7f\0\0\0\0\0\0\0", "longer than what is there"),
        (b"[$l#L\0\0\0\0\x7f\0\0\0", "longer than what is there"),
        (b"[$S#i\x01", "unknown type"),
        (b"[i\x01]", "no length"),
        (b"{i\x01ai\x01i\x01ai\x01}", "comes twice"),
        (b"[#i\x01" * 20 + b"Z", "nested too deeply"),
        (b"Si\xff", "longer than"),
        (b"Si\x01\xff", "not UTF-8"),
        (b"H", "no value begins with"),
    ],
    ids=str,
)
def test_ubjson_that_is_none_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadUbjsonError, match=words):
        decode(data)
