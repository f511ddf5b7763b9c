"""Rows that a model's transforms take, made of rows that they may not. Pure.

Contract: rows made for a schema have numbers and texts of all kinds; a column that refuses what it doesn't know (a
category, a time) gets values of its own instead, the same ones each time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from registry.transforms import Column, DateParts, Impute, OneHot, Ordinal, Tokens, TransformSpec, listed
from scorer.engine import Rows

_TIMES = ("2026-11-24T08:30:00Z", "1999-12-31", "2024-02-29T23:59:59+05:30", "")
_SECONDS = (1_700_000_000.0, 0.0, 951_782_400.5)
_WORDS = ("", "a short text", "the quick brown fox", "42")
_UNKNOWN = "(never seen)"
_MOST = 50


def fit_rows(spec: TransformSpec, rows: Rows) -> Rows:
    """The rows with values that the spec takes; the dense matrix is written to."""
    strings = {name: list(values) for name, values in rows.strings.items()}
    for column in spec.columns:
        values = _values(column, is_text=column.input in spec.string_columns)
        if not values:
            continue
        chosen = [values[number % len(values)] for number in range(len(rows.dense))]
        if column.input in strings:
            strings[column.input] = [str(value) for value in chosen]
        else:
            rows.dense[:, spec.features.index(column.input)] = np.array(chosen, np.float64)
    return Rows(rows.dense, strings)


def _values(column: Column, *, is_text: bool) -> Sequence[str | float]:
    """What a column's first step but filling knows; empty where it takes anything and nothing is more likely."""
    steps = [step for step in column.steps if not isinstance(step, Impute)]
    first = steps[0] if steps else None
    if isinstance(first, OneHot | Ordinal):
        unknown = () if first.unknown == "error" or not is_text else (_UNKNOWN,)
        return (*listed(first.categories)[:_MOST], *unknown)
    if isinstance(first, DateParts):
        return _TIMES if is_text else _SECONDS
    if isinstance(first, Tokens) and first.vocabulary:
        words = [str(word) for word in listed(first.vocabulary)]
        step = max(1, len(words) // 5)
        return (*_WORDS, *(" ".join(words[place::step]) for place in range(min(_MOST, step))))
    return _WORDS if is_text else ()
