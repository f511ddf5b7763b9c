"""What a trained scikit-learn estimator knows of its input columns: which are text, and which values are worth trying.

Contract: nothing is asked of the training data, which is gone; all comes from the fitted attributes (names, categories
of encoders, means of scalers, thresholds of trees). A column that nothing is known of is a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ops.sample_rows import Column

_MAX_POINTS = 64
_UNSEEN = "(never seen)"


class _Known:
    """A column while it is being looked for."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self.texts: list[str] = []
        self.is_used = self.is_text = self.takes_missing = self.is_code = False


def columns_of(estimator: Any) -> list[Column]:
    """The columns that a fitted estimator uses, in its order."""
    names = list(getattr(estimator, "feature_names_in_", ())) or [f"x{i}" for i in range(estimator.n_features_in_)]
    known = [_Known() for _ in names]
    _visit(estimator, known)
    has_names = hasattr(estimator, "feature_names_in_")
    return [
        Column(
            str(name), one.is_text, _spread(one.points), tuple(dict.fromkeys(one.texts)), one.takes_missing, one.is_code
        )
        for name, one in zip(names, known, strict=True)
        if one.is_used or not has_names
    ]


def first_step(estimator: Any) -> Any:
    """What sees the input first: of a pipeline its first step that does something."""
    while hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        estimator = steps[0]
    return estimator


def last_step(estimator: Any) -> Any:
    """What answers: of a pipeline its last step."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def is_of_trees(estimator: Any) -> bool:
    """Whether it is a tree or a forest of scikit-learn."""
    return any(hasattr(member, "tree_") or hasattr(member, "nodes") for member in _members(estimator))


def _visit(estimator: Any, known: Sequence[_Known]) -> None:
    """Learn of `known`, the columns that go into `estimator`, in order."""
    first = first_step(estimator)
    if hasattr(first, "transformers_"):
        for _, part, chosen in first.transformers_:
            columns = _chosen(chosen, known, getattr(first, "feature_names_in_", ()))
            if columns and not isinstance(part, str):
                _visit(part, columns)
            elif columns and part == "passthrough":
                _mark_used(columns)
        return
    for _, part in getattr(first, "transformer_list", ()):
        if not isinstance(part, str):
            _visit(part, known)
    _mark_used(known)
    _learn(first, known)
    if _takes_missing(estimator):
        for column in known:
            column.takes_missing = not column.is_text


def _mark_used(columns: Iterable[_Known]) -> None:
    for column in columns:
        column.is_used = True


def _chosen(chosen: Any, known: Sequence[_Known], names: Sequence[str]) -> list[_Known]:
    """The columns that ColumnTransformer gives to one of its parts: a name, names, numbers, a slice or a mask."""
    if isinstance(chosen, str):
        chosen = [chosen]
    if isinstance(chosen, slice) and isinstance(chosen.start or chosen.stop, str):
        place = list(names).index
        start, stop = (None if end is None else place(end) for end in (chosen.start, chosen.stop))
        return list(known[slice(start, None if stop is None else stop + 1)])
    if not isinstance(chosen, slice) and len(np.atleast_1d(chosen)) and isinstance(np.atleast_1d(chosen)[0], str):
        return [known[list(names).index(name)] for name in np.atleast_1d(chosen)]
    return [known[number] for number in np.atleast_1d(np.arange(len(known))[chosen])]


def _learn(step: Any, known: Sequence[_Known]) -> None:
    _learn_categories(step, known)
    centres = _numbers(step, "mean_", "center_", "data_min_", "statistics_")
    widths = _numbers(step, "scale_", "data_range_")
    for number, column in enumerate(known):
        if centres is not None and len(centres) == len(known):
            width = widths[number] if widths is not None and len(widths) == len(known) else 1.0
            column.points += [centres[number] + width * factor for factor in (-2.0, -0.5, 0.0, 0.5, 2.0)]
        column.points += [float(theta) for theta in getattr(step, "theta_", np.empty((0, len(known))))[:, number]]
    for feature, threshold in _thresholds(step):
        known[feature].points.append(threshold)


def _learn_categories(step: Any, known: Sequence[_Known]) -> None:
    categories = getattr(step, "categories_", ())
    filled = getattr(step, "statistics_", ())
    for values in (categories, [[value] for value in filled]):
        for column, some in zip(known, values, strict=False):
            texts = [value for value in some if isinstance(value, str)]
            column.is_text |= bool(texts)
            column.texts += texts
            column.points += [] if texts else [float(value) for value in some if _is_finite(value)]
            column.is_code |= values is categories and not texts
    if getattr(step, "handle_unknown", "error") != "error":
        for column in known:
            column.texts.append(_UNSEEN)
            column.points += [max(column.points) + 1] if column.is_code else []


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _numbers(step: Any, *names: str) -> np.ndarray | None:
    for name in names:
        found = getattr(step, name, None)
        if isinstance(found, np.ndarray) and found.dtype.kind in "fi" and np.isfinite(found).all():
            return np.asarray(found, dtype=np.float64)
    return None


def _members(estimator: Any) -> list[Any]:
    """The trees of a forest, or the estimator alone."""
    if hasattr(estimator, "_predictors"):  # HistGradientBoosting keeps its trees nowhere else
        return [tree for trees in estimator._predictors for tree in trees]  # noqa: SLF001
    return list(np.ravel(np.asarray(getattr(estimator, "estimators_", [estimator]), dtype=object)))


def _thresholds(estimator: Any) -> list[tuple[int, float]]:
    """(feature, threshold) of the splits of a tree or a forest."""
    found: list[tuple[int, float]] = []
    for member in _members(estimator):
        if hasattr(member, "tree_"):
            splits = member.tree_.feature >= 0
            found += zip(member.tree_.feature[splits].tolist(), member.tree_.threshold[splits].tolist(), strict=True)
        elif hasattr(member, "nodes"):
            splits = member.nodes["is_leaf"] == 0
            nodes = member.nodes[splits]
            found += zip(nodes["feature_idx"].tolist(), nodes["num_threshold"].tolist(), strict=True)
    return [split for split in found if np.isfinite(split[1])]


def _takes_missing(estimator: Any) -> bool:
    """Whether rows with a missing value are what it was made for: it fills them in, or is of trees that can."""
    if hasattr(first_step(estimator), "statistics_"):
        return True
    parts = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    allow = all(isinstance(part, str) or part.__sklearn_tags__().input_tags.allow_nan for part in parts)
    return allow and is_of_trees(last_step(estimator))


def _spread(points: list[float]) -> tuple[float, ...]:
    """At most 64 of the points, from the whole of their range."""
    ordered = sorted(set(points))
    step = max(1, -(-len(ordered) // _MAX_POINTS))
    return tuple(ordered[::step])
