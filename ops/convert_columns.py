"""A fitted ColumnTransformer of scikit-learn becomes a transform spec.

Contract: what comes out computes what the ColumnTransformer computes, to the last bit, for rows that it takes; what
can't be said in a spec is refused by its name. A missing text is None or NaN there and the empty text here. Nothing is
asked of the training data; all comes from fitted attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from registry.errors import ArtifactRejectedError
from registry.transform_check import check_spec
from registry.transforms import (
    AnyStep,
    Bucketize,
    Clip,
    Column,
    Impute,
    Log1p,
    OneHot,
    Ordinal,
    Scale,
    Tokens,
    TransformSpec,
    output_names,
)

_PATTERN = r"(?u)\b\w\w+\b"  # scikit-learn's own, and that of `Tokens`


class _Chain(NamedTuple):
    """An input on its way through a pipeline."""

    name: str
    steps: tuple[AnyStep, ...] = ()
    is_text: bool = False

    def then(self, *steps: AnyStep, is_text: bool | None = None) -> _Chain:
        """One more step; `is_text`: what is learnt of the input by it, where the chain begins with it."""
        known = self.is_text if is_text is None or self.steps else is_text
        return self._replace(steps=(*self.steps, *steps), is_text=known or self.is_text)


def to_spec(transformer: Any) -> TransformSpec:
    """The spec of a fitted ColumnTransformer.

    Raises:
        ArtifactRejectedError: a part of it can't be said in a spec; names it.
    """
    inputs = _names(transformer)
    chains: list[_Chain] = []
    for name, fitted, _columns in transformer.transformers_:
        places = transformer._transformer_to_input_indices[name]  # noqa: SLF001 - in every form of naming columns
        started = [_Chain(inputs[place]) for place in places]
        for step in _steps(fitted):
            started = _apply(name, step, started)
        chains += started
    texts = {chain.name for chain in chains if chain.is_text}
    used = {chain.name for chain in chains}
    spec = TransformSpec(
        features=tuple(name for name in inputs if name in used and name not in texts),
        string_columns=tuple(name for name in inputs if name in texts),
        columns=_named([Column(chain.name, chain.steps) for chain in chains]),
    )
    check_spec(spec)
    return spec


def is_convertible(transformer: Any) -> bool:
    """Whether it's a fitted ColumnTransformer, whatever it has in it."""
    return hasattr(transformer, "transformers_") and hasattr(transformer, "_transformer_to_input_indices")


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


def _steps(fitted: Any) -> list[Any]:
    if isinstance(fitted, str):
        return [fitted]
    if hasattr(fitted, "steps"):
        return [inner for _, step in fitted.steps for inner in _steps(step)]
    return [fitted]


def _apply(where: str, step: Any, chains: list[_Chain]) -> list[_Chain]:
    """The chains after one step of scikit-learn's."""
    kind = step if isinstance(step, str) else type(step).__name__
    make = _MAKERS.get(kind)
    if make is None:
        known = ", ".join(sorted(_MAKERS))
        raise ArtifactRejectedError(f"the ColumnTransformer has a {kind} in {where!r}; what can be converted: {known}")
    try:
        return make(step, chains)
    except ValueError as error:
        raise ArtifactRejectedError(f"{kind} in {where!r}: {error}") from error


def _imputer(step: Any, chains: list[_Chain]) -> list[_Chain]:
    if step.add_indicator:
        raise ValueError("add_indicator can't be converted")
    if isinstance(step.missing_values, float | int) and not _is_nan(step.missing_values):
        raise ValueError(f"missing_values={step.missing_values!r} can't be converted")
    return [
        chain.then(_impute(value), is_text=isinstance(value, str)) for chain, value in _each(chains, step.statistics_)
    ]


def _impute(value: Any) -> Impute:
    if not isinstance(value, str) and (value is None or not math.isfinite(value)):
        raise ValueError("a column was all missing")
    return Impute(value if isinstance(value, str) else float(value))


def _standard(step: Any, chains: list[_Chain]) -> list[_Chain]:
    return _scaled(chains, step.mean_ if step.with_mean else None, step.scale_ if step.with_std else None)


def _robust(step: Any, chains: list[_Chain]) -> list[_Chain]:
    return _scaled(chains, step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None)


def _scaled(chains: list[_Chain], subtract: Any, divide: Any) -> list[_Chain]:
    none = [None] * len(chains)
    lists = zip(chains, none if subtract is None else subtract, none if divide is None else divide, strict=True)
    return [chain.then(Scale(subtract=_float(less), divide=_float(by))) for chain, less, by in lists]


def _min_max(step: Any, chains: list[_Chain]) -> list[_Chain]:
    low, high = (float(end) for end in step.feature_range)
    ends = (Clip(low, high),) if step.clip else ()
    both = zip(chains, step.scale_, step.min_, strict=True)
    return [chain.then(Scale(multiply=_float(by), add=_float(more)), *ends) for chain, by, more in both]


