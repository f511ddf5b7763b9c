from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from registry.errors import ArtifactRejectedError
from registry.manifest import GoldenRows, decode, encode
from registry.model import ModelSchema, OutputKind, OutputSchema
from registry.probe_wire import MOST_GOLDEN_ROWS
from scorer.engine import Rows
from scorer.golden import compare, generate, generated_count, record, to_rows

SCHEMA = ModelSchema(
    features=("size", "age", "member", "city"),
    outputs=(
        OutputSchema("x", OutputKind.REGRESSION),
        OutputSchema("p", OutputKind.CLASS_PROBABILITIES, ("no", "yes")),
    ),
    string_columns=("text",),
    dtypes={"age": "int", "member": "bool", "city": "category"},
    categories={"city": ("Oslo", "Rome", "Bergen")},
)
ROWS = Rows(np.array([[0.5, 1, 0, 2], [math.nan, 2, 1, 0], [1e9, 3, 1, 1.0]]), {"text": ["a", "b", "c"]})
ANSWERS = [np.array([0.25, -3.0, 1e6]), np.array([[0.5, 0.5], [math.nan, 0.125], [1.0, 0.0]])]


@pytest.fixture
def golden() -> GoldenRows:
    return record(ROWS, SCHEMA, ANSWERS, 1e-3)


def changed(output: int, place: tuple[int, ...], value: float) -> list[np.ndarray]:
    answers = [answer.copy() for answer in ANSWERS]
    answers[output][place] = value
    return answers


def test_what_was_recorded_compares_equal_also_from_json(golden: GoldenRows) -> None:
    read = decode(GoldenRows, encode(golden), "somewhere")
    assert read == golden
    compare(read, SCHEMA, ANSWERS)
    rows = to_rows(read, SCHEMA)
    np.testing.assert_array_equal(rows.dense, ROWS.dense)
    assert list(rows.strings["text"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("output", "place", "value", "told"),
    [
        (0, (0,), 0.75, r"golden row 1, output x: expected 0.25, got 0.75"),
        (0, (2,), 1.1e6, r"golden row 3, output x: expected 1000000, got 1100000"),
        (1, (1, 1), 0.5, r"golden row 2, output p, column yes: expected 0.125, got 0.5"),
        (1, (1, 0), 0.5, r"golden row 2, output p, column no: expected no finite number, got 0.5"),
        (0, (1,), math.inf, r"golden row 2, output x: expected -3, got inf"),
        (0, (1,), math.nan, r"golden row 2, output x: expected -3, got nan"),
    ],
)
def test_a_difference_is_named(
    golden: GoldenRows, output: int, place: tuple[int, ...], value: float, told: str
) -> None:
    with pytest.raises(ArtifactRejectedError, match=told):
        compare(golden, SCHEMA, changed(output, place, value))


def test_the_first_row_that_differs_is_named(golden: GoldenRows) -> None:
    answers = changed(1, (0, 1), 0.75)
    answers[0][2] = 0.0
    with pytest.raises(ArtifactRejectedError, match="golden row 1, output p"):
        compare(golden, SCHEMA, answers)


def test_the_tolerance_is_absolute_and_relative(golden: GoldenRows) -> None:
    compare(golden, SCHEMA, changed(0, (2,), 1e6 + 999))
    compare(golden, SCHEMA, changed(1, (2, 1), 0.0009))
    exact = msgspec.structs.replace(golden, tolerance=0.0)
    compare(exact, SCHEMA, ANSWERS)
    with pytest.raises(ArtifactRejectedError, match="golden row 1"):
        compare(exact, SCHEMA, changed(0, (0,), math.nextafter(0.25, 1)))


def test_outputs_that_nobody_expects_are_not_compared(golden: GoldenRows) -> None:
    only_x = msgspec.structs.replace(golden, outputs={"x": golden.outputs["x"]})
    compare(only_x, SCHEMA, changed(1, (0, 0), 0.9))


def test_golden_rows_of_another_model_are_refused(golden: GoldenRows) -> None:
    changes: dict[str, Any]
    for changes, told in (
        ({"outputs": {"q": (1.0, 2.0, 3.0)}}, "name output 'q'; the model has x, p"),
        ({"outputs": {"x": (1.0,)}}, "output 'x' of the golden rows has 1 numbers, the model gives 3"),
    ):
        with pytest.raises(ArtifactRejectedError, match=told):
            compare(msgspec.structs.replace(golden, **changes), SCHEMA, ANSWERS)
    for changes, told in (
        ({"dense": ((1.0, 2.0),)}, "golden row 1 has 2 numbers, the model has 4 features"),
        ({"dense": ()}, "there are 0 golden rows"),
        ({"dense": golden.dense * MOST_GOLDEN_ROWS}, "there are 3000 golden rows, wanted 1-1000"),
        ({"strings": {"text": ("a",)}}, "text column 'text' of the golden rows has 1 values, wanted 3"),
    ):
        with pytest.raises(ArtifactRejectedError, match=told):
            to_rows(msgspec.structs.replace(golden, **changes), SCHEMA)


def test_made_up_rows_fit_the_schema_and_are_the_same_at_each_run() -> None:
    rows = generate(SCHEMA, 64, missing=True)
    np.testing.assert_array_equal(rows.dense, generate(SCHEMA, 64, missing=True).dense)
    assert rows.dense.shape == (64, 4)
    assert rows.dense.flags.c_contiguous
    size, age, member, city = rows.dense.T
    assert np.isnan(size).any()
    assert (age == np.trunc(age)).all()
    assert {*member} == {0.0, 1.0}
    assert {*city} == {0.0, 1.0, 2.0}
    assert len(rows.strings["text"]) == 64
    assert np.nanmax(np.abs(size)) / np.nanmin(np.abs(size)) > 1000
    assert np.isfinite(generate(SCHEMA, 64, missing=False).dense).all()


def test_a_wide_model_gets_fewer_rows() -> None:
    counts = [generated_count(ModelSchema(tuple(map(str, range(width))), ())) for width in (0, 1, 30, 1000, 10_000)]
    assert counts == [8, 8, 8, 4, 1]
