"""Real models of five tenants for the demo and the end-to-end tests, trained on the spot.

Nothing is downloaded and nothing is random: the same packages give the same artifacts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ops.demo_data import DemoModel
from ops.demo_lightgbm import TREE_RECIPES, TreeRecipe
from ops.demo_onnx import GRAPH_RECIPES, GraphRecipe
from ops.demo_pipelines import PIPELINE_RECIPES, PipelineRecipe

__all__ = ["RECIPES", "DemoModel", "Recipe", "train", "train_all"]

Recipe = TreeRecipe | GraphRecipe | PipelineRecipe
RECIPES: tuple[Recipe, ...] = tuple(sorted((*TREE_RECIPES, *GRAPH_RECIPES, *PIPELINE_RECIPES), key=lambda r: r.ref))


def train_all(directory: Path, on_progress: Callable[[str], None]) -> list[DemoModel]:
    """Train every model; artifacts go into `directory`. `on_progress` gets one line a model. Takes some seconds."""
    models = []
    for number, recipe in enumerate(RECIPES, start=1):
        on_progress(f"{number}/{len(RECIPES)} {recipe.ref}: {recipe.title}")
        models.append(train(recipe, directory))
    return models


def train(recipe: Recipe, directory: Path) -> DemoModel:
    """Train one model; its artifact goes into `directory`."""
    return recipe.train(directory)
