"""The demo's pipelines: texts, categories and gaps, through scikit-learn's transformers into LightGBM.

They are published as transforms and a model, and callers send what the tables have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ops.demo_data import DemoModel
from ops.demo_tables import Table, passengers, penguins
from registry.model import ModelRef, Runtime
from registry.transforms import TransformSpec, encode_spec

_COMMON: dict[str, Any] = {"n_jobs": 1, "deterministic": True, "force_row_wise": True, "random_state": 7, "verbose": -1}


@dataclass(frozen=True)
class PipelineRecipe:
    """How to train one pipeline of a ColumnTransformer and LightGBM. `columns` makes the untrained first."""

    ref: ModelRef
    title: str
    columns: Callable[[], Any]
    table: Callable[[], Table]
    rounds: int = 50

    def train(self, directory: Path) -> DemoModel:
        """Train, convert, save and score."""
        from ops.convert_columns import to_spec

        table = self.table()
        _, held = table.split()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn and LightGBM on each other's arrays
            pipeline, frame = self.fitted()
            expected = np.asarray(pipeline.predict_proba(frame), np.float64)
        spec = to_spec(pipeline[0])
        path = directory / f"{self.ref.tenant}.{self.ref.model}.txt"
        pipeline[-1].booster_.save_model(path)
        rows, strings = sent(spec, table, held)
        return DemoModel(
            *(self.ref, Runtime.LIGHTGBM, path, rows, [expected], 0.0, self.title),
            strings=strings,
            transforms=encode_spec(spec),
        )

    def fitted(self) -> tuple[Any, Any]:
        """The pipeline, and the rows that it hasn't seen as a table of pandas."""
        from lightgbm import LGBMClassifier
        from sklearn.pipeline import make_pipeline

        table = self.table()
        learn, held = table.split()
        pipeline = make_pipeline(self.columns(), LGBMClassifier(n_estimators=self.rounds, **_COMMON))
        return pipeline.fit(table.frame(learn), table.target[learn]), table.frame(held)


def sent(spec: TransformSpec, table: Table, rows: Any) -> tuple[np.ndarray, dict[str, list[str]]]:
    """What a caller sends of some rows of a table: numbers as (rows, features) float64, and texts by column."""
    dense = np.array([table.columns[name] for name in spec.features], np.float64).T[rows]
    strings = {name: [table.columns[name][row] for row in rows] for name in spec.string_columns}
    return np.ascontiguousarray(dense), strings


def _passenger_columns() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    port = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    places = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    return ColumnTransformer(
        [
            ("numbers", numbers, ["age", "fare", "sibsp", "parch"]),
            ("class", OneHotEncoder(), ["pclass"]),
            ("port", port, ["sex", "embarked"]),
            ("places", places, ["cabin", "home"]),
            ("name", TfidfVectorizer(min_df=3), "name"),
        ],
        sparse_threshold=0,
    )


def _penguin_columns() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    sex = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    numbers = ["bill_length", "bill_depth", "flipper_length", "mass"]
    return ColumnTransformer(
        [
            ("numbers", "passthrough", numbers),
            ("island", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["island"]),
            ("sex", sex, ["sex"]),
        ]
    )


PIPELINE_RECIPES = (
    PipelineRecipe(
        ModelRef("hooli", "survival"),
        "Who survived the Titanic, from name, age, fare and cabin",
        _passenger_columns,
        passengers,
    ),
    PipelineRecipe(
        ModelRef("umbrella", "penguin"), "Which of three species a penguin is", _penguin_columns, penguins, rounds=20
    ),
)
