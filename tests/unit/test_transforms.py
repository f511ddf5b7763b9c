from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from registry.errors import ArtifactRejectedError, InvalidFeaturesError
from registry.model import ModelSchema, OutputKind, OutputSchema
from registry.transform_check import parse_spec
from registry.transform_tables import decode_table, join_tables, split_tables
from registry.transforms import TransformSpec, encode_spec
from scorer.engine import Rows
from scorer.engines.lightgbm import ENGINE
from scorer.transforms import SharedTables, Transform, TransformedModel, compile_transform
from scorer.transforms.compiled import WIDE
from scorer.transforms.samples import fit_rows


def _spec(**parts: Any) -> TransformSpec:
    return parse_spec(msgspec.json.encode({"features": [], "columns": [], **parts}, enc_hook=float))


def _column(input_: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"input": input_, "steps": list(steps), **more}


def _run(spec: TransformSpec, dense: Any, **strings: list[str]) -> np.ndarray:
    transform = compile_transform(spec, SharedTables())
    return transform(Rows(np.array(dense, np.float64), strings)).dense


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"columns": []}, "columns is empty"),
        ({"columns": [_column("b")]}, r"columns\[0\] \('b'\): there is no such feature"),
        ({"features": ["a", "a"], "columns": [_column("a")]}, "named twice"),
        ({"columns": [_column("t")]}, "the chain ends with a text"),
        ({"columns": [_column("t", {"op": "log1p"})]}, r"steps\[0\]: it takes a number, not a text"),
        ({"columns": [_column("a", {"op": "hash_bucket", "buckets": 3})]}, "it takes a text, not a number"),
        ({"columns": [_column("a", {"op": "teleport"})]}, r"teleport.*columns\[0\]\.steps\[0\]"),
        ({"columns": [_column("a", {"op": "scale", "divide": 0})]}, "divide is 0"),
        ({"columns": [_column("a", {"op": "scale", "divine": 1})]}, "divine"),
        ({"columns": [_column("a", {"op": "bucketize", "edges": [1, 1]})]}, "edges don't rise"),
        ({"columns": [_column("a", {"op": "clip", "low": 2, "high": 1})]}, "low is above high"),
        ({"columns": [_column("a", {"op": "one_hot", "categories": []})]}, "no categories"),
        ({"columns": [_column("a", {"op": "one_hot", "categories": ["x"]})]}, "must be numbers"),
        ({"columns": [_column("t", {"op": "ordinal", "categories": ["x", "x"]})]}, "named twice"),
        ({"columns": [_column("t", {"op": "one_hot", "categories": ["x"], "drop": 1})]}, "drop is 1"),
        ({"columns": [_column("t", {"op": "one_hot", "categories": ["x"], "drop": 0})]}, "no column is left"),
        ({"columns": [_column("t", {"op": "one_hot", "categories": ["x"]}, {"op": "log1p"})]}, "must be the last"),
        ({"columns": [_column("t", {"op": "tokens"})]}, "vocabulary or a number of buckets"),
        ({"columns": [_column("t", {"op": "tokens", "vocabulary": ["x"], "idf": [1, 2]})]}, "idf has 2 numbers for 1"),
        ({"columns": [_column("t", {"op": "date_parts", "parts": ["eon"]})]}, "eon"),
        ({"columns": [_column("t", {"op": "date_parts", "parts": []})]}, "parts are missing"),
        ({"columns": [_column("a"), _column("a")]}, "two outputs have the name 'a'"),
        ({"columns": [_column("a", outputs=["x", "y"])]}, "2 names in outputs, and 1 come out"),
        ({"columns": [_column("t", {"op": "tokens", "buckets": 20_000})]}, "20000 outputs, at most 10000"),
        ({"columns": [_column("t", {"op": "ordinal", "categories": {"table": "0" * 64}})]}, "publish the list itself"),
        ({"columns": [_column("a")], "format": 2}, "format is 2"),
        (
            {"columns": [_column("t", {"op": "tokens", "vocabulary": ["x"], "hash": "murmur3"})]},
            "hash is for buckets, not for a vocabulary",
        ),
        ({"columns": [_column("t", {"op": "tokens", "buckets": 4, "signed": True})]}, "signed needs the hash murmur3"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(ArtifactRejectedError, match=says):
        _spec(**{"features": ["a"], "string_columns": ["t"], **parts})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"features":[],"columns":[],"x":1}', b"[" * 100_000])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactRejectedError):
        parse_spec(data)


