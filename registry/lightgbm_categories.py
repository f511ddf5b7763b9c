"""Which features of a LightGBM text model are categories, and of what values. Pure.

Contract: a feature is a category if the model's parameters list it, or its values in `feature_infos` are a list of
codes; LightGBM writes a range for every other feature, and nothing for one that never varied. The values of the
categories come from the note that LightGBM's Python package leaves of a pandas data frame. That note has no names: it
is one list for each column that pandas calls categorical, in the order of the columns. Where the count of these isn't
the count of categorical features (an ordered column is noted and yet a number), or a code lies outside its list,
nobody can tell which list is whose, and there are no values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from registry.lightgbm_text import pandas_categories, read_sections

_PARAMETER = re.compile(r"\n\[categorical_feature: ([0-9]{1,9}(?:,[0-9]{1,9})*)\]\n")


class Categories(NamedTuple):
    """See the fields of the same name of `registry.model.ModelSchema`."""

    dtypes: dict[str, str]
    categories: dict[str, tuple[str, ...]]


def read_categories(data: bytes) -> Categories:
    """Read them from a text that has passed `check_lightgbm_text`. A value that is no string is written as JSON."""
    header, _, tail = read_sections(data)
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    chosen = _chosen(tail, infos)
    values = pandas_categories(tail) or []
    dtypes = {names[place]: "category" for place in chosen}
    fits = len(values) == len(chosen) and all(map(_fits, values, (infos[place] for place in chosen)))
    if not fits:
        return Categories(dtypes, {})
    return Categories(dtypes, {names[place]: _texts(some) for place, some in zip(chosen, values, strict=True)})


def _chosen(tail: str, infos: Sequence[str]) -> list[int]:
    """The places of the categorical features."""
    listed = _PARAMETER.search(tail)
    places = {place for place, info in enumerate(infos) if info != "none" and not info.startswith("[")}
    if listed:
        places |= {int(place) for place in listed[1].split(",") if int(place) < len(infos)}
    return sorted(places)


def _fits(values: Sequence[object], info: str) -> bool:
    return info == "none" or (not info.startswith("[") and all(int(code) < len(values) for code in info.split(":")))


def _texts(values: Sequence[str | int | float | bool]) -> tuple[str, ...]:
    return tuple(value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in values)