def _bins(step: Any, chains: list[_Chain]) -> list[_Chain]:
    converted = []
    for chain, edges in _each(chains, step.bin_edges_):
        steps: list[AnyStep] = [Bucketize(tuple(float(edge) for edge in edges[1:-1]))]
        if step.encode != "ordinal":
            steps.append(OneHot(tuple(float(number) for number in range(len(edges) - 1))))
        converted.append(chain.then(*steps))
    return converted


def _function(step: Any, chains: list[_Chain]) -> list[_Chain]:
    if step.func is None:
        return chains
    if step.func is np.log1p:
        return [chain.then(Log1p()) for chain in chains]
    raise ValueError(f"{getattr(step.func, '__name__', step.func)!r} can't be converted; numpy.log1p can")


def _ordinal(step: Any, chains: list[_Chain]) -> list[_Chain]:
    if getattr(step, "_infrequent_enabled", False):
        raise ValueError("infrequent categories can't be converted")
    unknown: Any = "error"
    if step.handle_unknown != "error":
        unknown = "missing" if _is_nan(step.unknown_value) else float(step.unknown_value)
    missing = None if _is_nan(step.encoded_missing_value) else float(step.encoded_missing_value)
    converted = []
    for chain, found in _each(chains, step.categories_):
        categories, is_text = _categories([value for value in found if not _is_missing(value)])
        converted.append(chain.then(Ordinal(categories, unknown, missing), is_text=is_text))
    return converted


def _one_hot(step: Any, chains: list[_Chain]) -> list[_Chain]:
    drops = getattr(step, "drop_idx_", None)
    infrequent = getattr(step, "infrequent_categories_", None) if step._infrequent_enabled else None  # noqa: SLF001
    if drops is not None and infrequent is not None:
        raise ValueError("drop together with infrequent categories can't be converted")
    converted = []
    for place, (chain, found) in enumerate(_each(chains, step.categories_)):
        rare = () if infrequent is None or infrequent[place] is None else infrequent[place].tolist()
        if any(_is_missing(value) for value in found) and not any(isinstance(value, str) for value in found):
            raise ValueError("a missing number is a category; fill it before")
        kept, is_text = _categories([value for value in found.tolist() if value not in rare])
        grouped, _ = _categories(rare)
        drop = None if drops is None or drops[place] is None else int(drops[place])
        unknown = {"error": "error", "ignore": "zeros"}.get(step.handle_unknown, "infrequent" if rare else "zeros")
        one = OneHot(kept, grouped, drop, unknown)  # type: ignore[arg-type]  # a word of the Literal
        converted.append(chain.then(one, is_text=is_text))
    return converted


def _words(step: Any, chains: list[_Chain]) -> list[_Chain]:
    plain = {"analyzer": "word", "tokenizer": None, "preprocessor": None, "strip_accents": None}
    odd = [name for name, value in plain.items() if getattr(step, name) != value]
    least, longest = step.ngram_range
    if least != 1:
        odd.append("ngram_range that doesn't begin with 1")
    if step.token_pattern != _PATTERN:
        odd.append("token_pattern")
    if step.stop_words is not None and longest > 1:
        odd.append("stop_words with several words in a row")
    if odd:
        raise ValueError(f"{', '.join(odd)} can't be converted")
    words = sorted(step.vocabulary_, key=step.vocabulary_.__getitem__)
    weighs = hasattr(step, "idf_") or hasattr(step, "use_idf")
    tokens = Tokens(
        tuple(words),
        lower=bool(step.lowercase),
        longest_ngram=longest,
        binary=bool(step.binary),
        sublinear=bool(weighs and step.sublinear_tf),
        idf=tuple(float(each) for each in step.idf_) if weighs and step.use_idf else (),
        norm=(step.norm or "none") if weighs else "none",
    )
    return [chain.then(tokens, is_text=True) for chain in chains]


_MAKERS: dict[str, Callable[[Any, list[_Chain]], list[_Chain]]] = {
    "passthrough": lambda _step, chains: chains,
    "drop": lambda _step, _chains: [],
    "SimpleImputer": _imputer,
    "StandardScaler": _standard,
    "RobustScaler": _robust,
    "MaxAbsScaler": lambda step, chains: _scaled(chains, None, step.scale_),
    "MinMaxScaler": _min_max,
    "KBinsDiscretizer": _bins,
    "FunctionTransformer": _function,
    "OrdinalEncoder": _ordinal,
    "OneHotEncoder": _one_hot,
    "CountVectorizer": _words,
    "TfidfVectorizer": _words,
}


def _each(chains: list[_Chain], fitted: Sequence[Any]) -> list[tuple[_Chain, Any]]:
    if len(chains) != len(fitted):
        raise ValueError(f"it has {len(fitted)} columns where {len(chains)} come in")
    return list(zip(chains, fitted, strict=True))


def _categories(values: Sequence[Any]) -> tuple[tuple[str | float, ...], bool]:
    """Categories as a spec has them, and whether they are texts."""
    if any(isinstance(value, str) for value in values):
        return tuple("" if _is_missing(value) else str(value) for value in values), True
    return tuple(float(value) for value in values), False


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_missing(value: Any) -> bool:
    return value is None or _is_nan(value)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