def test_dates() -> None:
    parts = ["year", "month", "day", "weekday", "day_of_year", "hour", "minute", "second", "epoch"]
    spec = _spec(string_columns=["t"], columns=[_column("t", {"op": "date_parts", "parts": parts})])
    assert spec.outputs[:2] == ("t.year", "t.month")
    times = ["2026-11-24T08:30:15+02:00", "1969-12-31", ""]
    found = _run(spec, np.empty((3, 0)), t=times)
    assert found[0].tolist() == [2026, 11, 24, 1, 328, 6, 30, 15, 1795501815]
    assert found[1].tolist() == [1969, 12, 31, 2, 365, 0, 0, 0, -86400]
    assert np.isnan(found[2]).all()


def test_a_bad_value_names_column_and_row_and_not_itself() -> None:
    spec = _spec(string_columns=["when"], columns=[_column("when", {"op": "date_parts", "parts": ["year"]})])
    for count in (2, 50):
        values = ["2026-01-01"] * count
        values[1] = "my secret"
        with pytest.raises(InvalidFeaturesError, match=r"feature 'when', row 2: it is no time") as caught:
            _run(spec, np.empty((count, 0)), when=values)
        assert "secret" not in caught.value.message


def test_hashing_is_the_documented_one() -> None:
    step = {"op": "hash_bucket", "buckets": 1000, "seed": 7}
    spec = _spec(string_columns=["t"], columns=[_column("t", step)])
    import zlib

    assert _run(spec, np.empty((1, 0)), t=["Zürich"])[0, 0] == zlib.crc32("Zürich".encode(), 7) % 1000


def _check_equal(transformer: Any, frame: pd.DataFrame, spec: TransformSpec) -> None:
    """Same bits as scikit-learn, one row at a time and all at once."""
    wanted = transformer.transform(frame)
    wanted = np.asarray(wanted.todense() if hasattr(wanted, "todense") else wanted, np.float64)
    dense = frame[list(spec.features)].to_numpy(np.float64)
    strings = {name: frame[name].tolist() for name in spec.string_columns}
    transform = compile_transform(spec, SharedTables())
    assert np.array_equal(transform(Rows(dense, strings)).dense, wanted, equal_nan=True)
    for row in range(0, len(frame), 17):
        one = Rows(dense[row : row + 1], {name: values[row : row + 1] for name, values in strings.items()})
        assert np.array_equal(transform(one).dense[0], wanted[row], equal_nan=True)


def test_numbers_equal_scikit_learn_on_real_data() -> None:
    frame = pd.DataFrame(load_breast_cancer(as_frame=True).data.iloc[:, :6])
    frame.columns = list("abcdef")
    frame.iloc[::7, 0] = np.nan
    transformer = ColumnTransformer(
        [
            ("a", make_pipeline(SimpleImputer(), StandardScaler()), ["a"]),
            ("b", MinMaxScaler(clip=True), ["b"]),
            ("c", RobustScaler(), ["c"]),
            ("d", FunctionTransformer(np.log1p), ["d"]),
            ("e", KBinsDiscretizer(5, encode="ordinal", quantile_method="averaged_inverted_cdf"), ["e"]),
            ("f", "passthrough", ["f"]),
        ]
    ).fit(frame)
    made = transformer.named_transformers_
    imputer, standard = made["a"]
    low, high = made["b"].feature_range
    scale = {"op": "scale", "subtract": standard.mean_[0], "divide": standard.scale_[0]}
    columns = [
        _column("a", {"op": "impute", "value": imputer.statistics_[0]}, scale),
        _column(
            "b",
            {"op": "scale", "multiply": made["b"].scale_[0], "add": made["b"].min_[0]},
            {"op": "clip", "low": low, "high": high},
        ),
        _column("c", {"op": "scale", "subtract": made["c"].center_[0], "divide": made["c"].scale_[0]}),
        _column("d", {"op": "log1p"}),
        _column("e", {"op": "bucketize", "edges": made["e"].bin_edges_[0][1:-1].tolist()}),
        _column("f"),
    ]
    _check_equal(transformer, frame, _spec(features=list("abcdef"), columns=columns))


