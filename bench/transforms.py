"""Transform and score, next to scikit-learn's own pipeline: python -m bench.transforms

The demo's two real pipelines, and one that is wide: 20 numbers filled and scaled, 6 ordinal and 4 one-hot text columns
of 10 categories each (66 inputs), behind it LightGBM of 100 trees. What is compared is fitted, converted and answers
the same. CPU time, the best of several rounds in which all take turns; "by hand" is what one would write for the wide
one, over rows as dictionaries, transforming alone.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.registry_common import machine
from registry.process import end_with
from registry.transforms import Impute, OneHot, Ordinal, Scale, TransformSpec
from scorer.engine import Rows
from scorer.transforms import SharedTables, TransformedModel, compile_transform

COUNTS = (1, 16, 256)
_ROUND_S = 0.02


class Bench(NamedTuple):
    """A fitted pipeline of a ColumnTransformer and LightGBM, and a table to score."""

    name: str
    pipeline: Any
    frame: Any


def wide(rows: int = 4000) -> Bench:
    """The one that is made up."""
    import pandas as pd
    from lightgbm import LGBMClassifier
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    random = np.random.default_rng(1)
    frame = pd.DataFrame({f"n{place}": random.normal(size=rows) for place in range(20)})
    frame = frame.mask(random.random(frame.shape) < 0.05)
    texts = [*(f"o{place}" for place in range(6)), *(f"h{place}" for place in range(4))]
    for text in texts:
        frame[text] = random.choice([f"{text} value {value}" for value in range(10)], rows)
    target = (np.nan_to_num(frame["n0"]) + (frame["h0"] == "h0 value 3") > 0).astype(int)
    columns = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(), StandardScaler()), [f"n{place}" for place in range(20)]),
            ("o", OrdinalEncoder(), texts[:6]),
            ("h", OneHotEncoder(sparse_output=False), texts[6:]),
        ]
    )
    model = LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1)
    return Bench("wide", make_pipeline(columns, model).fit(frame, target), frame)


def demo() -> list[Bench]:
    """The real ones."""
    from ops.demo_pipelines import PIPELINE_RECIPES

    return [Bench(recipe.ref.model, *recipe.fitted()) for recipe in PIPELINE_RECIPES]


def hand_written(spec: TransformSpec) -> Callable[[list[dict[str, Any]]], list[list[float]]]:
    """What one would write by hand for filling, scaling, places and one-hot columns."""

    def run(rows: list[dict[str, Any]]) -> list[list[float]]:
        return [
            [number for column in spec.columns for number in _by_hand(column.steps, row[column.input])] for row in rows
        ]

    return run


def _by_hand(steps: Any, value: Any) -> list[float]:
    for step in steps:
        if isinstance(step, Impute):
            value = step.value if math.isnan(value) else value
        elif isinstance(step, Scale):
            value = (value - step.subtract) / step.divide
        elif isinstance(step, Ordinal):
            value = float(step.categories.index(value))  # type: ignore[union-attr]
        elif isinstance(step, OneHot):
            return [1.0 if value == category else 0.0 for category in step.categories]  # type: ignore[union-attr]
    return [value]


def best_us(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU microseconds a call in the best round of each; a round takes `_ROUND_S` or a call, and all take turns."""
    best = dict.fromkeys(works, math.inf)
    for _ in range(rounds):
        for name, work in works.items():
            calls, began = 0, time.process_time()
            while (taken := time.process_time() - began) < _ROUND_S or not calls:
                for _ in range(repeat := 1 if best[name] > 1000 else 20):
                    work()
                calls += repeat
            best[name] = min(best[name], taken / calls * 1e6)
    return best


def compare(bench: Bench, rounds: int) -> None:
    """Print a line for each number of rows."""
    from ops.convert_columns import to_spec
    from scorer.engines.lightgbm import ENGINE

    spec = to_spec(bench.pipeline[0])
    text = bench.pipeline[-1].booster_.model_to_string().encode()
    transform = compile_transform(spec, SharedTables())
    inner = ENGINE.load(text, ENGINE.describe(text))
    model = TransformedModel(inner, transform)
    for count in COUNTS:
        part = bench.frame.iloc[:count]
        texts = {each: ["" if text != text else text for text in part[each]] for each in spec.string_columns}  # noqa: PLR0124
        rows = Rows(part[list(spec.features)].to_numpy(np.float64), texts)
        if not np.array_equal(model.predict(rows)[0], bench.pipeline.predict_proba(part)):
            raise SystemExit(f"{bench.name}: the answers differ")
        made = transform(rows)
        works: dict[str, Callable[[], object]] = {
            "transform": lambda rows=rows: transform(rows),  # type: ignore[misc]
            "predict": lambda made=made: inner.predict(made),  # type: ignore[misc]
            "both": lambda rows=rows: model.predict(rows),  # type: ignore[misc]
            "sklearn": lambda part=part: bench.pipeline.predict_proba(part),  # type: ignore[misc]
        }
        if bench.name == "wide":
            records, by_hand = part.to_dict("records"), hand_written(spec)
            works["hand"] = lambda records=records, run=by_hand: run(records)  # type: ignore[misc]
        us = best_us(works, rounds)
        hand = f"{us['hand']:.1f}" if "hand" in us else ""
        print(
            f"| {bench.name} | {len(spec.outputs)} | {count} | {us['transform']:.1f} | {hand} | {us['predict']:.1f} "
            f"| {us['both']:.1f} | {us['sklearn']:.0f} | {count / us['both'] * 1e6:,.0f} "
            f"| {count / us['sklearn'] * 1e6:,.0f} | {us['sklearn'] / us['both']:.0f} |"
        )
    model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")  # of scikit-learn and LightGBM on each other's arrays
    print(machine())
    names = ("pipeline", "inputs", "rows", "transform", "by hand", "predict", "both", "scikit-learn")
    print(f"| {' | '.join(names)} | rows/s | its rows/s | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for bench in (wide(), *demo()):
        compare(bench, rounds)


if __name__ == "__main__":
    end_with(main)
