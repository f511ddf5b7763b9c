"""scikit-learn's scalers, encoders and the like become steps. Used by `ops.convert_columns`.

Contract: a function gets a fitted transformer and the chains that go into it, and gives those that come out. It raises
ValueError for what a spec can't say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ops.convert_chain import Chain, is_missing, is_nan, pairs
from registry.transforms import AnyStep, Bucketize, Clip, Impute, IsMissing, Log1p, OneHot, Ordinal, Scale


def imputer(step: Any, chains: list[Chain]) -> list[Chain]:
    """SimpleImputer; its indicators come after all that it fills."""
    missing = step.missing_values
    if not is_missing(missing) and missing != "":
        raise ValueError(f"missing_values={missing!r} can't be converted")
    mark = None if missing is None else "" if isinstance(missing, str) else math.nan
    filled = [
        chain.then(Impute(_fill(value)), is_text=isinstance(value, str), missing=mark)
        for chain, value in pairs(chains, step.statistics_)
    ]
    if not step.add_indicator:
        return filled
    told = [(chains[place], filled[place].is_text) for place in step.indicator_.features_]
    return filled + [chain.then(IsMissing(), is_text=is_text, missing=mark) for chain, is_text in told]


def _fill(value: Any) -> float | str:
    if not isinstance(value, str) and (is_missing(value) or not math.isfinite(value)):
        raise ValueError("a column was all missing")
    return str(value) if isinstance(value, str) else float(value)


def standard(step: Any, chains: list[Chain]) -> list[Chain]:
    """StandardScaler."""
    return _scaled(chains, step.mean_ if step.with_mean else None, step.scale_ if step.with_std else None)


def robust(step: Any, chains: list[Chain]) -> list[Chain]:
    """RobustScaler."""
    return _scaled(chains, step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None)


def max_abs(step: Any, chains: list[Chain]) -> list[Chain]:
    """MaxAbsScaler."""
    if getattr(step, "clip", False):
        return [chain.then(Clip(-1.0, 1.0)) for chain in _scaled(chains, None, step.scale_)]
    return _scaled(chains, None, step.scale_)


def _scaled(chains: list[Chain], subtract: Any, divide: Any) -> list[Chain]:
    for each in (subtract, divide):
        if each is not None:
            pairs(chains, each)
    none = [None] * len(chains)
    less, by = (none if each is None else each.tolist() for each in (subtract, divide))
    return [chain.then(Scale(subtract=one, divide=other)) for chain, one, other in zip(chains, less, by, strict=True)]


def min_max(step: Any, chains: list[Chain]) -> list[Chain]:
    """MinMaxScaler."""
    low, high = (float(end) for end in step.feature_range)
    ends = (Clip(low, high),) if step.clip else ()
    both = list(zip(step.scale_.tolist(), step.min_.tolist(), strict=True))
    return [chain.then(Scale(multiply=by, add=more), *ends) for chain, (by, more) in pairs(chains, both)]


def bins(step: Any, chains: list[Chain]) -> list[Chain]:
    """KBinsDiscretizer."""
    if step.dtype not in (None, np.float64):
        raise ValueError("dtype can't be converted: scorers compute in float64")
    converted = []
    for chain, edges in pairs(chains, step.bin_edges_):
        steps: list[AnyStep] = [Bucketize(tuple(edges[1:-1].tolist()))]
        if step.encode != "ordinal":
            steps.append(OneHot(tuple(float(number) for number in range(len(edges) - 1))))
        converted.append(chain.then(*steps))
    return converted


def function(step: Any, chains: list[Chain]) -> list[Chain]:
    """FunctionTransformer."""
    if step.kw_args:
        raise ValueError("kw_args can't be converted")
    if step.func is None:
        return chains
    if step.func is np.log1p:
        return [chain.then(Log1p()) for chain in chains]
    raise ValueError(f"{getattr(step.func, '__name__', step.func)!r} can't be converted; numpy.log1p can")


def ordinal(step: Any, chains: list[Chain]) -> list[Chain]:
    """OrdinalEncoder. NaN that it has seen is encoded apart, None is a category as any other."""
    if getattr(step, "_infrequent_enabled", False):
        raise ValueError("infrequent categories can't be converted")
    unknown: Any = "error"
    if step.handle_unknown != "error":
        unknown = "missing" if is_nan(step.unknown_value) else float(step.unknown_value)
    seen = None if is_nan(step.encoded_missing_value) else float(step.encoded_missing_value)
    converted = []
    for chain, found in pairs(chains, step.categories_):
        rest = [value for value in found.tolist() if not is_nan(value)]
        has_nan = len(rest) < len(found)
        is_text = any(isinstance(value, str) for value in rest)
        categories = _categories(rest, is_text)
        if has_nan and "" in categories:
            raise ValueError("a missing text is a category twice: scorers know the empty one alone")
        _check_filled(chain, categories, has_missing=has_nan)
        mark = math.nan if has_nan else None if None in rest else ""
        made = Ordinal(categories, unknown, seen if has_nan else "unknown")
        converted.append(chain.then(made, is_text=is_text, missing=mark))
    return converted


def one_hot(step: Any, chains: list[Chain]) -> list[Chain]:
    """OneHotEncoder."""
    drops = getattr(step, "drop_idx_", None)
    grouped = step.infrequent_categories_ if step._infrequent_enabled else None  # noqa: SLF001 - told by nothing else
    converted = []
    for place, (chain, values) in enumerate(pairs(chains, step.categories_)):
        found = values.tolist()
        dropped = None if drops is None or drops[place] is None else found[int(drops[place])]
        rare = [] if grouped is None or grouped[place] is None else grouped[place].tolist()
        converted.append(_one_hot(chain, found, rare, dropped, step.handle_unknown))
    return converted


def _one_hot(chain: Chain, found: list[Any], rare: list[Any], dropped: Any, handle_unknown: str) -> Chain:
    is_text = any(isinstance(value, str) for value in found)
    if any(map(is_missing, found)) and not is_text:
        raise ValueError("a missing number is a category; fill it before")
    categories, grouped = _categories(found, is_text), _categories(rare, is_text)
    _check_filled(chain, categories, has_missing=False)
    kept = tuple(each for each in categories if each not in grouped)
    drop = None if dropped is None else kept.index(_categories([dropped], is_text)[0])
    unknown: Any = {"error": "error", "ignore": "zeros"}.get(handle_unknown, "infrequent" if rare else "zeros")
    mark = next((value for value in found if is_missing(value)), "")
    return chain.then(OneHot(kept, grouped, drop, unknown), is_text=is_text, missing=mark)


def _categories(values: Sequence[Any], is_text: bool) -> tuple[str | float, ...]:
    """Categories as a spec has them. Raises TypeError for what is no number and no text."""
    if is_text:
        return tuple("" if is_missing(value) else str(value) for value in values)
    return tuple(float(value) for value in values)


def _check_filled(chain: Chain, categories: Sequence[str | float], *, has_missing: bool) -> None:
    """A text that was filled can't be empty: in scikit-learn it can, where only NaN is filled."""
    if chain.fills_texts and ("" in categories or has_missing):
        raise ValueError("a category is the empty text, which is filled before: scorers take it as missing")
