"""The few models of a catalogue that are really trained: on resampled rows and columns of the data sets that
scikit-learn brings, each of them admitted as every published model is.

Contract: the same spec trains the same models. A `Base` is a fixed point of admission: what admission makes of its
artifact is that artifact (`ops.catalogue.copies.in_order`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ops.catalogue.copies import in_order
from ops.catalogue.spec import CatalogueSpec
from ops.demo_data import Split, data_set
from ops.demo_onnx import converted
from registry.errors import ArtifactRejectedError, InvalidRequestError
from registry.manifest import GoldenRows
from registry.model import ModelSchema, Runtime
from registry.offer import Admit, Admitted, Offer, sha256
from scorer.engine import Rows, engine_for
from scorer.golden import TOLERANCES, record

_TREE_SETS = ("breast_cancer", "wine", "iris", "digits", "diabetes")
_GRAPH_SETS = ("breast_cancer", "wine", "iris", "digits")
_LEAVES = 7
_LEAST_COLUMNS = 4
_GOLDEN_ROWS = 2  # Hundreds of thousands of manifests have them.
_ROUNDS = 3


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """`weight`: in proportion to which it is copied. `golden`: held-out rows and what the base answers. The rest as
    admission found it; see `registry.offer.Admitted`.
    """

    title: str
    weight: float
    runtime: Runtime
    artifact: bytes
    schema: ModelSchema
    resident_bytes: int
    predict_us: dict[str, float]
    runtime_version: str
    golden: GoldenRows


class Draft(NamedTuple):
    """A trained model that isn't admitted yet. `rows`: held-out ones, float64."""

    title: str
    weight: float
    runtime: Runtime
    data: bytes
    rows: np.ndarray


class _Kind(NamedTuple):
    """`trees`: 0 for an ONNX graph. `weight`: of each base of it."""

    trees: int
    weight: float


def train_all(spec: CatalogueSpec) -> Iterator[Draft]:
    """Train them, one after the other. Raises InvalidRequestError: they are fewer than the kinds of models."""
    for number, kind in enumerate(_kinds(spec)):
        random = np.random.default_rng([spec.seed, 2, number])
        name = _TREE_SETS[number % len(_TREE_SETS)] if kind.trees else _GRAPH_SETS[number // 2 % len(_GRAPH_SETS)]
        split = _resampled(data_set(name), random)
        rows = np.ascontiguousarray(split.held_rows[:_GOLDEN_ROWS], np.float64)
        if kind.trees:
            title, data = f"{name}, {kind.trees} trees", _train_trees(split, kind.trees, number)
            yield Draft(title, kind.weight, Runtime.LIGHTGBM, data, rows)
        else:
            title, data = _train_graph(split, number)
            yield Draft(f"{name}, {title}", kind.weight, Runtime.ONNX, data, rows)


async def admit_base(draft: Draft, admit: Admit) -> Base:
    """Admit it until admission leaves it as it is. Raises ArtifactRejectedError."""
    artifact, golden = in_order(draft.runtime, draft.data), None
    for _ in range(_ROUNDS):
        found = await admit(Offer(artifact, sha256(artifact), draft.runtime, golden))
        made = in_order(draft.runtime, found.artifact)
        if artifact == made and golden is not None:
            return _base(draft, artifact, found, golden)
        artifact, golden = made, _answered(draft, found)
    raise ArtifactRejectedError(f"{draft.title}: admission makes another model of its own again and again")


def _base(draft: Draft, artifact: bytes, found: Admitted, golden: GoldenRows) -> Base:
    return Base(
        title=draft.title,
        weight=draft.weight,
        runtime=draft.runtime,
        artifact=artifact,
        schema=found.schema,
        resident_bytes=found.resident_bytes,
        predict_us=found.predict_us,
        runtime_version=found.runtime_version,
        golden=found.golden or golden,
    )


def _answered(draft: Draft, found: Admitted) -> GoldenRows:
    """Real rows instead of the made ones, with what the admitted model answers."""
    model = engine_for(draft.runtime).load(found.artifact, found.schema)
    try:
        rows = Rows(draft.rows, {})
        return record(rows, found.schema, model.predict(rows), TOLERANCES[draft.runtime])
    finally:
        model.close()


def _kinds(spec: CatalogueSpec) -> list[_Kind]:
    graphs = max(1, round(spec.bases * spec.onnx_share)) if spec.onnx_share else 0
    trees = spec.trees if spec.onnx_share < 1 else ()
    left = spec.bases - graphs - len(trees)
    if left < 0:
        raise InvalidRequestError(f"{spec.bases} bases are too few for {len(trees)} sizes of trees and ONNX graphs")
    total = sum(each.share for each in trees)
    kinds = [_Kind(0, spec.onnx_share / graphs)] * graphs if graphs else []
    for place, each in enumerate(trees):
        share = each.share / total
        more = round(left * share) if place else left - sum(round(left * other.share / total) for other in trees[1:])
        kinds += [_Kind(each.trees, (1 - spec.onnx_share) * share / (1 + more))] * (1 + more)
    return kinds


def _resampled(split: Split, random: np.random.Generator) -> Split:
    """As many rows, drawn with replacement, and 60 to 100 % of the columns."""
    rows = random.integers(0, len(split.train_rows), len(split.train_rows))
    width = split.train_rows.shape[1]
    least = min(width, max(_LEAST_COLUMNS, round(width * 0.6)))
    columns = np.sort(random.choice(width, random.integers(least, width + 1), replace=False))
    return Split(
        split.train_rows[rows][:, columns],
        split.train_target[rows],
        split.held_rows[:, columns],
        split.held_target,
        tuple(split.features[column] for column in columns),
        split.labels,
    )


def _train_trees(split: Split, trees: int, seed: int) -> bytes:
    import lightgbm

    from registry.lightgbm_slim import slim

    classes = len(split.labels)
    objective = "regression" if not classes else "binary" if classes == 2 else "multiclass"
    settings = {"objective": objective, "num_leaves": _LEAVES, "min_data_in_leaf": 3, "seed": seed}
    settings |= {"num_threads": 1, "deterministic": True, "force_row_wise": True, "verbose": -1}
    settings |= {"num_class": classes} if classes > 2 else {}
    names = [feature.replace(" ", "_") for feature in split.features]
    data = lightgbm.Dataset(split.train_rows, split.train_target, feature_name=names)
    rounds = max(1, round(trees / classes)) if classes > 2 else trees
    return slim(lightgbm.train(settings, data, rounds).model_to_string().encode())


def _train_graph(split: Split, number: int) -> tuple[str, bytes]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made: tuple[tuple[str, Any], ...] = (
        ("logistic regression", LogisticRegression(max_iter=200)),
        ("network", MLPClassifier((16,), max_iter=60, random_state=number)),
    )
    title, estimator = made[number % 2]
    pipeline = make_pipeline(StandardScaler(), estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Weights that aren't the best are weights, too.
        pipeline.fit(split.train_rows.astype(np.float32), split.train_target)
    return title, converted(pipeline, split)
