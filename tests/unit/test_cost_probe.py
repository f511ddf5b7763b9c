"""What is measured of a loaded model, with a clock that its predictions move."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from registry.model import ModelSchema, ModelVersion, OutputKind, OutputSchema, Runtime
from registry.transforms import Column, OneHot, TransformSpec
from scorer import cost_probe
from scorer.cost_curve import UNKNOWN, CostCurve
from scorer.cost_probe import CostProbe
from scorer.engine import LoadedModel, Rows, engine_for
from scorer.transforms import SharedTables, TransformedModel, compile_transform
from tests.unit.conftest import TrainedModel

SCHEMA = ModelSchema(("a", "b"), (OutputSchema("value", OutputKind.REGRESSION),))


class TimedModel:
    """`us_of`: what a prediction of so many rows takes."""

    resident_bytes = 0

    def __init__(self, us_of: Callable[[int], float]) -> None:
        self._us_of = us_of
        self.now_ns = 0
        self.asked: list[int] = []

    def predict(self, rows: Rows) -> list[np.ndarray]:
        assert rows.dense.flags.c_contiguous
        self.asked.append(len(rows.dense))
        self.now_ns += round(self._us_of(len(rows.dense)) * 1000)
        return [rows.dense[:, 0]]

    def close(self) -> None: ...


Timed = Callable[[Callable[[int], float]], TimedModel]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    def make(us_of: Callable[[int], float]) -> TimedModel:
        model = TimedModel(us_of)
        monkeypatch.setattr(cost_probe, "thread_time_ns", lambda: model.now_ns)
        return model

    return make


def version(package: str = "p", schema: str = "s", transforms: str = "") -> ModelVersion:
    return ModelVersion("1", package, "acme", "a" * 64, schema, Runtime.ONNX, 1, 1, transforms=transforms)


def curve_of(model: LoadedModel) -> CostCurve:
    return CostProbe().curve(version(), model, SCHEMA, None)


def test_a_call_has_a_price_that_rows_share(timed: Timed) -> None:
    curve = curve_of(timed(lambda rows: 15 + rows * 0.5))
    assert curve.estimate_us(1) == pytest.approx(15.5)
    assert curve.estimate_us(64) == pytest.approx(47.0)
    assert (curve.batch_from, curve.short_rows) == (2, 370)


def test_a_quicker_way_for_one_row(timed: Timed) -> None:
    curve = curve_of(timed(lambda rows: 4.0 if rows == 1 else 15 + rows * 0.8))
    assert curve.batch_from == 7, "15 + 2 + 7 x 0.8 is less than nine tenths of 7 x 4"
    assert curve_of(timed(lambda rows: 4.0 if rows == 1 else 15 + rows * 3.9)).batch_from == 0


@pytest.mark.parametrize(("us", "asked"), [(10.0, [1, 1, 1, 2, 2, 16, 16]), (100.0, [1, 1, 1, 2, 2, 4, 4])])
def test_how_much_is_asked_of_a_model(timed: Timed, us: float, asked: list[int]) -> None:
    model = timed(lambda rows: us * rows)
    curve_of(model)
    assert model.asked == asked


@pytest.mark.parametrize(("us", "asked"), [(1_000.0, [1, 1, 1]), (20_000.0, [1])])
def test_a_slow_model_is_soon_let_go(timed: Timed, us: float, asked: list[int]) -> None:
    model = timed(lambda rows: us * rows)
    curve = curve_of(model)
    assert model.asked == asked
    assert (curve.batch_from, curve.short_rows, curve.estimate_us(10)) == (0, 0, us * 10)


def test_the_next_load_of_a_package_finds_the_curve(timed: Timed) -> None:
    model, probe = timed(lambda rows: 5.0 * rows), CostProbe()
    first = probe.curve(version(), model, SCHEMA, None)
    first.learn(100, 2_000.0)
    count = len(model.asked)
    assert probe.curve(version(), model, SCHEMA, None) is first
    assert len(model.asked) == count
    assert probe.curve(version("q"), model, SCHEMA, None) is not first


def test_a_model_that_takes_no_made_rows_is_unknown() -> None:
    class Refusing(TimedModel):
        def predict(self, rows: Rows) -> list[np.ndarray]:
            raise RuntimeError("not these")

    assert curve_of(Refusing(float)) is UNKNOWN


def test_real_models_are_measured(
    lightgbm_models: dict[str, TrainedModel], onnx_models: dict[str, TrainedModel]
) -> None:
    for runtime, models in ((Runtime.LIGHTGBM, lightgbm_models), (Runtime.ONNX, onnx_models)):
        engine = engine_for(runtime)
        for name, trained in models.items():
            schema = engine.describe(trained.artifact)
            model = engine.load(trained.artifact, schema)
            curve = CostProbe().curve(version(), model, schema, None)
            assert curve is not UNKNOWN, name
            assert curve.one_us > 0
            assert curve.row_us > 0
            model.close()


def test_a_model_behind_transforms_is_measured_with_rows_that_they_take(
    lightgbm_models: dict[str, TrainedModel],
) -> None:
    engine, trained = engine_for(Runtime.LIGHTGBM), lightgbm_models["multiclass"]
    outputs = engine.describe(trained.artifact).outputs
    columns = tuple(Column(name, (OneHot(("x", "y"), unknown="error"),)) for name in ("left", "right"))
    spec = TransformSpec((), columns, ("left", "right"))
    assert len(spec.outputs) == 4
    inner = ModelSchema(spec.outputs, outputs)
    model = TransformedModel(engine.load(trained.artifact, inner), compile_transform(spec, SharedTables()))
    schema = ModelSchema((), outputs, string_columns=("left", "right"))
    assert CostProbe().curve(version(transforms="t"), model, schema, spec) is not UNKNOWN
    model.close()
