"""Reading requests and writing answers for one version, against the generated classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from registry.errors import InvalidFeaturesError, MessageTooLargeError
from registry.model import ModelSchema, ModelVersion, OutputKind, OutputSchema, Runtime
from scoremesh.scoring.v1 import scoring_pb2 as pb
from scorer.plan import MAX_ANSWER_BYTES, Plan, Spent

_OUTPUTS = (
    OutputSchema("risk", OutputKind.CLASS_PROBABILITIES, ("no", "yes", "may bé")),
    OutputSchema("value", OutputKind.REGRESSION),
    OutputSchema("body", OutputKind.MULTI_OUTPUT, ("weight", "waist")),
    OutputSchema("rank", OutputKind.RANKING),
)


def _plan(features: int = 3, strings: tuple[str, ...] = (), outputs: tuple[OutputSchema, ...] = _OUTPUTS) -> Plan:
    schema = ModelSchema(tuple(f"f{i}" for i in range(features)), outputs, strings)
    version = ModelVersion("v7", "package", "acme", "a" * 64, "c" * 64, Runtime.ONNX, 1, 1)
    return Plan(version, schema, "scorer-1")


def _request(**fields: Any) -> pb.ScoreRequest:
    return pb.ScoreRequest(tenant="t", model="m", **fields)


@given(st.integers(1, 20), st.data())
def test_doubles_arrive_bit_for_bit(rows: int, data: st.DataObject) -> None:
    matrix = data.draw(arrays(np.float64, (rows, 3)))
    request = pb.ScoreRequest.FromString(_request(row_count=rows, dense_double=matrix.ravel()).SerializeToString())
    dense = _plan().read(request).dense
    assert dense.dtype == np.float64
    assert dense.flags.c_contiguous
    assert dense.tobytes() == matrix.tobytes()


@given(st.integers(1, 20), st.data())
def test_floats_arrive_as_the_numbers_they_are(rows: int, data: st.DataObject) -> None:
    matrix = data.draw(arrays(np.float32, (rows, 3), elements=st.floats(width=32)))
    dense = _plan().read(_request(row_count=rows, dense_float=matrix.ravel())).dense
    assert dense.shape == (rows, 3)
    np.testing.assert_array_equal(dense.astype(np.float32), matrix)
    assert dense.flags.c_contiguous


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 5))
def test_only_whole_matrices_are_read(rows: int, values: int, features: int) -> None:
    request = _request(row_count=rows, dense_double=[0.0] * values)
    if rows and values == rows * features:
        assert _plan(features).read(request).dense.shape == (rows, features)
    else:
        with pytest.raises(InvalidFeaturesError) as caught:
            _plan(features).read(request)
        assert "row" in caught.value.message


def _column(**fields: Any) -> pb.StringColumn:
    return pb.StringColumn(name="city", **fields)


def test_text_columns_are_read_from_values_and_from_codes() -> None:
    plan = _plan(0, ("city",))
    for column in (_column(values=["Ulm", "Rom", "Ulm"]), _column(dictionary=["Rom", "Ulm"], codes=[1, 0, 1])):
        rows = plan.read(_request(row_count=3, string_columns=[column]))
        assert list(rows.strings["city"]) == ["Ulm", "Rom", "Ulm"]
        assert rows.dense.shape == (3, 0)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([], "string_columns are none; the model has city"),
        ([_column(values=["a", "b"]), _column(values=["a", "b"])], "a name twice"),
        ([pb.StringColumn(name="town", values=["a", "b"])], "string_columns are town"),
        ([_column(values=["a"])], "'city' has 1 values for 2 rows"),
        ([_column(dictionary=["a"], codes=[0, 1])], "a code outside its dictionary"),
        ([_column(dictionary=["a"], codes=[0])], "1 values for 2 rows"),
        ([_column(values=["a", "b"], dictionary=["a"], codes=[0, 0])], "values and codes"),
    ],
)
def test_wrong_text_columns_are_named(columns: list[pb.StringColumn], words: str) -> None:
    with pytest.raises(InvalidFeaturesError) as caught:
        _plan(0, ("city",)).read(_request(row_count=2, string_columns=columns))
    assert words in caught.value.message


def test_both_matrices_at_once() -> None:
    with pytest.raises(InvalidFeaturesError, match="both set"):
        _plan().read(_request(row_count=1, dense_double=[1] * 3, dense_float=[1] * 3))


_finite = st.floats(allow_nan=False)


@given(st.integers(1, 9), st.data())
def test_an_answer_is_what_the_generated_classes_would_write(rows: int, data: st.DataObject) -> None:
    widths: tuple[tuple[int, ...], ...] = ((rows, 3), (rows,), (rows, 2), (rows,))
    outputs = [data.draw(arrays(np.float64, shape, elements=_finite)) for shape in widths]
    spent = Spent(*data.draw(st.tuples(*[st.integers(0, 2**32 - 1)] * 6)))
    request_id = data.draw(st.text(max_size=60))
    residency = data.draw(st.sampled_from([1, 2, 3]))
    order = np.argsort(-outputs[3], kind="stable")
    every = [
        pb.Output(name="risk", class_probabilities=_probabilities(outputs[0])),
        pb.Output(name="value", regression=pb.Regression(values=outputs[1])),
        pb.Output(name="body", multi_output=pb.MultiOutput(names=["weight", "waist"], values=outputs[2].ravel())),
        pb.Output(name="rank", ranking=pb.Ranking(scores=outputs[3], order=order)),
    ]
    chosen = data.draw(st.lists(st.sampled_from(["risk", "value", "body", "rank"]), max_size=6))
    request = _request(row_count=rows, request_id=request_id, output_names=chosen)
    written = _plan().write(request, outputs, residency, spent)
    assert pb.ScoreResponse.FromString(written) == pb.ScoreResponse(
        model_version="v7",
        served_by="scorer-1",
        request_id=request_id,
        residency=residency,  # type: ignore[arg-type]
        timing=pb.Timing(**spent._asdict()),
        outputs=[output for output in every if not chosen or output.name in chosen],
    )


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.sampled_from(_OUTPUTS), st.data())
def test_joined_answers_are_those_that_each_would_get(
    counts: list[int], output: OutputSchema, data: st.DataObject
) -> None:
    total, plan = sum(counts), _plan(outputs=(output,))
    shape = (total, len(output.columns)) if output.columns else (total,)
    values = data.draw(arrays(np.float64, shape, elements=_finite))
    spent = Spent(score_us=data.draw(st.integers(0, 2**32 - 1)))
    write, start = plan.writer([values], 1, spent), 0
    for count in counts:
        names = data.draw(st.sampled_from([[], [output.name]]))
        request = _request(row_count=count, request_id=data.draw(st.text(max_size=5)), output_names=names)
        own = values[start : start + count]
        assert write(request, start, start + count) == plan.write(request, [own], 1, spent)
        start += count


def test_joined_answers_of_several_outputs() -> None:
    outputs = [np.arange(9.0).reshape(3, 3), np.arange(3.0), np.arange(6.0).reshape(3, 2), np.array([1.0, 3.0, 2.0])]
    plan, request, spent = _plan(), _request(row_count=2), Spent(score_us=7)
    own = [output[1:3] for output in outputs]
    assert plan.writer(outputs, 1, spent)(request, 1, 3) == plan.write(request, own, 1, spent)


def test_a_joined_answer_has_the_same_limit() -> None:
    rows = MAX_ANSWER_BYTES // 8
    plan = _plan(outputs=(OutputSchema("value", OutputKind.REGRESSION),))
    write = plan.writer([np.zeros(rows + 1)], 1, Spent())
    assert write(_request(row_count=1), rows, rows + 1)
    with pytest.raises(MessageTooLargeError, match="fewer rows"):
        write(_request(row_count=rows), 0, rows)


def _plain(rows: int, number: float) -> pb.ScoreRequest:
    return _request(row_count=rows, dense_double=[number] * (3 * rows))


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(width=64)), min_size=1, max_size=6))
def test_plain_requests_are_read_together_bit_for_bit(asked: list[tuple[int, float]]) -> None:
    plan, requests = _plan(), [_plain(rows, number) for rows, number in asked]
    read = plan.read_all(requests)
    assert read is not None
    (dense, strings), counts = read
    assert not strings
    assert counts == [rows for rows, _ in asked]
    assert dense.tobytes() == b"".join(plan.read(request).dense.tobytes() for request in requests)
    assert dense.shape == (sum(counts), 3)


_OTHERS = {
    "no rows": _request(),
    "no row_count": _request(dense_double=[1.0] * 3),
    "too few": _request(row_count=2, dense_double=[1.0] * 3),
    "float32": _request(row_count=1, dense_float=[1.0] * 3),
    "both": _request(row_count=1, dense_double=[1.0] * 3, dense_float=[1.0] * 3),
    "text": _request(row_count=1, dense_double=[1.0] * 3, string_columns=[pb.StringColumn(name="x", values=["y"])]),
    "many": _plain(20, 1.0),
}


@pytest.mark.parametrize("what", _OTHERS)
def test_one_that_is_not_plain_has_each_read_by_itself(what: str) -> None:
    assert _plan().read_all([_plain(1, 1.0), _OTHERS[what], _plain(1, 2.0)]) is None
    assert _plan(strings=("city",)).read_all([_plain(1, 1.0)]) is None


def _probabilities(values: np.ndarray) -> pb.ClassProbabilities:
    return pb.ClassProbabilities(labels=["no", "yes", "may bé"], probabilities=values.ravel())


def test_ties_keep_the_order_of_the_request() -> None:
    outputs = [np.zeros((4, 3)), np.zeros(4), np.zeros((4, 2)), np.array([1.0, 2.0, 1.0, 2.0])]
    request = _request(row_count=4, output_names=["rank"])
    response = pb.ScoreResponse.FromString(_plan().write(request, outputs, 1, Spent(0, 0, 0, 0)))
    assert list(response.outputs[0].ranking.order) == [1, 3, 0, 2]


def test_an_unknown_output_is_named() -> None:
    with pytest.raises(InvalidFeaturesError, match="output_names has 'margin'; the model has risk, value, body, rank"):
        _plan().write(_request(row_count=1, output_names=["risk", "margin"]), [], 1, Spent(0, 0, 0, 0))
