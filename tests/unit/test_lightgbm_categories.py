from __future__ import annotations

import json
from typing import Any

import lightgbm
import numpy as np
import pytest

from registry.lightgbm_categories import read_categories
from registry.lightgbm_slim import slim

NAMES = ["size", "city", "constant", "plan"]
CITIES, PLANS = ["New York", "Oslo", "Rom\u00e9"], [3, 5, 9]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """A number and the codes of three categories, one of which never varies."""
    generator = np.random.default_rng(0)
    codes = [generator.integers(0, 3, 300), np.zeros(300), generator.integers(0, 3, 300)]
    return np.stack([generator.normal(size=300), *codes], axis=1)


def trained(rows: np.ndarray, columns: list[int], categorical: list[int], noted: Any = None) -> bytes:
    """The text of a model of some columns. `noted`: what the Python package notes of a pandas data frame."""
    names = [NAMES[column] for column in columns]
    data = lightgbm.Dataset(
        rows[:, columns], rows[:, 0] + 5 * rows[:, 1], feature_name=names, categorical_feature=categorical
    )
    text = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 3).model_to_string()
    assert "pandas_categorical:null" in text
    return text.replace("pandas_categorical:null", f"pandas_categorical:{json.dumps(noted)}").encode()


def test_a_data_frame_gives_names_and_values(rows: np.ndarray) -> None:
    text = trained(rows, [0, 1, 2, 3], [1, 2, 3], [CITIES, ["only"], PLANS])
    dtypes, categories = read_categories(text)
    assert dtypes == {"city": "category", "constant": "category", "plan": "category"}
    assert categories == {"city": tuple(CITIES), "constant": ("only",), "plan": ("3", "5", "9")}


def test_codes_in_a_matrix_have_no_values(rows: np.ndarray) -> None:
    assert read_categories(trained(rows, [0, 1], [1])) == ({"city": "category"}, {})


def test_numbers_alone_are_no_categories(rows: np.ndarray) -> None:
    assert read_categories(trained(rows, [0], [])) == ({}, {})


def test_an_ordered_column_makes_the_values_ambiguous(rows: np.ndarray) -> None:
    """It is noted, and yet a number."""
    text = trained(rows, [0, 3, 1], [2], [PLANS, CITIES])
    assert read_categories(text) == ({"city": "category"}, {})


def test_a_code_outside_the_list_makes_the_values_ambiguous(rows: np.ndarray) -> None:
    assert read_categories(trained(rows, [0, 1], [1], [CITIES[:2]])) == ({"city": "category"}, {})


def test_the_slim_text_still_tells_categories_that_vary(rows: np.ndarray) -> None:
    text = trained(rows, [0, 1], [1], [CITIES])
    assert read_categories(slim(text)) == read_categories(text)