def test_categories_equal_scikit_learn_on_real_data() -> None:
    wine = load_wine(as_frame=True)
    frame = pd.DataFrame({"class": [f"class {each}" for each in wine.target], "hue": wine.data["hue"].round(1)})
    frame["strong"] = np.where(wine.data["alcohol"] > 13, "ja", "né")
    transformer = ColumnTransformer(
        [
            ("one", OneHotEncoder(drop="first"), ["class", "strong"]),
            ("rare", OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist"), ["hue"]),
            ("place", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["class"]),
        ]
    ).fit(frame)
    rare = transformer.named_transformers_["rare"]
    infrequent = rare.infrequent_categories_[0].tolist()
    kept = [each for each in rare.categories_[0].tolist() if each not in infrequent]
    one = transformer.named_transformers_["one"]
    columns = [
        *(
            _column(name, {"op": "one_hot", "categories": found.tolist(), "drop": 0, "unknown": "error"})
            for name, found in zip(["class", "strong"], one.categories_, strict=True)
        ),
        _column("hue", {"op": "one_hot", "categories": kept, "infrequent": infrequent, "unknown": "infrequent"}),
        _column(
            "class",
            {
                "op": "ordinal",
                "categories": transformer.named_transformers_["place"].categories_[0].tolist(),
                "unknown": -1,
            },
        ),
    ]
    spec = _spec(features=["hue"], string_columns=["class", "strong"], columns=columns)
    _check_equal(transformer, frame, spec)
    with pytest.raises(InvalidFeaturesError, match=r"'strong', row 1: the category is unknown"):
        _run(spec, [[1.0]], **{"class": ["class 0"], "strong": ["?"]})


def _prose() -> list[str]:
    """Real English: what scikit-learn says of its data sets, line by line."""
    loads = (load_breast_cancer, load_diabetes, load_iris, load_wine)
    return [line for load in loads for line in load().DESCR.splitlines()]


@pytest.mark.parametrize(
    ("vectorizer", "more"),
    [
        (CountVectorizer(ngram_range=(1, 2), max_features=300), {"longest_ngram": 2}),
        (CountVectorizer(binary=True, lowercase=False), {"binary": True, "lower": False}),
        (TfidfVectorizer(), {"norm": "l2"}),
        (
            TfidfVectorizer(sublinear_tf=True, norm="l1", ngram_range=(1, 3)),
            {"norm": "l1", "sublinear": True, "longest_ngram": 3},
        ),
    ],
)
def test_words_equal_scikit_learn_on_real_text(vectorizer: Any, more: dict[str, Any]) -> None:
    frame = pd.DataFrame({"text": _prose()})
    transformer = ColumnTransformer([("t", vectorizer, "text")], sparse_threshold=0).fit(frame)
    made = transformer.named_transformers_["t"]
    words = sorted(made.vocabulary_, key=made.vocabulary_.get)
    idf = made.idf_.tolist() if isinstance(vectorizer, TfidfVectorizer) else []
    step = {"op": "tokens", "vocabulary": words, "idf": idf, **more}
    _check_equal(transformer, frame, _spec(string_columns=["text"], columns=[_column("text", step)]))


def test_models_of_one_application_share_their_vocabularies() -> None:
    """A hundred models with the same cities and different scales hold the cities once."""
    cities = [f"city number {number}" for number in range(2000)]
    shared, held = SharedTables(), list[Transform]()
    digests: set[str] = set()
    for number in range(100):
        columns = [
            _column("city", {"op": "one_hot", "categories": cities}),
            _column("age", {"op": "scale", "subtract": float(number)}),
        ]
        split, tables = split_tables(_spec(features=["age"], string_columns=["city"], columns=columns))
        digests |= tables.keys()
        assert len(encode_spec(split)) < 500
        joined = join_tables(split, {digest: decode_table(data) for digest, data in tables.items()})
        held.append(compile_transform(joined, shared))
    alone = shared.nbytes
    assert len(digests) == 1
    assert len(shared) == 1
    assert alone > 100_000
    assert sum(each.resident_bytes for each in held) < 6 * alone  # 100 copies would be 100 times
    held.clear()
    gc.collect()
    assert len(shared) == 0


def test_who_brings_a_vocabulary_into_memory_pays_for_it() -> None:
    """Whatever else the steps that use it say: places and weights are held apart."""
    words = [f"word{number}" for number in range(500)]
    shared = SharedTables()

    def compiled(**more: Any) -> Transform:
        step = {"op": "tokens", "vocabulary": words, **more}
        return compile_transform(_spec(string_columns=["t"], columns=[_column("t", step)]), shared)

    first, second = compiled(idf=[1.0] * 500), compiled(norm="l1", idf=[1.0] * 500)
    third = compiled(idf=[2.0] * 500)
    assert first.resident_bytes > 40_000
    assert second.resident_bytes < 5_000
    assert 4_000 < third.resident_bytes - second.resident_bytes < 5_000, "its own weights, 8 bytes each"
    as_categories = {"op": "ordinal", "categories": words}
    fourth = compile_transform(_spec(string_columns=["t"], columns=[_column("t", as_categories)]), shared)
    assert fourth.resident_bytes == second.resident_bytes
    rows = Rows(np.empty((1, 0)), {"t": ["word7 word7 word9"]})
    del first, second
    gc.collect()
    assert np.flatnonzero(third(rows).dense[0]).tolist() == [7, 9], "what others brought stays as long as it's used"
    assert fourth(Rows(np.empty((1, 0)), {"t": ["word7"]})).dense.tolist() == [[7.0]]


def test_wide_rows_are_the_same_whatever_their_number() -> None:
    """Over `WIDE` outputs even one row is done in numpy, and still says which row was bad."""
    words = [f"word{number}" for number in range(WIDE)]
    spec = _spec(
        string_columns=["t", "c"],
        columns=[
            _column("t", {"op": "tokens", "vocabulary": words}),
            _column("c", {"op": "one_hot", "categories": ["x", "y"], "unknown": "error"}),
        ],
    )
    texts = ["word1 word1", "word399 nothing", ""]
    together = _run(spec, np.empty((3, 0)), t=texts, c=["x", "y", "x"])
    assert together.sum() == 2 + 1 + 3
    for row in range(3):
        alone = _run(spec, np.empty((1, 0)), t=texts[row : row + 1], c=["xyx"[row]])
        assert np.array_equal(alone[0], together[row])
    with pytest.raises(InvalidFeaturesError, match="feature 'c', row 2: the category is unknown"):
        _run(spec, np.empty((2, 0)), t=texts[:2], c=["x", "z"])


def test_the_documented_spec_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "transforms.md").read_text()
    spec = parse_spec(text.partition("```json\n")[2].partition("```")[0].encode())
    assert spec.outputs[:3] == ("age", "age?", "income")
    made = _run(spec, [[math.nan, -5.0]], city=["Basel"], since=["2026-11-24"], note=["not paid, paid"])
    assert made[0].tolist() == [(40 - 38.2) / 13.1, 1, 0, 0, 0, 1, 2026, 1, 0, 2 / math.sqrt(5), 1 / math.sqrt(5)]


