"""What XGBoost and contributions cost here, beside the libraries' own packages: python -m bench.engines

Models of 200 trees with at most 31 leaves, binary, 30 features, trained on 20,000 generated rows, in one process with
one thread each. All figures are CPU time, the least of several rounds in which the contestants take turns; rows differ
from call to call. Import costs are of processes of their own.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable
from time import process_time

import lightgbm
import numpy as np
import xgboost

from bench.registry_common import machine
from ops.convert_xgboost import convert_booster
from registry.lightgbm_slim import slim, with_counts
from registry.model import Runtime
from registry.xgboost_model import read_xgboost
from registry.xgboost_rewrite import rewrite
from scorer.contributions import contributions_of
from scorer.engine import LoadedModel, Rows, engine_for
from scorer.memory import measure_load
from scorer.onnx_optimise import optimise

_TREES, _FEATURES, _ROUNDS = 200, 30, 9
_COUNTS = (1, 16, 256)
_IMPORTS = {
    "package": "import xgboost",
    "library": "from scorer.engines.xgboost_capi import open_api; open_api()",
}
_COST = """
import resource, sys, time
import numpy
def mib(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before, began = mib(), time.process_time()
{}
print(f"{{mib() - before:.0f}} MiB, {{(time.process_time() - began) * 1e3:.0f}} ms")
"""
Work = Callable[[np.ndarray], object]


def least_us(contestants: dict[str, Work], count: int) -> dict[str, float]:
    """CPU microseconds a call with so many rows."""
    rows = [np.random.default_rng(seed).normal(size=(count, _FEATURES)) for seed in range(16)]
    calls = max(8, 400 // count)
    best = dict.fromkeys(contestants, np.inf)
    for _ in range(_ROUNDS):
        for name, work in contestants.items():
            turns = itertools.islice(itertools.cycle(rows), calls)
            began = process_time()
            for each in turns:
                work(each)
            best[name] = min(best[name], (process_time() - began) / calls * 1e6)
    return best


def table(title: str, contestants: dict[str, Work], counts: tuple[int, ...]) -> None:
    print(f"\n{title}: CPU us a call, by rows\n")
    print("| | " + " | ".join(map(str, counts)) + " |")
    print("|---|" + "---:|" * len(counts))
    found = [least_us(contestants, count) for count in counts]
    for name in contestants:
        print(f"| {name} | " + " | ".join(f"{each[name]:.1f}" for each in found) + " |")


def loads(name: str, runtime: Runtime, artifact: bytes, offered: bytes) -> LoadedModel:
    engine = engine_for(runtime)
    schema = engine.describe(offered)
    measured = []
    model: LoadedModel
    for _ in range(6):
        began = process_time()
        model, taken = measure_load(lambda: engine.load(artifact, schema))
        measured.append((process_time() - began, taken))
    took_s, taken = min(measured)[0], measured[-1][1]
    print(
        f"| {name} | {len(offered) / 1e3:.0f} | {len(artifact) / 1e3:.0f} | {took_s * 1e3:.1f} | {taken / 1024:.0f} |"
    )
    return model


def main() -> None:
    """Print all tables."""
    warnings.simplefilter("ignore")
    print(
        machine(), f"xgboost {xgboost.__version__}, lightgbm {lightgbm.__version__}, numpy {np.__version__}", sep="\n"
    )
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(20_000, _FEATURES))
    target = rows[:, 0] + rows[:, 1] * rows[:, 2] + generator.normal(size=len(rows)) > 0
    shape = {"max_leaves": 31, "max_depth": 0, "grow_policy": "lossguide", "tree_method": "hist"}
    boosted = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1, **shape}, xgboost.DMatrix(rows, target), _TREES
    )
    settings = {"objective": "binary", "num_threads": 1, "verbose": -1, "num_leaves": 31}
    light = lightgbm.train(settings, lightgbm.Dataset(rows, target), _TREES)
    saved, text = bytes(boosted.save_raw("ubj")), light.model_to_string().encode()
    graph = convert_booster(boosted, "Booster").data

    print("\n| to use it | memory, CPU time |\n|---|---|")
    for name, code in _IMPORTS.items():
        ran = subprocess.run([sys.executable, "-c", _COST.format(code)], capture_output=True, text=True, check=True)
        print(f"| {name} | {ran.stdout.strip()} |")
    print("\n| model | file KB | artifact KB | load CPU ms | loaded KiB |\n|---|---:|---:|---:|---:|")
    native = loads("XGBoost", Runtime.XGBOOST, rewrite(read_xgboost(saved)), saved)
    lights = loads("LightGBM", Runtime.LIGHTGBM, slim(text), text)
    explained = loads("LightGBM with counts", Runtime.LIGHTGBM, with_counts(text), text)
    onnx = loads("XGBoost as ONNX", Runtime.ONNX, optimise(graph), graph)
    boosted.set_param({"nthread": 1})
    predictions: dict[str, Work] = {
        "XGBoost, our engine": lambda some: native.predict(Rows(some, {})),
        "Booster.inplace_predict": boosted.inplace_predict,
        "Booster.predict(DMatrix)": lambda some: boosted.predict(xgboost.DMatrix(some, nthread=1)),
        "XGBoost as ONNX, our engine": lambda some: onnx.predict(Rows(some, {})),
        "LightGBM, our engine": lambda some: lights.predict(Rows(some, {})),
    }
    table("Predictions", predictions, _COUNTS)
    outputs = engine_for(Runtime.XGBOOST).describe(saved).outputs[0]
    explanations: dict[str, Work] = {
        "XGBoost, our engine": lambda some: contributions_of(native, Rows(some, {}), outputs),
        "XGBoost, pred_contribs": lambda some: boosted.predict(xgboost.DMatrix(some, nthread=1), pred_contribs=True),
        "LightGBM, our engine": lambda some: contributions_of(explained, Rows(some, {}), outputs),
        "LightGBM, pred_contrib": lambda some: light.predict(some, pred_contrib=True, num_threads=1),
    }
    table("Contributions", explanations, (1, 16))


if __name__ == "__main__":
    main()
