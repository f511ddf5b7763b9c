"""The demo's LightGBM models: trained on one thread, saved as text, scored by `lightgbm.Booster` itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.demo_data import QUERY_ROWS, DemoModel, Split, data_set, progression_by_query, threes_first
from registry.model import ModelRef, Runtime

_COMMON = {"num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": 7, "verbose": -1}


@dataclass(frozen=True)
class TreeRecipe:
    """How to train one LightGBM model. `rounds`: trees, or trees a class."""

    ref: ModelRef
    title: str
    objective: str
    split: Callable[[], Split]
    rounds: int = 60
    leaves: int = 15
    alpha: float = 0.9

    def train(self, directory: Path) -> DemoModel:
        """Train, save and score."""
        import lightgbm

        split = self.split()
        path = directory / f"{self.ref.tenant}.{self.ref.model}.txt"
        booster = lightgbm.train(self._parameters(split), self._train_set(split), num_boost_round=self.rounds)
        booster.save_model(path)
        rows = np.ascontiguousarray(split.held_rows)
        raw = np.asarray(lightgbm.Booster(model_file=path).predict(rows, num_threads=1))
        expected = np.column_stack([1.0 - raw, raw]) if self.objective == "binary" else raw
        return DemoModel(self.ref, Runtime.LIGHTGBM, path, rows, [expected], 0.0, self.title)

    def _parameters(self, split: Split) -> dict[str, Any]:
        parameters = {**_COMMON, "objective": self.objective, "num_leaves": self.leaves, "alpha": self.alpha}
        return {**parameters, "num_class": len(split.labels)} if self.objective.startswith("multiclass") else parameters

    def _train_set(self, split: Split) -> Any:
        import lightgbm

        # LightGBM allows no spaces in a feature's name.
        names = [feature.replace(" ", "_") for feature in split.features]
        return lightgbm.Dataset(
            split.train_rows, split.train_target, feature_name=names, group=self._query_sizes(split.train_target)
        )

    def _query_sizes(self, target: NDArray[Any]) -> list[int] | None:
        ranks = self.objective in {"lambdarank", "rank_xendcg"}
        return [QUERY_ROWS] * (len(target) // QUERY_ROWS) if ranks else None


TREE_RECIPES = (
    TreeRecipe(
        ModelRef("acme", "tumour"), "Is a tumour benign", "binary", lambda: data_set("breast_cancer"), rounds=100
    ),
    TreeRecipe(
        ModelRef("acme", "tumour-small"),
        "Is a tumour benign, from ten measurements",
        "binary",
        lambda: data_set("breast_cancer").first_features(10),
        rounds=20,
        leaves=7,
    ),
    TreeRecipe(
        ModelRef("acme", "cultivar"), "Which of three vines a wine is from", "multiclass", lambda: data_set("wine")
    ),
    TreeRecipe(
        ModelRef("globex", "progression"), "Diabetes in a year", "regression", lambda: data_set("diabetes"), rounds=80
    ),
    TreeRecipe(
        ModelRef("globex", "progression-p90"),
        "Diabetes in a year, nine patients in ten are below",
        "quantile",
        lambda: data_set("diabetes"),
    ),
    TreeRecipe(
        ModelRef("umbrella", "triage"),
        "Patients, the one to see first on top",
        "lambdarank",
        progression_by_query,
    ),
    TreeRecipe(ModelRef("umbrella", "threes-first"), "Pictures of digits, threes on top", "rank_xendcg", threes_first),
    TreeRecipe(
        ModelRef("umbrella", "digit-trees"),
        "Which digit a picture shows",
        "multiclass",
        lambda: data_set("digits"),
        rounds=15,
    ),
    TreeRecipe(
        ModelRef("hooli", "iris-one-against-all"),
        "Which iris a flower is",
        "multiclassova",
        lambda: data_set("iris"),
        leaves=7,
    ),
    TreeRecipe(
        ModelRef("hooli", "progression-poisson"),
        "Diabetes in a year, as a count",
        "poisson",
        lambda: data_set("diabetes"),
    ),
)