def test_made_rows_suit_the_steps() -> None:
    columns = [
        _column("kind", {"op": "one_hot", "categories": ["a", "b"], "unknown": "error"}),
        _column("size", {"op": "ordinal", "categories": [1, 2], "unknown": -1}),
        _column("when", {"op": "date_parts", "parts": ["year"]}),
        _column("text", {"op": "tokens", "vocabulary": ["late", "paid"]}),
    ]
    spec = _spec(features=["size"], string_columns=["kind", "when", "text"], columns=columns)
    strings = {name: ["something else"] * 20 for name in spec.string_columns}
    done = compile_transform(spec, SharedTables())(fit_rows(spec, Rows(np.full((20, 1), 0.5), strings))).dense
    assert all(len(np.unique(column[~np.isnan(column)])) > 1 for column in done.T)


def test_a_model_behind_its_transforms() -> None:
    import lightgbm

    rows = np.random.default_rng(0).normal(size=(300, 3))
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, rows[:, 0] + rows[:, 2]), 5)
    outputs = (OutputSchema("value", OutputKind.REGRESSION),)
    spec = _spec(
        features=["x", "y"],
        string_columns=["z"],
        columns=[
            _column("x", {"op": "scale", "subtract": 1.0}),
            _column("z", {"op": "ordinal", "categories": ["a", "b"]}),
            _column("y", {"op": "impute", "value": 0.5}),
        ],
    )
    model = ENGINE.load(booster.model_to_string().encode(), ModelSchema(spec.outputs, outputs))
    transformed = TransformedModel(model, compile_transform(spec, SharedTables()))
    answer = transformed.predict(Rows(np.array([[2.0, math.nan], [1.0, 3.0]]), {"z": ["b", "a"]}))
    assert np.array_equal(answer[0], booster.predict(np.array([[1.0, 1.0, 0.5], [0.0, 0.0, 3.0]])))
    assert transformed.resident_bytes > model.resident_bytes
    with pytest.raises(InvalidFeaturesError, match="shape"):
        transformed.predict(Rows(np.zeros((1, 3)), {"z": ["a"]}))
    transformed.close()
