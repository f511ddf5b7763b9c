"""Writes many small real models: python -m bench.small_models DIR COUNT

20 LightGBM models of 20 trees are trained on bootstrap samples of three data sets of scikit-learn; each file is one of
them with every leaf's value moved by a few percent of its own, so that no two files have the same content.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightgbm
import numpy as np

from registry.process import end_with

_BASES = 20
_TREES = 20
_TENANTS = 100


def write_models(root: Path, count: int) -> int:
    """Write `count` models as root/<tenant>/<model>.txt; returns their bytes."""
    bases = [_train(number) for number in range(_BASES)]
    rng = np.random.default_rng(7)
    total = 0
    for number in range(count):
        base = bases[number % _BASES]
        for tree, leaves in enumerate(base.leaves):
            for leaf, value in enumerate(leaves):
                base.booster.set_leaf_output(tree, leaf, value * (1 + 0.03 * rng.standard_normal()))
        text = base.booster.model_to_string()
        folder = root / f"tenant{number % _TENANTS:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"model{number:06}.txt").write_text(text)
        total += len(text)
    return total


class _Base:
    def __init__(self, booster: lightgbm.Booster) -> None:
        self.booster = booster
        trees = booster.dump_model()["tree_info"]
        self.leaves = [
            [booster.get_leaf_output(number, leaf) for leaf in range(tree["num_leaves"])]
            for number, tree in enumerate(trees)
        ]


def _train(number: int) -> _Base:
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

    load, objective = ((load_breast_cancer, "binary"), (load_diabetes, "regression"), (load_wine, "regression"))[
        number % 3
    ]
    rows, target = load(return_X_y=True)
    sample = np.random.default_rng(number).integers(0, len(rows), len(rows))
    settings = {"objective": objective, "num_leaves": 15, "num_threads": 1, "verbose": -1, "min_data_in_leaf": 5}
    return _Base(lightgbm.train(settings, lightgbm.Dataset(rows[sample], target[sample]), _TREES))


def main() -> None:
    print(write_models(Path(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    end_with(main)
