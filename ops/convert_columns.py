"""A fitted ColumnTransformer or Pipeline of scikit-learn's transformers becomes a transform spec.

Contract: what comes out computes what scikit-learn computes, to the last bit, for rows of float64 numbers and texts;
what can't be said in a spec is refused by its name. A missing text is None or NaN there and the empty text here.
Nothing is asked of the training data; all comes from fitted attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ops import convert_steps, convert_words
from ops.convert_chain import Chain, Maker
from registry.errors import ArtifactRejectedError
from registry.transform_check import check_spec
from registry.transforms import Column, TransformSpec, output_names


def to_spec(*transformers: Any) -> TransformSpec:
    """The spec of fitted transformers, one behind another.

    Raises:
        ArtifactRejectedError: a part of them can't be said in a spec; names it.
    """
    inputs, chains = _names(transformers[0]), _through(transformers)
    # Without names a column is its place among all that come in, so that all of them are sent.
    used = {chain.name for chain in chains} if hasattr(transformers[0], "feature_names_in_") else {*inputs}
    return _spec([name for name in inputs if name in used], chains)


def missing_texts(*transformers: Any) -> dict[str, Any]:
    """What stands for a missing text, by column, in the tables that these transformers were fitted on."""
    return {chain.name: chain.missing for chain in _through(transformers) if chain.is_text and chain.missing != ""}


def _through(transformers: Sequence[Any]) -> list[Chain]:
    chains = [Chain(name) for name in _names(transformers[0])]
    for transformer in transformers:
        chains = _apply("the pipeline", transformer, chains)
    return chains


def _spec(inputs: Sequence[str], chains: Sequence[Chain]) -> TransformSpec:
    texts = {chain.name for chain in chains if chain.is_text}
    spec = TransformSpec(
        features=tuple(name for name in inputs if name not in texts),
        string_columns=tuple(name for name in inputs if name in texts),
        columns=_named([Column(chain.name, chain.steps) for chain in chains]),
    )
    check_spec(spec)
    return spec


def _names(transformer: Any) -> list[str]:
    found = getattr(transformer, "feature_names_in_", None)
    return [str(n) for n in found] if found is not None else [f"x{i}" for i in range(transformer.n_features_in_)]


def _named(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Columns whose outputs have names of their own: one input may go several ways."""
    taken: set[str] = set()
    named = []
    for column in columns:
        names = output_names(column)
        number = 1
        while taken & {*names}:
            number += 1
            names = tuple(f"{name}#{number}" for name in output_names(column))
        taken |= {*names}
        named.append(column if names == output_names(column) else Column(column.input, column.steps, names))
    return tuple(named)


def _apply(where: str, step: Any, chains: list[Chain]) -> list[Chain]:
    """The chains after one step of scikit-learn's."""
    kind = step if isinstance(step, str) else type(step).__name__
    make = _MAKERS.get(kind)
    if make is None:
        known = ", ".join(sorted(_MAKERS))
        raise ArtifactRejectedError(f"there is a {kind} in {where!r}; what can be converted: {known}")
    try:
        return make(step, chains)
    except (ValueError, TypeError) as error:  # what isn't a number or a text, such as a date, is no category
        raise ArtifactRejectedError(f"{kind} in {where!r}: {error}") from error


def _pipeline(step: Any, chains: list[Chain]) -> list[Chain]:
    for name, inner in step.steps:
        chains = _apply(name, "passthrough" if inner is None else inner, chains)
    return chains


def _columns(step: Any, chains: list[Chain]) -> list[Chain]:
    """ColumnTransformer."""
    if step.transformer_weights:
        raise ValueError("transformer_weights can't be converted")
    if len(chains) != step.n_features_in_:
        raise ValueError(f"it takes {step.n_features_in_} columns where {len(chains)} come in")
    done = []
    for name, fitted, _ in step.transformers_:
        places = step._transformer_to_input_indices[name]  # noqa: SLF001 - in every form of naming columns
        if len(places):  # what gets no columns isn't fitted
            done += _apply(name, fitted, [chains[place] for place in places])
    return done


def _union(step: Any, chains: list[Chain]) -> list[Chain]:
    if step.transformer_weights:
        raise ValueError("transformer_weights can't be converted")
    return [chain for name, inner in step.transformer_list for chain in _apply(name, inner, chains)]


_MAKERS: dict[str, Maker] = {
    "passthrough": lambda _step, chains: chains,
    "drop": lambda _step, _chains: [],
    "Pipeline": _pipeline,
    "ColumnTransformer": _columns,
    "FeatureUnion": _union,
    "SimpleImputer": convert_steps.imputer,
    "StandardScaler": convert_steps.standard,
    "RobustScaler": convert_steps.robust,
    "MaxAbsScaler": convert_steps.max_abs,
    "MinMaxScaler": convert_steps.min_max,
    "KBinsDiscretizer": convert_steps.bins,
    "FunctionTransformer": convert_steps.function,
    "OrdinalEncoder": convert_steps.ordinal,
    "OneHotEncoder": convert_steps.one_hot,
    "CountVectorizer": convert_words.words,
    "TfidfVectorizer": convert_words.words,
    "TfidfTransformer": convert_words.weighed,
    "HashingVectorizer": convert_words.hashed_words,
}
