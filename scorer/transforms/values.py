"""The steps that make one value of one value: each for a single value and for a column of them.

Contract: both forms give the same bits for the same value. Numbers are float64; a column of numbers is an array, one of
texts a sequence of str. What can't be transformed raises `BadValueError`, from either form.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from registry.transforms import (
    AnyStep,
    Bucketize,
    Clip,
    DateParts,
    HashBucket,
    Impute,
    IsMissing,
    Log1p,
    Ordinal,
    Scale,
    listed,
)
from scorer.transforms.shared import Held

_EARLIEST_S, _LATEST_S = -62_135_596_800, 253_402_300_800  # years 1 to 9999, as Python's own calendar


class BadValueError(Exception):
    """A value that a step refuses. `why`: without the value, which may be nobody's business. `column`: whose it is,
    where that is known.
    """

    def __init__(self, why: str, column: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.column = column


class ValueStep(NamedTuple):
    """`one`: float or str to float or str. `many`: the same for a column."""

    one: Callable[[Any], Any]
    many: Callable[[Any], Any]


def value_step(step: AnyStep, held: Held) -> ValueStep:
    """Compile a step that gives one value."""
    return _COMPILERS[type(step)](step, held)


def _impute(step: Impute, _held: Held) -> ValueStep:
    fill = step.value
    if isinstance(fill, str):
        return ValueStep(lambda text: text or fill, lambda texts: [text or fill for text in texts])
    return ValueStep(lambda x: fill if x != x else x, lambda column: np.where(np.isnan(column), fill, column))  # noqa: PLR0124


def _is_missing(_step: IsMissing, _held: Held) -> ValueStep:
    def many(column: np.ndarray | Sequence[str]) -> np.ndarray:
        if isinstance(column, np.ndarray):
            return np.asarray(np.isnan(column), np.float64)
        return np.array([0.0 if text else 1.0 for text in column], np.float64)

    return ValueStep(lambda x: 1.0 if x != x or x == "" else 0.0, many)  # noqa: PLR0124


def _scale(step: Scale, _held: Held) -> ValueStep:
    def run(x: Any) -> Any:
        if step.subtract is not None:
            x = x - step.subtract
        if step.divide is not None:
            x = x / step.divide
        if step.multiply is not None:
            x = x * step.multiply
        return x if step.add is None else x + step.add

    return ValueStep(run, run)


def _clip(step: Clip, _held: Held) -> ValueStep:
    low = -math.inf if step.low is None else step.low
    high = math.inf if step.high is None else step.high

    def many(column: np.ndarray) -> np.ndarray:
        column = np.where(column <= low, low, column)  # 0.0 for -0.0, as numpy.clip
        return np.where(column >= high, high, column)

    return ValueStep(lambda x: low if x <= low else high if x >= high else x, many)  # noqa: FURB136 - NaN stays


def _log1p(_step: Log1p, _held: Held) -> ValueStep:
    def one(x: float) -> float:
        if x > -1.0:
            return float(np.log1p(x))
        return -math.inf if x == -1.0 else math.nan

    return ValueStep(one, np.log1p)


def _bucketize(step: Bucketize, _held: Held) -> ValueStep:
    edges = [float(edge) for edge in listed(step.edges)]
    array = np.array(edges, np.float64)

    def one(x: float) -> float:
        return float(bisect_right(edges, x)) if x == x else x  # noqa: PLR0124

    def many(column: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(column), column, np.searchsorted(array, column, side="right"))

    return ValueStep(one, many)


def _ordinal(step: Ordinal, held: Held) -> ValueStep:
    one = ordinal(step, held)
    return ValueStep(one, _each(one))


def ordinal(step: Ordinal, held: Held) -> Callable[[Any], float]:
    """The step for a single value."""
    find = held.places(listed(step.categories)).get
    refuses = step.unknown == "error"
    unknown = math.nan if isinstance(step.unknown, str) else step.unknown
    is_known = step.missing != "unknown"
    missing = math.nan if step.missing is None or isinstance(step.missing, str) else step.missing

    def one(x: Any) -> float:
        place = find(x)
        if place is not None:
            return float(place)
        if is_known and (x != x or x == ""):  # noqa: PLR0124
            return missing
        if refuses:
            raise BadValueError("the category is unknown")
        return unknown

    return one


def _hash_bucket(step: HashBucket, _held: Held) -> ValueStep:
    buckets, seed, crc32 = step.buckets, step.seed, zlib.crc32

    def one(text: str) -> float:
        return float(crc32(text.encode("utf-8", "surrogatepass"), seed) % buckets)

    return ValueStep(one, _each(one))


def _date_part(step: DateParts, _held: Held) -> ValueStep:
    parts = date_parts(step)
    return ValueStep(lambda x: parts(x)[0], _each(lambda x: parts(x)[0]))


def _each(one: Callable[[Any], float]) -> Callable[[np.ndarray | Sequence[str]], np.ndarray]:
    def many(column: np.ndarray | Sequence[str]) -> np.ndarray:
        values = column.tolist() if isinstance(column, np.ndarray) else column
        return np.array([one(x) for x in values], np.float64)

    return many


_PARTS: dict[str, Callable[[datetime], float]] = {
    "year": lambda at: at.year,
    "month": lambda at: at.month,
    "day": lambda at: at.day,
    "weekday": datetime.weekday,
    "day_of_year": lambda at: at.timetuple().tm_yday,
    "hour": lambda at: at.hour,
    "minute": lambda at: at.minute,
    "second": lambda at: at.second,
    "epoch": datetime.timestamp,
}


def date_parts(step: DateParts) -> Callable[[str | float], tuple[float, ...]]:
    """The parts of a time, in the order of the step."""
    wanted = [_PARTS[part] for part in step.parts]
    missing = (math.nan,) * len(wanted)

    def run(x: str | float) -> tuple[float, ...]:
        if x == "" or x != x:  # noqa: PLR0124
            return missing
        at = _time(x)
        if at is None:
            if step.invalid == "missing":
                return missing
            raise BadValueError("it is no time: wanted ISO 8601, such as 2026-11-24T08:30:00Z, or seconds since 1970")
        return tuple([float(part(at)) for part in wanted])

    return run


def _time(x: str | float) -> datetime | None:
    """None where it is none."""
    if not isinstance(x, str):
        return datetime.fromtimestamp(math.floor(x), UTC) if _EARLIEST_S <= x < _LATEST_S else None
    try:
        at = datetime.fromisoformat(x)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_COMPILERS: dict[type, Callable[[Any, Held], ValueStep]] = {
    Impute: _impute,
    IsMissing: _is_missing,
    Scale: _scale,
    Clip: _clip,
    Log1p: _log1p,
    Bucketize: _bucketize,
    Ordinal: _ordinal,
    HashBucket: _hash_bucket,
    DateParts: _date_part,
}
