from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from registry.errors import ArtifactRejectedError, InvalidFeaturesError, ModelUnusableError
from registry.model import ModelSchema, OutputKind, OutputSchema, Runtime
from scorer.engine import Engine, Rows, engine_for

KINDS = {
    "binary": ("probabilities", OutputKind.CLASS_PROBABILITIES, ("0", "1")),
    "multiclass": ("probabilities", OutputKind.CLASS_PROBABILITIES, ("0", "1", "2")),
    "multiclassova": ("probabilities", OutputKind.CLASS_PROBABILITIES, ("0", "1", "2")),
    "two_class_multiclass": ("probabilities", OutputKind.CLASS_PROBABILITIES, ("0", "1")),
    "regression": ("value", OutputKind.REGRESSION, ()),
    "poisson": ("value", OutputKind.REGRESSION, ()),
    "cross_entropy": ("value", OutputKind.REGRESSION, ()),
    "lambdarank": ("scores", OutputKind.RANKING, ()),
    "categorical": ("value", OutputKind.REGRESSION, ()),
    "random_forest": ("probabilities", OutputKind.CLASS_PROBABILITIES, ("0", "1")),
    "one_leaf": ("probabilities", OutputKind.CLASS_PROBABILITIES, ("0", "1")),
}


@pytest.fixture
def engine() -> Engine:
    return engine_for(Runtime.LIGHTGBM)


def as_output(answer: np.ndarray, columns: tuple[str, ...]) -> np.ndarray:
    """What the library's own package predicts, in the shape of our output."""
    return np.stack([1.0 - answer, answer], axis=1) if columns and answer.ndim == 1 else answer


@pytest.mark.parametrize("key", KINDS)
def test_describe_reads_features_and_output(engine: Engine, lightgbm_models: dict[str, Any], key: str) -> None:
    model = lightgbm_models[key]
    schema = engine.describe(model.artifact)
    assert schema.outputs == (OutputSchema(*KINDS[key]),)
    assert len(schema.features) == model.rows.shape[1]
    assert schema.string_columns == ()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("key", KINDS)
def test_predictions_equal_the_library_bit_for_bit(
    engine: Engine, lightgbm_models: dict[str, Any], key: str, dtype: type
) -> None:
    trained = lightgbm_models[key]
    schema = engine.describe(trained.artifact)
    model = engine.load(trained.artifact, schema)
    rows = trained.rows.astype(dtype)
    want = as_output(np.asarray(trained.predict(rows)), schema.outputs[0].columns)
    (together,) = model.predict(Rows(rows, {}))
    one_by_one = np.concatenate([model.predict(Rows(rows[i : i + 1], {}))[0] for i in range(len(rows))])
    model.close()
    assert together.dtype == np.float64
    np.testing.assert_array_equal(together, want, strict=True)
    np.testing.assert_array_equal(one_by_one, want, strict=True)


@pytest.mark.parametrize(
    "dense",
    [
        np.zeros((1, 29)),
        np.zeros((1, 31)),
        np.zeros((2, 29), np.float32),
        np.zeros(30),
        np.zeros((0, 30)),
        np.zeros((1, 30), np.int64),
        np.zeros((1, 30), ">f8"),
        np.zeros((1, 1, 30)),
    ],
    ids=lambda dense: f"{dense.shape}-{dense.dtype.str}",
)
def test_rows_that_do_not_fit_are_refused(engine: Engine, lightgbm_models: dict[str, Any], dense: np.ndarray) -> None:
    artifact = lightgbm_models["binary"].artifact
    model = engine.load(artifact, engine.describe(artifact))
    with pytest.raises(InvalidFeaturesError, match=r"got features .* wanted"):
        model.predict(Rows(dense, {}))
    model.close()


def test_rows_with_strides_are_read_in_order(engine: Engine, lightgbm_models: dict[str, Any]) -> None:
    trained = lightgbm_models["binary"]
    model = engine.load(trained.artifact, engine.describe(trained.artifact))
    for rows in (np.asfortranarray(trained.rows), np.repeat(trained.rows, 2, axis=1)[:, ::2]):
        (many,) = model.predict(Rows(rows[:7], {}))
        (one,) = model.predict(Rows(rows[3:4], {}))
        np.testing.assert_array_equal(many[:, 1], trained.predict(trained.rows[:7]))
        np.testing.assert_array_equal(one[0], many[3])
    model.close()


def test_answers_belong_to_the_caller(engine: Engine, lightgbm_models: dict[str, Any]) -> None:
    trained = lightgbm_models["multiclass"]
    model = engine.load(trained.artifact, engine.describe(trained.artifact))
    (first,) = model.predict(Rows(trained.rows[:1], {}))
    kept = first.copy()
    model.predict(Rows(trained.rows[100:101], {}))
    model.close()
    np.testing.assert_array_equal(first, kept)


def test_threads_that_share_a_model_get_their_own_answers(engine: Engine, lightgbm_models: dict[str, Any]) -> None:
    trained = lightgbm_models["binary"]
    model = engine.load(trained.artifact, engine.describe(trained.artifact))
    want = trained.predict(trained.rows)
    wrong: list[int] = []

    def score(start: int) -> None:
        for i in range(start, len(want)):
            for count in (1, 3):
                (got,) = model.predict(Rows(trained.rows[i : i + count], {}))
                if not np.array_equal(got[:, 1], want[i : i + count]):
                    wrong.append(i)

    threads = [threading.Thread(target=score, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    assert wrong == []


def test_a_schema_of_another_model_is_refused(engine: Engine, lightgbm_models: dict[str, Any]) -> None:
    binary, multiclass = lightgbm_models["binary"].artifact, lightgbm_models["multiclass"].artifact
    with pytest.raises(ModelUnusableError, match="the model has 30 features, its schema 10"):
        engine.load(binary, engine.describe(lightgbm_models["regression"].artifact))
    outputs = engine.describe(multiclass).outputs
    with pytest.raises(ModelUnusableError, match="the model gives 1 numbers a row, its schema wants 3"):
        engine.load(binary, ModelSchema(engine.describe(binary).features, outputs))


def test_bytes_that_are_no_model_are_refused(engine: Engine, lightgbm_models: dict[str, Any]) -> None:
    with pytest.raises(ArtifactRejectedError):
        engine.describe(b"not a model")
    with pytest.raises(ModelUnusableError, match="LightGBM can't load"):
        engine.load(b"not a model", engine.describe(lightgbm_models["binary"].artifact))
