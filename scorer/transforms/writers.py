"""The ends of chains: what writes the outputs of a column to their places, for one row and for many.

Contract: `row` writes into a list that has zeros at these places, `rows` into such an array. Both give the same bits.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from re import compile as pattern
from typing import Any, NamedTuple

import mmh3
import numpy as np

from registry.transforms import AnyStep, DateParts, OneHot, Tokens, listed
from scorer.transforms.shared import Held, Places
from scorer.transforms.values import BadValueError, date_parts

_WORDS = pattern(r"\w\w+")  # greedy, from left to right: no \b is needed to find whole words
_NOWHERE, REFUSED = -1, -2


class Writer(NamedTuple):
    """`row`: one value into a list. `rows`: a column of values into an array (rows, outputs)."""

    row: Callable[[Any, list[float]], None]
    rows: Callable[[Any, np.ndarray], None]


def writer(step: AnyStep | None, place: int, width: int, held: Held) -> Writer:
    """What writes the last step's outputs from `place` on; None: the value itself."""
    if isinstance(step, OneHot):
        return _one_hot(step, place, width, held)
    if isinstance(step, DateParts):
        return _several(date_parts(step), place, width)
    if isinstance(step, Tokens):
        return _tokens(step, place, held)

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


def one_hot_places(step: OneHot, width: int, held: Held) -> tuple[Places, int]:
    """The place of each category among the columns, negative for none; and that of any other value."""
    other = {"zeros": _NOWHERE, "error": REFUSED, "infrequent": width - 1}[step.unknown]
    return held.places(listed(step.categories), listed(step.infrequent), step.drop), other


def _one_hot(step: OneHot, place: int, width: int, held: Held) -> Writer:
    places, other = one_hot_places(step, width, held)

    def row(x: Any, out: list[float]) -> None:
        at = places.get(x, other)
        if at >= 0:
            out[place + at] = 1.0
        elif at == REFUSED:
            raise BadValueError("the category is unknown")

    def rows(column: np.ndarray | Sequence[str], out: np.ndarray) -> None:
        values = column.tolist() if isinstance(column, np.ndarray) else column
        at = np.array([places.get(x, other) for x in values], np.int64)
        if other == REFUSED and (at == REFUSED).any():
            raise BadValueError("the category is unknown")
        hit = np.flatnonzero(at >= 0)
        out[hit, at[hit] + place] = 1.0

    return Writer(row, rows)


def _tokens(step: Tokens, place: int, held: Held) -> Writer:
    count, weigh = _counter(step, held), _weigher(step, held)

    def row(text: str, out: list[float]) -> None:
        counts = count(text)
        for at, value in zip(counts, weigh(counts), strict=True):
            out[place + at] = value

    def rows(texts: Sequence[str], out: np.ndarray) -> None:
        places: list[int] = []
        values: list[float] = []
        for start, text in zip(range(place, out.size, out.shape[1]), texts, strict=True):
            counts = count(text)
            places += [start + at for at in counts]
            values += weigh(counts)
        out.reshape(-1)[places] = values

    return Writer(row, rows)


def _counter(step: Tokens, held: Held) -> Callable[[str], dict[int, int]]:
    """How often each column's word is in a text, by rising column: sums are taken in this order."""
    lower, longest = step.lower, step.longest_ngram
    counts_of = _hashed(step) if step.buckets else _known(held.places(listed(step.vocabulary)))

    def count(text: str) -> dict[int, int]:
        words = _WORDS.findall(text.lower() if lower else text)
        return counts_of(words if longest == 1 else _ngrams(words, longest))

    return count


def _known(places: Places) -> Callable[[list[str]], dict[int, int]]:
    """Counts by column of the words that have one."""
    find = places.get

    def counts_of(words: list[str]) -> dict[int, int]:
        counts: dict[int, int] = {}
        for at in sorted([at for word in words if (at := find(word)) is not None]):
            counts[at] = counts.get(at, 0) + 1
        return counts

    return counts_of


def _hashed(step: Tokens) -> Callable[[list[str]], dict[int, int]]:
    """Counts by column, which is chosen by hash; a word may count -1."""
    buckets, signed, is_crc = step.buckets, step.signed, step.hash == "crc32"

    def place(word: str) -> tuple[int, int]:
        data = word.encode("utf-8", "surrogatepass")
        if is_crc:
            return zlib.crc32(data) % buckets, 1
        hashed = mmh3.hash(data)
        return abs(hashed) % buckets, -1 if signed and hashed < 0 else 1

    def counts_of(words: list[str]) -> dict[int, int]:
        counts: dict[int, int] = {}
        for at, weight in sorted(map(place, words)):
            counts[at] = counts.get(at, 0) + weight
        return counts

    return counts_of


def _ngrams(words: list[str], longest: int) -> list[str]:
    if longest == 1:
        return words
    return [
        " ".join(words[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(words) - length + 1)
    ]


def _weigher(step: Tokens, held: Held) -> Callable[[dict[int, int]], list[float]]:
    """Values of the counted columns, as scikit-learn's TfidfTransformer computes them."""
    idf = held.numbers([float(each) for each in listed(step.idf)])
    binary, sublinear, norm = step.binary, step.sublinear, step.norm

    def weigh(counts: dict[int, int]) -> list[float]:
        values = [1.0] * len(counts) if binary else [float(count) for count in counts.values()]
        if sublinear:
            values = [float(np.log(value)) + 1.0 for value in values]
        if idf:
            values = [value * idf[at] for value, at in zip(values, counts, strict=True)]
        return values if norm == "none" else _normalised(values, norm)

    return weigh


def _normalised(values: list[float], norm: str) -> list[float]:
    total = 0.0
    for value in values:
        total += abs(value) if norm == "l1" else value * value
    if total == 0.0:
        return values
    if norm == "l2":
        total = math.sqrt(total)
    return [value / total for value in values]
