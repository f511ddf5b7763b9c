"""Which pipelines of scikit-learn are published as a transform spec and a model behind it."""

from __future__ import annotations

from typing import Any

from ops.convert_columns import is_convertible


def split_pipeline(estimator: Any) -> tuple[Any, Any] | None:
    """The ColumnTransformer and the model behind it, where a pipeline is just these two."""
    steps = [step for _, step in getattr(estimator, "steps", ()) if step not in (None, "passthrough")]
    if len(steps) == 2 and is_convertible(steps[0]):
        return steps[0], steps[1]
    return None


def is_behind_spec(pair: tuple[Any, Any]) -> bool:
    """Whether the way over a spec is taken: for a LightGBM model, which stays one, and for words, which become no graph
    that a scorer accepts. All else becomes one graph.
    """
    transformer, last = pair
    return type(last).__module__.startswith("lightgbm.") or has_words(transformer)


def has_words(transformer: Any) -> bool:
    """Whether a fitted ColumnTransformer counts the words of texts."""
    fitted = [step for _, step, _ in transformer.transformers_]
    return any(hasattr(inner, "vocabulary_") for step in fitted for inner in [step, *_inner(step)])


def _inner(step: Any) -> list[Any]:
    return [each for _, each in getattr(step, "steps", ())]
