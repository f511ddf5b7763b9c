"""Rows to messages and messages to `Scores`, without a network."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import numpy as np
import pytest

from client.channel import channel_target
from client.codec import MalformedResponseError, ScoreItem, decode_response, encode_request
from client.errors import ScoreError, error_of_result
from client.scores import OutputKind, Residency, Timing
from scoremesh.scoring.v1 import scoring_pb2 as pb


def _encode(rows: Any, **named: Any) -> pb.ScoreRequest:
    return encode_request(ScoreItem("acme", "tumour", rows, **named))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (15, 1), (16, 1), (7, 300), (256, 2100)])
def test_the_packed_field_is_what_protobuf_itself_writes(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).normal(size=shape)
    rows[0, 0] = np.nan
    named: dict[str, Any] = {"tenant": "acme", "model": "tumour", "row_count": shape[0]}
    double = pb.ScoreRequest(**named, dense_double=rows.ravel().tolist())
    assert _encode(rows).SerializeToString() == double.SerializeToString()
    single = pb.ScoreRequest(**named, dense_float=rows.astype(np.float32).ravel().tolist())
    assert _encode(rows.astype(np.float32)).SerializeToString() == single.SerializeToString()


def test_every_field_arrives() -> None:
    request = _encode([[1.0, 2.0]], alias="candidate", request_id="r1", outputs=["value"], entity_key="k")
    assert request == pb.ScoreRequest(
        tenant="acme",
        model="tumour",
        alias="candidate",
        row_count=1,
        dense_double=[1.0, 2.0],
        request_id="r1",
        entity_key="k",
        output_names=["value"],
    )
    assert _encode([1.0], version="3").WhichOneof("selector") == "version"
    assert _encode([1.0]).WhichOneof("selector") is None


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2, 3], [4, 5, 6]],
        np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16),
        np.array([[1, 4], [2, 5], [3, 6]], dtype=np.float64).T,
        np.array([[1, 0, 2, 0, 3, 0], [4, 0, 5, 0, 6, 0]], dtype=">f8")[:, ::2],
        np.array([[1, 2, 3], [4, 5, 6]], dtype=object),
    ],
    ids=["lists", "integers", "column-major", "big-endian strided", "objects"],
)
def test_rows_of_any_layout_travel_row_major(rows: Any) -> None:
    request = _encode(rows)
    assert request.row_count == 2
    assert list(request.dense_double) == [1, 2, 3, 4, 5, 6]


def test_one_row_and_missing_values() -> None:
    request = _encode([1.5, None, float("nan")])
    assert request.row_count == 1
    np.testing.assert_array_equal(request.dense_double, [1.5, np.nan, np.nan])


def test_text_columns_go_as_a_dictionary_when_values_repeat() -> None:
    columns = {"city": ["Ulm", "Bonn", "Ulm", "Ulm"], "name": ["a", "b", "c", "a"]}
    city, name = _encode(np.ones((4, 1)), string_columns=columns).string_columns
    assert [city.dictionary[code] for code in city.codes] == columns["city"]
    assert list(city.dictionary) == ["Ulm", "Bonn"]
    assert not city.values
    assert list(name.values) == columns["name"]
    assert not name.codes


def test_a_model_of_text_alone_takes_no_rows() -> None:
    request = _encode(None, string_columns={"text": np.array(["good", "bad"])})
    assert (request.row_count, list(request.string_columns[0].values)) == (2, ["good", "bad"])


@pytest.mark.parametrize(
    ("rows", "named", "error", "text"),
    [
        ([[1.0]], {"version": "1", "alias": "live"}, ValueError, "not for both"),
        (np.empty((0, 3)), {}, ValueError, "at least one row"),
        (3.0, {}, ValueError, "matrix"),
        (np.ones((2, 2, 2)), {}, ValueError, "matrix"),
        ([[1.0], [2.0, 3.0]], {}, ValueError, "inhomogeneous"),
        ([["a", "b"]], {}, TypeError, "string_columns"),
        (np.array([[1j]]), {}, TypeError, "complex"),
        (None, {}, ValueError, "at least 1"),
        (None, {"string_columns": {"city": []}}, ValueError, "at least 1"),
        ([[1.0]], {"string_columns": {"city": ["a", "b"]}}, ValueError, "'city': 2"),
        ([[1.0]], {"string_columns": {"city": "a"}}, TypeError, "'city'"),
        ([[1.0]], {"string_columns": {"city": [None]}}, TypeError, "'city'"),
    ],
)
def test_what_can_not_be_sent_is_refused(rows: Any, named: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _encode(rows, **named)


def _response(*outputs: pb.Output) -> pb.ScoreResponse:
    return pb.ScoreResponse(
        model_version="7",
        outputs=outputs,
        residency=pb.RESIDENCY_DISK,
        timing=pb.Timing(wait_us=1, fetch_us=2, load_us=3, score_us=4, verify_us=5, queue_us=6),
        request_id="r1",
        served_by="scorer-3",
    )


def _classes(labels: list[str], probabilities: list[float]) -> pb.Output:
    return pb.Output(
        name="probabilities", class_probabilities=pb.ClassProbabilities(labels=labels, probabilities=probabilities)
    )


def _values(*values: float) -> pb.Output:
    return pb.Output(name="value", regression=pb.Regression(values=values))


def test_class_probabilities() -> None:
    scores = decode_response(_response(_classes(["no", "yes", "maybe"], [0.1, 0.2, 0.7, 0.4, 0.4, 0.2])), 2)
    np.testing.assert_array_equal(scores.probabilities, [[0.1, 0.2, 0.7], [0.4, 0.4, 0.2]])
    assert scores.labels == ("no", "yes", "maybe")
    assert scores.predicted_labels == ["maybe", "no"]
    assert (scores.version, scores.served_by, scores.request_id) == ("7", "scorer-3", "r1")
    assert scores.residency is Residency.DISK
    assert scores.timing == Timing(wait_us=1, fetch_us=2, load_us=3, score_us=4, verify_us=5, queue_us=6)


def test_arrays_outlive_the_message_and_may_be_changed() -> None:
    response = _response(_values(1.0, 2.0))
    scores = decode_response(response, 2)
    response.outputs[0].regression.values[0] = 9.0
    scores.values[1] = 5.0
    assert scores.values.tolist() == [1.0, 5.0]


def test_several_numbers_a_row() -> None:
    several = pb.Output(name="body", multi_output=pb.MultiOutput(names=["weight", "pulse"], values=[1, 2, 3, 4]))
    scores = decode_response(_response(several), 2)
    assert scores.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert scores.outputs["body"].columns == ("weight", "pulse")


def test_ranking() -> None:
    scores = decode_response(_response(pb.Output(name="s", ranking=pb.Ranking(scores=[0.1, 3, 2], order=[1, 2, 0]))), 3)
    assert scores.ranking.tolist() == [1, 2, 0]
    assert scores.outputs["s"].values.tolist() == [0.1, 3.0, 2.0]
    assert np.array(["x", "y", "z"])[scores.ranking].tolist() == ["y", "z", "x"]


def test_a_shortcut_needs_exactly_one_output_of_its_kind() -> None:
    scores = decode_response(_response(_values(1.0), _classes(["a"], [1.0])), 1)
    assert (scores.values.tolist(), scores.labels) == ([1.0], ("a",))
    assert {name: output.kind for name, output in scores.outputs.items()} == {
        "value": OutputKind.REGRESSION,
        "probabilities": OutputKind.CLASS_PROBABILITIES,
    }
    with pytest.raises(LookupError, match="ranking, the answer has"):
        _ = scores.ranking


@pytest.mark.parametrize(
    "output",
    [
        _values(1.0, 2.0, 3.0),
        _classes(["a", "b"], [0.5, 0.5, 1.0]),
        _classes([], [0.5]),
        pb.Output(name="s", ranking=pb.Ranking(scores=[1, 2], order=[0])),
        pb.Output(name="s", ranking=pb.Ranking(scores=[1, 2], order=[0, 0])),
        pb.Output(name="s", ranking=pb.Ranking(scores=[1, 2], order=[0, 7])),
        pb.Output(name="from a newer server"),
    ],
)
def test_an_answer_of_the_wrong_size_is_malformed(output: pb.Output) -> None:
    with pytest.raises(MalformedResponseError, match=output.name):
        decode_response(_response(output), 2)


def test_contributions_come_by_class() -> None:
    assert _encode([[1.0]], contributions=True).contributions
    response = _response(_values(1.0, 2.0))
    response.contributions.add(names=["a", "bias"], values=[0.5, 1.0, 1.5, 1.0], label="yes")
    (one,) = decode_response(response, 2).contributions
    assert (one.names, one.label) == (("a", "bias"), "yes")
    np.testing.assert_array_equal(one.values, [[0.5, 1.0], [1.5, 1.0]])
    response.contributions[0].values.append(1.0)
    with pytest.raises(MalformedResponseError, match="contributions"):
        decode_response(response, 2)


def test_an_unknown_residency_is_no_failure() -> None:
    response = _response(_values(1.0))
    response.residency = 17  # type: ignore[assignment]
    assert decode_response(response, 1).residency is Residency.UNSPECIFIED


def test_errors_of_items() -> None:
    result = pb.ScoreResult(index=1, code=8, message="queue full", reason="OVERLOADED", retry_after_ms=40)
    error = error_of_result(result)
    assert (error.code, error.reason, error.message, error.retry_after_ms) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        "queue full",
        40,
    )
    assert str(error) == "RESOURCE_EXHAUSTED (OVERLOADED): queue full"
    unknown = error_of_result(pb.ScoreResult(code=999))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.UNKNOWN, "UNKNOWN")


def test_an_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(ScoreError(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no such model", 5)))  # noqa: S301
    assert (copy.code, copy.reason, copy.retry_after_ms) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", 5)


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("router:9000", "router:9000"),
        ("dns:///routers.internal:9000", "dns:///routers.internal:9000"),
        (["router:9000"], "router:9000"),
        (["10.0.0.1:9000", "10.0.0.2:9001"], "ipv4:10.0.0.1:9000,10.0.0.2:9001"),
        (["[::1]:9000", "[::2]:9000"], "ipv6:[::1]:9000,[::2]:9000"),
    ],
)
def test_targets(addresses: Any, target: str) -> None:
    assert channel_target(addresses) == target


@pytest.mark.parametrize(
    "addresses", [[], ["a:1", "b:1"], ["10.0.0.1:1", "[::1]:1"], ["10.0.0.1", "10.0.0.2"], ["ipv4:10.0.0.1:1", "x:2"]]
)
def test_several_addresses_must_be_ip_addresses_of_one_family(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="address"):
        channel_target(addresses)
