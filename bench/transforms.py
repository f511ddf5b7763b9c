"""Transform and score, next to scikit-learn's own pipeline: python -m bench.transforms

Two pipelines on mixed data: 20 numbers filled and scaled, 6 ordinal and 4 one-hot text columns of 10 categories each
(66 inputs), behind it LightGBM of 100 trees; and a smaller one. What is compared is fitted, converted and answers
the same. Each figure is the best of several rounds that take turns; rows a second of transforming and scoring together.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.registry_common import machine
from registry.process import end_with

COUNTS = (1, 16, 256)


def pipelines(rows: int = 4000) -> dict[str, tuple[Any, Any]]:
    """Fitted pipelines by name, each with the frame that they were fitted on."""
    import pandas as pd
    from lightgbm import LGBMClassifier
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    random = np.random.default_rng(1)
    made = {}
    for name, numbers, ordinals, one_hots in (("wide", 20, 6, 4), ("narrow", 5, 1, 1)):
        frame = pd.DataFrame({f"n{i}": random.normal(size=rows) for i in range(numbers)})
        frame = frame.mask(random.random(frame.shape) < 0.05)
        texts = [f"o{i}" for i in range(ordinals)] + [f"h{i}" for i in range(one_hots)]
        for text in texts:
            frame[text] = random.choice([f"{text} value {value}" for value in range(10)], rows)
        target = (np.nan_to_num(frame["n0"]) + (frame["h0"] == "h0 value 3") > 0).astype(int)
        columns = ColumnTransformer(
            [
                ("n", make_pipeline(SimpleImputer(), StandardScaler()), [f"n{i}" for i in range(numbers)]),
                ("o", OrdinalEncoder(), texts[:ordinals]),
                ("h", OneHotEncoder(sparse_output=False), texts[ordinals:]),
            ]
        )
        model = LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1)
        made[name] = (make_pipeline(columns, model).fit(frame, target), frame)
    return made


def best_us(work: Callable[[], object], rounds: int, least_s: float = 0.02) -> float:
    """The best round's microseconds a call; each round takes `least_s` or a call."""
    best = float("inf")
    for _ in range(rounds):
        calls, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < least_s or not calls:
            work()
            calls += 1
        best = min(best, taken / calls * 1e6)
    return best


def compare(name: str, pipeline: Any, frame: Any, rounds: int) -> list[dict[str, Any]]:
    """One line for each number of rows."""
    import warnings

    from ops.convert_columns import to_spec
    from registry.model import ModelSchema, OutputKind, OutputSchema
    from scorer.engine import Rows
    from scorer.engines.lightgbm import ENGINE
    from scorer.transforms import SharedTables, TransformedModel, compile_transform

    spec = to_spec(pipeline[0])
    text = pipeline[-1].booster_.model_to_string().encode()
    outputs = (OutputSchema("probabilities", OutputKind.CLASS_PROBABILITIES, ("0", "1")),)
    transform = compile_transform(spec, SharedTables())
    model = TransformedModel(ENGINE.load(text, ModelSchema(spec.outputs, outputs)), transform)
    lines = []
    for count in COUNTS:
        part = frame.iloc[:count]
        rows = Rows(
            part[list(spec.features)].to_numpy(np.float64), {each: part[each].tolist() for each in spec.string_columns}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not np.array_equal(model.predict(rows)[0], pipeline.predict_proba(part)):
                raise SystemExit(f"{name}: the answers differ")
            theirs = best_us(lambda part=part: pipeline.predict_proba(part), rounds)  # type: ignore[misc]
        ours = best_us(lambda rows=rows: model.predict(rows), rounds)  # type: ignore[misc]
        only = best_us(lambda rows=rows: transform(rows), rounds)  # type: ignore[misc]
        lines.append(
            {
                "pipeline": name,
                "rows": count,
                "transform_us": only,
                "ours_us": ours,
                "sklearn_us": theirs,
                "ours_rows_per_s": count / ours * 1e6,
                "sklearn_rows_per_s": count / theirs * 1e6,
                "ratio": theirs / ours,
            }
        )
    model.close()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    lines = [line for name, (made, frame) in pipelines().items() for line in compare(name, made, frame, rounds)]
    print(machine())
    print("| pipeline | rows | transform us | transform + score us | scikit-learn us | rows/s | its rows/s | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for line in lines:
        print(
            f"| {line['pipeline']} | {line['rows']} | {line['transform_us']:.1f} | {line['ours_us']:.1f} "
            f"| {line['sklearn_us']:.0f} | {line['ours_rows_per_s']:,.0f} | {line['sklearn_rows_per_s']:,.0f} "
            f"| {line['ratio']:.0f} |"
        )
    print(json.dumps(lines))


if __name__ == "__main__":
    end_with(main)
