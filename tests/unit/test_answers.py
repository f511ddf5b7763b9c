"""Requests that are predicted together are answered as each would be alone, by real engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from registry.failure import Code, Failure
from registry.model import ModelSchema, ModelVersion, OutputKind, OutputSchema, Runtime
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_HIT, ScoreRequest, ScoreResponse
from scorer import answers
from scorer.answers import Answers, Waiting
from scorer.cost_curve import LONG_US, CostCurve
from scorer.engine import LoadedModel, Rows, engine_for
from scorer.in_flight import LOOP, BlackBox, InFlight
from scorer.plan import Plan
from scorer.resident import Resident
from tests.unit.conftest import TrainedModel


class Spy:
    """Passes on to a model. `asked`: the rows of each prediction."""

    resident_bytes = 0

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.asked: list[int] = []

    def predict(self, rows: Rows) -> list[np.ndarray]:
        self.asked.append(len(rows.dense))
        return self._model.predict(rows)

    def close(self) -> None:
        self._model.close()


class Tray:
    """Takes answers and failures by index."""

    def __init__(self) -> None:
        self.answered: dict[int, ScoreResponse] = {}
        self.refused: dict[int, Failure] = {}

    def answer(self, index: int, response: bytes) -> None:
        assert index not in self.refused
        assert index not in self.answered
        self.answered[index] = ScoreResponse.FromString(response)

    def refuse(self, index: int, failure: Failure) -> None:
        assert index not in self.answered
        assert index not in self.refused
        self.refused[index] = failure


class Desk:
    """A model in memory that is joined from two rows on."""

    def __init__(self, artifact: bytes, runtime: Runtime) -> None:
        engine = engine_for(runtime)
        self.schema = engine.describe(artifact)
        self.model = Spy(engine.load(artifact, self.schema))
        self.costs = CostCurve(10.0, 10.0, 1.0)
        self.costs.batch_from = 2
        self.resident = Resident(self.model, self.schema, 1, RESIDENCY_HIT, 1, 1, costs=self.costs)
        self.answers = Answers()

    def plan(self, version: str) -> Plan:
        return Plan(ModelVersion(version, "p", "acme", "a", "s", Runtime.ONNX, 1, 1), self.schema, "me")

    def ask(self, requests: Sequence[ScoreRequest]) -> Tray:
        """All at once, of versions v0, v1, ... with the same content."""
        tray = Tray()
        group: list[Waiting] = [
            (request, self.plan(f"v{index}"), self.resident, tray, index) for index, request in enumerate(requests)
        ]
        self.answers.answer([group])
        return tray

    def alone(self, requests: Sequence[ScoreRequest]) -> dict[int, ScoreResponse]:
        """One by one."""
        plans = [self.plan(f"v{index}") for index in range(len(requests))]
        found = [
            self.answers.alone(request, plan, self.resident) for request, plan in zip(requests, plans, strict=True)
        ]
        return {index: ScoreResponse.FromString(answer) for index, answer in enumerate(found)}


def request(rows: np.ndarray, *, single: bool = False, **fields: Any) -> ScoreRequest:
    made = ScoreRequest(tenant="acme", model="m", row_count=len(rows), **fields)
    (made.dense_float if single else made.dense_double).extend(rows.ravel().tolist())
    return made


def requests_of(rows: np.ndarray) -> list[ScoreRequest]:
    """Of one row and of several, in both widths, some with an id."""
    sizes, found, start = (1, 1, 3, 1, 2, 1, 1, 5, 1), [], 0
    for number, size in enumerate(sizes):
        part = rows[start : start + size]
        found.append(request(part, single=number % 4 == 3, request_id=f"r{number}" if number % 2 else ""))
        start += size
    return found


def without_times(answered: dict[int, ScoreResponse]) -> dict[int, ScoreResponse]:
    for answer in answered.values():
        answer.ClearField("timing")
    return answered


LIGHTGBM = ("binary", "multiclass", "two_class_multiclass", "regression", "lambdarank", "categorical", "random_forest")


@pytest.mark.parametrize("name", LIGHTGBM)
def test_lightgbm_answers_the_same_to_the_last_bit(lightgbm_models: dict[str, TrainedModel], name: str) -> None:
    trained = lightgbm_models[name]
    desk = Desk(trained.artifact, Runtime.LIGHTGBM)
    requests = requests_of(trained.rows)
    together = desk.ask(requests)
    assert desk.model.asked == [16]
    assert not together.refused
    assert without_times(together.answered) == without_times(desk.alone(requests))


@pytest.mark.parametrize("name", ["classifier", "network", "regression", "multi_output"])
def test_onnx_answers_the_same_but_for_the_last_digits(onnx_models: dict[str, TrainedModel], name: str) -> None:
    trained = onnx_models[name]
    desk = Desk(trained.artifact, Runtime.ONNX)
    requests = requests_of(trained.rows)
    together, alone = desk.ask(requests), desk.alone(requests)
    assert desk.model.asked[0] == 16
    for index, answer in alone.items():
        for ours, theirs in zip(together.answered[index].outputs, answer.outputs, strict=True):
            np.testing.assert_allclose(numbers(ours), numbers(theirs), rtol=2e-6, atol=2e-7)


def numbers(output: Any) -> np.ndarray:
    value = getattr(output, output.WhichOneof("value"))
    return np.array(value.probabilities if output.HasField("class_probabilities") else value.values)


def test_one_prediction_only_where_it_pays(lightgbm_models: dict[str, TrainedModel]) -> None:
    trained = lightgbm_models["regression"]
    desk = Desk(trained.artifact, Runtime.LIGHTGBM)
    desk.costs.batch_from = 5
    rows = trained.rows
    assert len(desk.ask([request(rows[:1])] * 4).answered) == 4
    assert desk.model.asked == [1, 1, 1, 1]
    assert len(desk.ask([request(rows[:1])] * 5).answered) == 5
    assert desk.model.asked[4:] == [5]
    assert len(desk.ask([request(rows[:9])]).answered) == 1
    assert len(desk.ask([request(rows[:1]), request(rows[:4])]).answered) == 2
    assert desk.model.asked[5:] == [9, 5]


def test_a_bad_request_fails_alone_and_before_the_prediction(lightgbm_models: dict[str, TrainedModel]) -> None:
    trained = lightgbm_models["binary"]
    desk = Desk(trained.artifact, Runtime.LIGHTGBM)
    good = [request(trained.rows[place : place + 1]) for place in range(3)]
    bad = [
        request(trained.rows[:1, :-1]),
        request(trained.rows[:1], output_names=["nothing"]),
        ScoreRequest(tenant="acme", model="m", dense_double=trained.rows[0]),
    ]
    tray = desk.ask([good[0], bad[0], good[1], bad[1], bad[2], good[2]])
    assert desk.model.asked == [4], "what can't be read isn't predicted; an output that isn't there is seen afterwards"
    assert sorted(tray.answered) == [0, 2, 5]
    assert sorted(tray.refused) == [1, 3, 4]
    for failure in tray.refused.values():
        assert (failure.code, failure.reason) == (Code.INVALID_ARGUMENT, "INVALID_FEATURES")
    assert "nothing" in tray.refused[3].message
    wanted = desk.alone(good)
    for index, number in ((0, 0), (2, 1), (5, 2)):
        assert tray.answered[index].outputs == wanted[number].outputs


def whole_numbers_model() -> bytes:
    """Gives its input of whole numbers back as floats."""
    cast = helper.make_node("Cast", ["count"], ["value"], to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [cast],
        "g",
        [helper.make_tensor_value_info("count", TensorProto.INT64, ["N", 1])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_rows_that_the_engine_refuses_fail_alone() -> None:
    desk = Desk(whole_numbers_model(), Runtime.ONNX)
    values = [1.0, 2.5, 3.0, float("nan"), 5.0]
    tray = desk.ask([request(np.array([[value]])) for value in values])
    assert desk.model.asked == [5, 1, 1, 1, 1, 1]
    assert {index: answer.outputs[0].regression.values[0] for index, answer in tray.answered.items()} == {
        0: 1.0,
        2: 3.0,
        4: 5.0,
    }
    assert {failure.reason for failure in tray.refused.values()} == {"INVALID_FEATURES"}
    assert sorted(tray.refused) == [1, 3]


def test_each_gets_the_outputs_that_it_asked_for() -> None:
    class Pair(Spy):
        def __init__(self) -> None:
            self.asked = []

        def predict(self, rows: Rows) -> list[np.ndarray]:
            self.asked.append(len(rows.dense))
            return [rows.dense[:, 0], rows.dense[:, ::-1].copy()]

    schema = ModelSchema(
        ("a", "b"),
        (
            OutputSchema("first", OutputKind.REGRESSION),
            OutputSchema("both", OutputKind.MULTI_OUTPUT, ("b", "a")),
        ),
    )
    model, tray, costs = Pair(), Tray(), CostCurve(10.0, 1.0, 1.0)
    plan = Plan(ModelVersion("1", "p", "acme", "a", "s", Runtime.ONNX, 1, 1), schema, "me")
    resident = Resident(model, schema, 1, RESIDENCY_HIT, 1, 1, costs=costs)
    names: list[list[str]] = [[], ["both"], ["first"], ["both", "first"]]
    asked = [request(np.array([[float(n), n + 0.5]]), output_names=each) for n, each in enumerate(names)]
    Answers().answer([[(each, plan, resident, tray, index) for index, each in enumerate(asked)]])
    assert model.asked == [4]
    got = [[output.name for output in tray.answered[index].outputs] for index in range(4)]
    assert got == [["first", "both"], ["both"], ["first"], ["first", "both"]]
    assert list(tray.answered[3].outputs[1].multi_output.values) == [3.5, 3.0]
    assert {tray.answered[index].residency for index in range(4)} == {RESIDENCY_HIT}


def test_the_supervisor_sees_what_is_predicted(lightgbm_models: dict[str, TrainedModel]) -> None:
    box = BlackBox()
    desk = Desk(lightgbm_models["binary"].artifact, Runtime.LIGHTGBM)
    desk.answers = Answers(InFlight(box.memory_fd))
    seen = []
    predict = desk.model.predict
    desk.model.predict = lambda rows: (seen.append(box.read().packages[LOOP]), predict(rows))[1]  # type: ignore[method-assign, func-returns-value]
    desk.ask([request(lightgbm_models["binary"].rows[:1])] * 3)
    assert seen == ["p"]
    assert box.read().packages[LOOP] == ""
    box.close()


def test_a_prediction_during_which_much_time_passed_has_the_next_one_measured(
    lightgbm_models: dict[str, TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only CPU time counts then: the first may have waited for a core."""
    trained = lightgbm_models["binary"]
    desk = Desk(trained.artifact, Runtime.LIGHTGBM)
    wall, cpu = iter([0, 10**9, 0, 10**9, 0, 1000, 0, 1000]), iter([5, 5 + 1000, 5, 5 + 10**9])
    monkeypatch.setattr(answers, "perf_counter_ns", lambda: next(wall))
    monkeypatch.setattr(answers, "thread_time_ns", lambda: next(cpu))
    before = desk.costs.estimate_us(1)
    rows = Rows(np.ascontiguousarray(trained.rows[:1]), {})
    predict = desk.answers.predict
    predict(rows, desk.resident, "p")
    assert desk.costs.is_doubtful
    assert desk.costs.estimate_us(1) == before
    predict(rows, desk.resident, "p")
    assert not desk.costs.is_doubtful
    assert desk.costs.estimate_us(1) == before, "it took a microsecond of CPU time"
    desk.costs.is_doubtful = True
    predict(rows, desk.resident, "p")
    assert before < desk.costs.estimate_us(1) < 10**9 / 1000
    assert desk.costs.one_us < LONG_US
