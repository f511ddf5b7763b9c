from __future__ import annotations

import json
import re
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import ArtifactRejectedError
from registry.lightgbm_slim import slim
from registry.lightgbm_text import check_lightgbm_text
from scorer.engine import Rows
from scorer.engines.lightgbm import ENGINE

KINDS = [
    *("binary", "multiclass", "multiclassova", "two_class_multiclass", "regression", "poisson", "cross_entropy"),
    *("lambdarank", "categorical", "random_forest", "one_leaf"),
]
HOSTILE = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 1e-310, 5.0, 39.0, 40.0, 2.0**31, 2.0**53]


def answers(artifact: bytes, dense: np.ndarray) -> np.ndarray:
    """What a scorer says, as bits, so that NaN equals itself."""
    model = ENGINE.load(artifact, ENGINE.describe(artifact))
    (answer,) = model.predict(Rows(dense, {}))
    model.close()
    return answer.view(np.int64)


def lines(artifact: bytes, key: str) -> list[bytes]:
    return re.findall(rf"^{key}=(.*)$".encode(), artifact, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_bit_identical(lightgbm_models: dict[str, Any], kind: str) -> None:
    full, rows = lightgbm_models[kind].artifact, lightgbm_models[kind].rows
    generator = np.random.default_rng(0)
    hostile = generator.choice(HOSTILE, rows.shape)
    mixed = np.where(generator.random(rows.shape) < 0.2, hostile, rows)
    with np.errstate(over="ignore"):
        narrow = mixed.astype(np.float32)
    for dense in (rows, hostile, mixed, narrow, rows[:1]):
        np.testing.assert_array_equal(answers(slim(full), dense), answers(full, dense))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_canonical(lightgbm_models: dict[str, Any], kind: str) -> None:
    full = lightgbm_models[kind].artifact
    slimmed = slim(full)
    check_lightgbm_text(slimmed)
    assert slim(slimmed) == slimmed
    assert ENGINE.describe(slimmed) == ENGINE.describe(full)
    assert len(slimmed) < 0.7 * len(full)
    # The same model after the library has read and written it.
    again = lightgbm.Booster(model_str=full.decode()).model_to_string().encode()
    assert slim(again) == slimmed


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_reads_the_same_numbers(lightgbm_models: dict[str, Any], kind: str) -> None:
    full = lightgbm_models[kind].artifact
    again = lightgbm.Booster(model_str=slim(full).decode()).model_to_string().encode()
    for key in (
        "split_feature",
        "threshold",
        "decision_type",
        "left_child",
        "cat_threshold",
        "leaf_value",
        "shrinkage",
    ):
        assert lines(again, key) == lines(full, key)
    for key in ("objective", "feature_names", "feature_infos", "label_index", "max_feature_idx", "num_class"):
        assert lines(again, key) == lines(full, key)


def test_what_training_noted_is_gone(lightgbm_models: dict[str, Any]) -> None:
    slimmed = slim(lightgbm_models["categorical"].artifact)
    for word in (
        b"split_gain",
        b"leaf_weight",
        b"leaf_count",
        b"internal_",
        b"parameters",
        b"importances",
        b"[",
        b"\n\n\n",
    ):
        assert word not in slimmed.replace(lines(slimmed, "feature_infos")[0], b"")


def test_averages_and_constraints_stay() -> None:
    generator = np.random.default_rng(1)
    dense = generator.normal(size=(400, 3))
    settings = {"verbose": -1, "num_threads": 1, "monotone_constraints": [1, 0, -1]}
    forest = {"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}
    booster = lightgbm.train(settings | forest, lightgbm.Dataset(dense, dense[:, 0] - dense[:, 2]), 5)
    full = booster.model_to_string().encode()
    slimmed = slim(full)
    assert b"\naverage_output\n" in slimmed
    assert lines(slimmed, "monotone_constraints") == [b"1 0 -1"]
    np.testing.assert_array_equal(answers(slimmed, dense), answers(full, dense))


def test_categories_of_a_data_frame_stay(lightgbm_models: dict[str, Any]) -> None:
    categories = [["Oslo", "São Paulo", 'a "quoted" one', "東京"], [1, 2.5, -3], [True, False]]
    line = b"pandas_categorical:" + json.dumps(categories).encode()
    full = lightgbm_models["binary"].artifact.replace(b"pandas_categorical:null", line)
    check_lightgbm_text(full)
    slimmed = slim(full)
    check_lightgbm_text(slimmed)
    assert slim(slimmed) == slimmed
    assert lightgbm.Booster(model_str=slimmed.decode()).pandas_categorical == categories


@pytest.fixture(scope="session")
def stump(lightgbm_models: dict[str, Any]) -> bytes:
    """A regression of one tree, which is one leaf."""
    text = lightgbm_models["one_leaf"].artifact.replace(b"objective=binary sigmoid:1", b"objective=regression")
    assert text.count(b"\nTree=") == 1
    return bytes(text)


@given(number=st.floats(allow_nan=False, allow_infinity=False), spelled=st.sampled_from(["{!r}", "{:.17g}", "{:.25e}"]))
def test_numbers_read_back_the_same(stump: bytes, number: float, spelled: str) -> None:
    """However the value of a leaf is spelled, the answer is the number that Python reads."""
    tree = stump[stump.index(b"Tree=0\n") : stump.index(b"end of trees")]
    changed = re.sub(rb"leaf_value=\S+", b"leaf_value=" + spelled.format(number).encode(), tree)
    text = re.sub(rb"tree_sizes=[^\n]*", b"tree_sizes=%d" % len(changed), stump).replace(tree, changed)
    slimmed = slim(text)
    for artifact in (text, slimmed):
        check_lightgbm_text(artifact)
        assert answers(artifact, np.zeros((1, 30))) == np.array([number + 0.0]).view(np.int64)  # it adds to 0.0


@pytest.mark.parametrize("categories", [b"[1]", b"{}", b'[["a"]', b"[[null]]", b'[["\\ud800"]]', b"[" * 100_000])
def test_damaged_categories_are_refused(lightgbm_models: dict[str, Any], categories: bytes) -> None:
    line = b"pandas_categorical:" + categories
    text = lightgbm_models["binary"].artifact.replace(b"pandas_categorical:null", line)
    with pytest.raises(ArtifactRejectedError, match="pandas_categorical is no list of lists"):
        check_lightgbm_text(text)
