"""What a model promises its callers: which schemas may follow a schema. Pure.

Contract: a schema keeps to another one when every request that was right for the first is right for the second, means
the same there, and is answered with at least the same outputs:

- features: the same names in the same order, as the dense matrix has no names but places;
- dtypes: the same, or a plain number where there was an "int"; a caller's integers are numbers too;
- categories: those that were there, with their codes, which are their places; new ones may follow at the end;
- text columns: the same names, in any order, as they travel by name;
- outputs: each has its kind and its columns, in order; others may be added, and their order is free.

So keeping to a contract is reflexive and transitive: what may follow a follower may follow the contract. Places are
counted from 1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from registry.errors import ContractBrokenError
from registry.model import ModelSchema, OutputSchema

_MISSING = "missing"
_NUMBER = "number"
_WIDENED = {("int", _NUMBER)}
_SHOWN = 20


class Difference(NamedTuple):
    """One thing that breaks: the field, what it was under the contract, what it would be."""

    field: str
    was: str
    now: str


def differences(contract: ModelSchema, schema: ModelSchema) -> list[Difference]:
    """What of `schema` breaks `contract`; empty where callers of the one can call the other. One entry for each field:
    a feature that was put in between is one, however many it shifts.
    """
    if contract == schema:
        return []
    return [
        *_features(contract.features, schema.features),
        *_types(contract, schema),
        *_text_columns(contract.string_columns, schema.string_columns),
        *_outputs(contract.outputs, schema.outputs),
    ]


def check(whose: str, contract: ModelSchema, schema: ModelSchema | None) -> None:
    """Raise ContractBrokenError with the first 20 differences where `schema` (None: there is to be none) breaks
    `contract`. `whose`: "model acme/churn", say.
    """
    found = [Difference("contract", "there", _MISSING)] if schema is None else differences(contract, schema)
    if found:
        shown = "; ".join(f"{field}: was {was}, is {now}" for field, was, now in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ContractBrokenError(f"the schema breaks the contract of {whose}: {shown}{more}")


def _features(was: Sequence[str], now: Sequence[str]) -> Iterator[Difference]:
    """The features that aren't in their place, told by those that still follow each other as they did: what went and
    what came between two of these is paired as renamed, one by one.
    """
    if len({*was}) < len(was) or len({*now}) < len(now):
        yield from _by_place(was, now)  # Names that are there twice can't be followed.
        return
    was_at, now_at = _places(was), _places(now)
    last: str | None = None
    was_from = now_from = 0
    for name in (*_in_order(was, now_at), None):
        was_to, now_to = (len(was), len(now)) if name is None else (was_at[name], now_at[name])
        for place in range(was_from, was_to):
            if was[place] in now_at:
                yield _moved(place, was[place], now_at, last, name)
        gone = [name for name in was[was_from:was_to] if name not in now_at]
        come = [name for name in now[now_from:now_to] if name not in was_at]
        for before, after in zip_longest(gone, come):
            yield _feature(now_at[after] if before is None else was_at[before], before, after)
        last, was_from, now_from = name, was_to + 1, now_to + 1


def _moved(place: int, name: str, now_at: dict[str, int], last: str | None, after: str | None) -> Difference:
    """A feature that was between these two, which are in order, and isn't any more."""
    field, to = f"feature {place + 1} ({name})", now_at[name]
    if after is not None and to > now_at[after]:
        return Difference(field, f"feature {place + 1}, before {after}", f"feature {to + 1}, after {after}")
    return Difference(field, f"feature {place + 1}, after {last}", f"feature {to + 1}, before {last}")


def _by_place(was: Sequence[str], now: Sequence[str]) -> Iterator[Difference]:
    for place, (before, after) in enumerate(zip_longest(was, now)):
        if before != after:
            yield _feature(place, before, after)


def _feature(place: int, before: str | None, after: str | None) -> Difference:
    name = after if before is None else before
    return Difference(f"feature {place + 1} ({name})", _shown(before), _shown(after))


def _in_order(was: Sequence[str], now_at: dict[str, int]) -> list[str]:
    """The most names that are in `was` and in the other in the same order: a longest increasing subsequence of their
    places there, by patience sorting (Fredman, "On computing the length of longest increasing subsequences", 1975).
    """
    tops: list[int] = []
    ends: list[str] = []
    before: dict[str, str | None] = {}
    for name in (name for name in was if name in now_at):
        pile = bisect_left(tops, now_at[name])
        tops[pile : pile + 1] = [now_at[name]]
        ends[pile : pile + 1] = [name]
        before[name] = ends[pile - 1] if pile else None
    kept: list[str] = []
    last = ends[-1] if ends else None
    while last is not None:
        kept.append(last)
        last = before[last]
    return kept[::-1]


def _types(contract: ModelSchema, schema: ModelSchema) -> Iterator[Difference]:
    """Of the columns that both have: the others are told of already."""
    still = {*schema.features, *schema.string_columns}
    named = [(f"feature {place + 1} ({name})", name) for name, place in _places(contract.features).items()]
    named += [(f"text column {name}", name) for name in contract.string_columns if name not in contract.features]
    for field, name in named:
        if name not in still:
            continue
        was, now = contract.dtypes.get(name, _NUMBER), schema.dtypes.get(name, _NUMBER)
        if was != now and (was, now) not in _WIDENED:
            yield Difference(f"dtype of {field}", was, now)
            continue
        old, new = contract.categories.get(name, ()), schema.categories.get(name, ())
        place = _first_difference(old, new[: len(old)])
        if place is not None:
            yield Difference(f"category {place + 1} of {field}", _at(old, place), _at(new, place))


def _text_columns(was: Sequence[str], now: Sequence[str]) -> Iterator[Difference]:
    for name in sorted({*was} - {*now}):
        yield Difference(f"text column {name}", name, _MISSING)
    for name in sorted({*now} - {*was}):
        yield Difference(f"text column {name}", _MISSING, name)


def _outputs(was: Sequence[OutputSchema], now: Sequence[OutputSchema]) -> Iterator[Difference]:
    there = {output.name: output for output in now}
    for output in was:
        other = there.get(output.name)
        if other is None:
            yield Difference(f"output {output.name}", output.kind.value, _MISSING)
        elif other.kind is not output.kind:
            yield Difference(f"kind of output {output.name}", output.kind.value, other.kind.value)
        else:
            place = _first_difference(output.columns, other.columns)
            if place is not None:
                field = f"column {place + 1} of output {output.name}"
                yield Difference(field, _at(output.columns, place), _at(other.columns, place))


def _first_difference(was: Sequence[str], now: Sequence[str]) -> int | None:
    return next((place for place, (a, b) in enumerate(zip_longest(was, now)) if a != b), None)


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _at(names: Sequence[str], place: int) -> str:
    return _shown(names[place] if place < len(names) else None)


def _shown(name: str | None) -> str:
    return _MISSING if name is None else name
