"""Which values the categories of an XGBoost model have. Pure.

Contract: since 3.1 XGBoost notes the values of a data frame's categorical columns, as texts or as numbers. Where there
is no such note, or it can't be understood (XGBoost 3.2 cuts texts that aren't ASCII), there are no
values: they tell callers what a code means, and no prediction depends on them, as a scorer takes codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np


def read_categories(model: Mapping[str, Any], names: Sequence[str], kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By name of the feature, the values in the order of their codes. `model`: as XGBoost wrote it."""
    stored = model.get("cats")
    listed = stored.get("enc") if isinstance(stored, dict) else None
    if not isinstance(listed, list) or len(listed) != len(names) or len(kinds) != len(names):
        return {}
    found = {name: _values(each) for name, kind, each in zip(names, kinds, listed, strict=True) if kind == "c"}
    return {name: values for name, values in found.items() if values}


def _values(stored: object) -> tuple[str, ...]:
    """Texts, which are kept as bytes with offsets, or numbers; empty where they can't be read."""
    if not isinstance(stored, dict):
        return ()
    values = np.asarray(stored.get("values", []))
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        return ()
    if "offsets" not in stored:
        return _unique(tuple(str(value) for value in values.tolist()))
    offsets = np.asarray(stored["offsets"])
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or values.dtype.kind not in "iu":
        return ()
    bounds = offsets.tolist()
    rising = all(a <= b for a, b in pairwise(bounds))
    is_ascii = ((values >= 0) & (values < 128)).all()
    if not bounds or not rising or bounds[0] or bounds[-1] != len(values) or not is_ascii:
        return ()
    text = values.astype(np.uint8).tobytes().decode("ascii")
    return _unique(tuple(text[start:end] for start, end in pairwise(bounds)))


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    return values if len({*values}) == len(values) else ()
