"""The ends of chains: what writes the outputs of a column to their places, for one row and for many.

Contract: `row` writes into a list that has zeros at these places, `rows` into such an array. Both give the same bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from re import compile as pattern
from typing import Any, NamedTuple

import numpy as np

from registry.transforms import AnyStep, DateParts, OneHot, Tokens, listed
from scorer.transforms.shared import SharedTables
from scorer.transforms.values import BadValueError, date_parts

_WORDS = pattern(r"\b\w\w+\b")
_NOWHERE, _REFUSED = -1, -2


class Writer(NamedTuple):
    """`row`: one value into a list. `rows`: a column of values into an array (rows, outputs)."""

    row: Callable[[Any, list[float]], None]
    rows: Callable[[Any, np.ndarray], None]


def writer(step: AnyStep | None, place: int, width: int, shared: SharedTables) -> Writer:
    """What writes the last step's outputs from `place` on; None: the value itself."""
    if isinstance(step, OneHot):
        return _one_hot(step, place, width, shared)
    if isinstance(step, DateParts):
        return _several(date_parts(step), place, width)
    if isinstance(step, Tokens):
        return _tokens(step, place, shared)

    def row(x: float, out: list[float]) -> None:
        out[place] = x

    def rows(column: np.ndarray, out: np.ndarray) -> None:
        out[:, place] = column

    return Writer(row, rows)


def _several(parts: Callable[[Any], tuple[float, ...]], place: int, width: int) -> Writer:
    end = place + width

    def row(x: Any, out: list[float]) -> None:
        out[place:end] = parts(x)

    def rows(column: np.ndarray | Sequence[str], out: np.ndarray) -> None:
        values = column.tolist() if isinstance(column, np.ndarray) else column
        out[:, place:end] = [parts(x) for x in values]

    return Writer(row, rows)


def _one_hot(step: OneHot, place: int, width: int, shared: SharedTables) -> Writer:
    lookup = shared.of(step, lambda: _one_hot_places(step, width))
    other = {"zeros": _NOWHERE, "error": _REFUSED, "infrequent": width - 1}[step.unknown]
    places = lookup.places

    def row(x: Any, out: list[float], lookup: object = lookup) -> None:  # holds the lookup, which nobody else does
        at = places.get(x, other)
        if at >= 0:
            out[place + at] = 1.0  # type: ignore[call-overload]  # they are whole numbers
        elif at == _REFUSED:
            raise BadValueError("the category is unknown")

    def rows(column: np.ndarray | Sequence[str], out: np.ndarray) -> None:
        values = column.tolist() if isinstance(column, np.ndarray) else column
        at = np.array([places.get(x, other) for x in values], np.int64)
        if other == _REFUSED and (at == _REFUSED).any():
            raise BadValueError("the category is unknown")
        hit = np.flatnonzero(at >= 0)
        out[hit, at[hit] + place] = 1.0

    return Writer(row, rows)


def _one_hot_places(step: OneHot, width: int) -> dict[str | float, float]:
    kept = [value for number, value in enumerate(listed(step.categories)) if number != step.drop]
    places: dict[str | float, float] = {value: number for number, value in enumerate(kept)}
    if step.drop is not None:
        places[listed(step.categories)[step.drop]] = _NOWHERE
    return places | dict.fromkeys(listed(step.infrequent), width - 1)


def _tokens(step: Tokens, place: int, shared: SharedTables) -> Writer:
    count = _counter(step, shared)
    weigh = _weigher(step)

    def columns(text: str) -> Iterable[tuple[int, float]]:
        """Places and values, by rising place: sums are taken in this order."""
        counts = sorted(count(text).items())
        return zip([at for at, _ in counts], weigh(counts), strict=True)

    def row(text: str, out: list[float]) -> None:
        for at, value in columns(text):
            out[place + at] = value

    def rows(texts: Sequence[str], out: np.ndarray) -> None:
        for number, text in enumerate(texts):
            for at, value in columns(text):
                out[number, place + at] = value

    return Writer(row, rows)


def _counter(step: Tokens, shared: SharedTables) -> Callable[[str], dict[int, int]]:
    """How often each column's word is in a text."""
    lookup = shared.of(step, lambda: {word: number for number, word in enumerate(listed(step.vocabulary))})
    place_of: Callable[[str], Any] = lookup.places.get
    if step.buckets:
        place_of = lambda word: zlib.crc32(word.encode("utf-8", "surrogatepass")) % step.buckets  # noqa: E731

    def count(text: str, lookup: object = lookup) -> dict[int, int]:  # holds the lookup, as in `_one_hot`
        counts: dict[int, int] = {}
        for word in _ngrams(_WORDS.findall(text.lower() if step.lower else text), step.longest_ngram):
            at = place_of(word)
            if at is not None:
                counts[at] = counts.get(at, 0) + 1
        return counts

    return count


def _ngrams(words: list[str], longest: int) -> list[str]:
    if longest == 1:
        return words
    return [
        " ".join(words[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(words) - length + 1)
    ]


def _weigher(step: Tokens) -> Callable[[list[tuple[int, int]]], list[float]]:
    """Values of the counted columns, as scikit-learn's TfidfTransformer computes them."""
    idf = [float(each) for each in listed(step.idf)]

    def weigh(counts: list[tuple[int, int]]) -> list[float]:
        values = [1.0 if step.binary else float(count) for _, count in counts]
        if step.sublinear:
            values = [float(np.log(value)) + 1.0 for value in values]
        if idf:
            values = [value * idf[at] for value, (at, _) in zip(values, counts, strict=True)]
        return _normalised(values, step.norm)

    return weigh


def _normalised(values: list[float], norm: str) -> list[float]:
    if norm == "none":
        return values
    total = 0.0
    for value in values:
        total += abs(value) if norm == "l1" else value * value
    if total == 0.0:
        return values
    if norm == "l2":
        total = total**0.5
    return [value / total for value in values]
