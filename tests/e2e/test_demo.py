"""`scoremesh demo` passes and says so with numbers, and can tell a wrong score from a right one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from client import Output, OutputKind, Residency, Scores, Timing
from ops.demo_data import DemoModel
from ops.demo_models import RECIPES, Recipe, train
from ops.demo_tally import Tally, is_right, percentile
from registry.model import ModelRef, Runtime
from tests.e2e.command import invoke, succeeds

_PASSED = r"^passed: (\d+) requests answered, 0 failed; (\d+) predictions checked, 0 wrong; hit rate ([\d.]+)%$"
_EXPECTED = np.array([0.5, 2.0, 1.0])


@pytest.mark.timeout(240)
def test_the_demo_passes(tmp_path: Path) -> None:
    text = succeeds("demo", "--requests", "900", cwd=tmp_path)
    summary = re.search(_PASSED, text, re.MULTILINE)
    assert summary is not None, text
    answered, predictions = int(summary[1]), int(summary[2])
    assert answered >= 900
    assert predictions > answered
    assert 50 < float(summary[3]) < 100

    served = re.findall(r"^local-\d(?P<killed> \(killed\))? +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE)
    assert len(served) == 3
    assert sum(int(count) for _, *counts in served for count in counts) == answered
    [(_, before, dead, after)] = [row for row in served if row[0]]
    assert int(before) > 0
    assert int(dead) == 0
    assert int(after) > 0
    latencies = dict(re.findall(r"^(in memory|on the scorer's disk|in the object store) +(\d+) ", text, re.MULTILINE))
    assert int(latencies["in memory"]) > int(latencies["in the object store"]) >= 1
    assert "\x1b" not in text


def test_one_wrong_score_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same real run with three models, one of which is told to expect something else by the least bit."""
    recipes = [
        recipe for recipe in RECIPES if str(recipe.ref) in {"initech/iris", "initech/body", "globex/progression"}
    ]

    def train_and_bend(recipe: Recipe, folder: Path) -> DemoModel:
        model = train(recipe, folder)
        bend = model.runtime is Runtime.LIGHTGBM
        expected = [np.nextafter(model.expected[0], np.inf)] if bend else model.expected
        return dataclasses.replace(model, expected=expected)

    monkeypatch.setattr("ops.demo.RECIPES", recipes)
    monkeypatch.setattr("ops.demo.train", train_and_bend)
    done = invoke("demo", "--requests", "30")
    assert done.exit_code == 1, done.output
    assert re.search(
        r"^FAILED: \d+ requests answered, 0 failed; \d+ predictions checked, [1-9]\d* wrong", done.output, re.MULTILINE
    )
    assert "globex/progression version 1" in done.output
    assert "initech/iris version" not in done.output


def test_too_few_requests_is_wrong_usage() -> None:
    assert invoke("demo", "--requests", "1").exit_code == 2


def demo_model(tolerance: float = 0.0) -> DemoModel:
    rows = np.zeros((3, 2))
    return DemoModel(ModelRef("acme", "m"), Runtime.LIGHTGBM, Path("m"), rows, [_EXPECTED], tolerance, "a model")


def answer(values: np.ndarray, order: np.ndarray | None = None, kind: OutputKind = OutputKind.REGRESSION) -> Scores:
    outputs = {"value": Output(kind, values, (), order)}
    return Scores("1", outputs, Residency.HIT, Timing(0, 0, 0, 3), "local-0", "")


def test_a_score_that_is_off_by_the_least_bit_is_wrong() -> None:
    picked = np.array([2, 0])
    assert is_right(demo_model(), picked, answer(np.array([1.0, 0.5])))
    assert not is_right(demo_model(), picked, answer(np.array([np.nextafter(1.0, 2), 0.5])))
    assert is_right(demo_model(1e-6), picked, answer(np.array([np.nextafter(1.0, 2), 0.5])))
    assert not is_right(demo_model(1e-6), picked, answer(np.array([1.00001, 0.5])))
    assert not is_right(demo_model(), picked, answer(np.array([0.5, 1.0])))


def test_a_missing_output_another_shape_and_nan_are_wrong() -> None:
    picked = np.array([0, 1])
    assert not is_right(demo_model(), picked, answer(np.array([0.5])))
    assert not is_right(demo_model(), picked, answer(np.array([[0.5], [2.0]])))
    assert not is_right(demo_model(), picked, answer(np.array([0.5, np.nan])))
    none = Scores("1", {}, Residency.HIT, Timing(0, 0, 0, 3), "local-0", "")
    assert not is_right(demo_model(), picked, none)


def test_a_ranking_in_the_wrong_order_is_wrong() -> None:
    picked = np.array([0, 1, 2])
    right = answer(_EXPECTED, np.array([1, 2, 0]), OutputKind.RANKING)
    assert is_right(demo_model(), picked, right)
    assert not is_right(demo_model(), picked, answer(_EXPECTED, np.array([2, 1, 0]), OutputKind.RANKING))
    assert not is_right(demo_model(), picked, answer(_EXPECTED, None, OutputKind.RANKING))


def test_the_tally_passes_only_if_all_is_well() -> None:
    tally = Tally()
    assert not tally.passed, "nothing was shown yet"
    tally.add_answer(1, demo_model(), np.array([0]), answer(np.array([0.5])))
    assert tally.passed
    assert (tally.answered, tally.in_phase(0), tally.in_phase(1), tally.predictions) == (1, 0, 1, 1)
    assert tally.hit_rate == 1.0
    tally.add_answer(1, demo_model(), np.array([0]), answer(np.array([0.6])))
    assert not tally.passed
    assert tally.wrong == ["acme/m version 1, 1 rows, by local-0"]
    tally.wrong.clear()
    tally.failures.append("lost")
    assert not tally.passed


@pytest.mark.parametrize(("percent", "wanted"), [(0, 1.0), (50, 2.0), (75, 3.0), (76, 4.0), (99, 4.0), (100, 4.0)])
def test_percentiles_are_values_that_were_seen(percent: float, wanted: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == wanted
