"""Whether the parts of a transform spec fit together. Pure.

A chain begins with a number (a feature) or a text (a string column). Each step takes one or both and gives a number, a
text or several numbers; what gives several is the last one. Checked when a model is published, so that what scorers
compile can't fail but for the rows that callers send.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from registry.errors import ArtifactRejectedError
from registry.transforms import (
    FORMAT,
    AnyStep,
    Bucketize,
    Clip,
    Column,
    DateParts,
    HashBucket,
    Impute,
    IsMissing,
    Log1p,
    OneHot,
    Ordinal,
    Scale,
    Table,
    Tokens,
    TransformSpec,
    decode_spec,
    listed,
    output_names,
    width,
)

MOST_OUTPUTS = 10_000
MOST_CATEGORIES = 1_000_000
_MOST_STEPS = 16
_MOST_NAME = 1_000
NUMBER, TEXT, SEVERAL = "a number", "a text", "several numbers"


def parse_spec(data: bytes) -> TransformSpec:
    """Read and check a spec. It has no `Table`s: nobody but the registry puts them in.

    Raises:
        ArtifactRejectedError: names the first place at fault.
    """
    spec = decode_spec(data)
    check_spec(spec)
    return spec


def check_spec(spec: TransformSpec) -> None:
    """See `parse_spec`."""
    if spec.format != FORMAT:
        raise ArtifactRejectedError(f"transforms.format is {spec.format}; {FORMAT} is known here")
    kinds = {**dict.fromkeys(spec.features, NUMBER), **dict.fromkeys(spec.string_columns, TEXT)}
    if len(kinds) != len(spec.features) + len(spec.string_columns):
        raise ArtifactRejectedError("transforms: a feature or string column is named twice")
    if not spec.columns:
        raise ArtifactRejectedError("transforms.columns is empty")
    for place, column in enumerate(spec.columns):
        try:
            _check_column(column, kinds)
        except ValueError as error:
            raise ArtifactRejectedError(f"transforms.columns[{place}] ({column.input[:80]!r}): {error}") from error
    _check_sizes(spec)
    _check_names(spec)


def _check_sizes(spec: TransformSpec) -> None:
    wide = sum(width(column) for column in spec.columns)
    if wide > MOST_OUTPUTS:
        raise ArtifactRejectedError(f"transforms: {wide} outputs, at most {MOST_OUTPUTS} are accepted")
    entries = sum(len(values) for column in spec.columns for step in column.steps for values in _lists(step))
    if entries > MOST_CATEGORIES:
        raise ArtifactRejectedError(
            f"transforms: {entries} categories, words and edges, at most {MOST_CATEGORIES} are accepted"
        )


def _check_names(spec: TransformSpec) -> None:
    names = [*spec.features, *spec.string_columns, *spec.outputs]
    if any(not name or len(name) > _MOST_NAME for name in names):
        raise ArtifactRejectedError(f"transforms: a name is empty or longer than {_MOST_NAME} characters")
    outputs = spec.outputs
    if len({*outputs}) < len(outputs):
        twice = next(name for name in outputs if outputs.count(name) > 1)
        raise ArtifactRejectedError(f"transforms: two outputs have the name {twice!r}; give the column `outputs`")


def _check_column(column: Column, kinds: dict[str, str]) -> None:
    kind = kinds.get(column.input)
    if kind is None:
        raise ValueError("there is no such feature or string column")
    if len(column.steps) > _MOST_STEPS:
        raise ValueError(f"{len(column.steps)} steps, at most {_MOST_STEPS} are accepted")
    for place, step in enumerate(column.steps):
        try:
            _check_lists(step)
            kind = _after(kind, step)
        except ValueError as error:
            raise ValueError(f"steps[{place}]: {error}") from error
    if kind == TEXT:
        raise ValueError("the chain ends with a text; the model takes numbers")
    if len(output_names(column)) != width(column):
        raise ValueError(f"{len(column.outputs)} names in outputs, and {width(column)} come out")


def _after(kind: str, step: AnyStep) -> str:
    """What a step gives. Raises ValueError where it doesn't take this kind, or a number of its own is bad."""
    if kind == SEVERAL:
        raise ValueError("the step before it gives several numbers, so it must be the last")
    takes, gives = _CHECKS[type(step)](step, kind)
    if kind not in takes:
        raise ValueError(f"it takes {' or '.join(takes)}, not {kind}")
    return gives


Verdict = tuple[Sequence[str], str]


def _impute(step: Impute, _kind: str) -> Verdict:
    if isinstance(step.value, str):
        return (TEXT,), TEXT
    _finite(step.value)
    return (NUMBER,), NUMBER


def _scale(step: Scale, _kind: str) -> Verdict:
    _finite(step.subtract, step.divide, step.multiply, step.add)
    if step.divide == 0:
        raise ValueError("divide is 0")
    return (NUMBER,), NUMBER


def _clip(step: Clip, _kind: str) -> Verdict:
    _finite(step.low, step.high)
    if step.low is not None and step.high is not None and step.low > step.high:
        raise ValueError("low is above high")
    return (NUMBER,), NUMBER


def _bucketize(step: Bucketize, _kind: str) -> Verdict:
    edges = [float(edge) for edge in listed(step.edges)]
    _finite(*edges)
    if any(one >= other for one, other in pairwise(edges)):
        raise ValueError("the edges don't rise")
    return (NUMBER,), NUMBER


def _ordinal(step: Ordinal, kind: str) -> Verdict:
    _categories(kind, listed(step.categories))
    _finite(*(each for each in (step.missing, step.unknown) if isinstance(each, float)))
    return (NUMBER, TEXT), NUMBER


def _one_hot(step: OneHot, kind: str) -> Verdict:
    categories, infrequent = listed(step.categories), listed(step.infrequent)
    _categories(kind, (*categories, *infrequent))
    if step.drop is not None and not 0 <= step.drop < len(categories):
        raise ValueError(f"drop is {step.drop} and there are {len(categories)} categories")
    if step.unknown == "infrequent" and not infrequent:
        raise ValueError("unknown is infrequent, and there are no infrequent categories")
    if not width(Column("", (step,))):
        raise ValueError("no column is left")
    return (NUMBER, TEXT), SEVERAL


def _date_parts(step: DateParts, _kind: str) -> Verdict:
    if not step.parts or len({*step.parts}) < len(step.parts):
        raise ValueError("parts are missing or named twice")
    return (NUMBER, TEXT), NUMBER if len(step.parts) == 1 else SEVERAL


def _tokens(step: Tokens, _kind: str) -> Verdict:
    words, idf = listed(step.vocabulary), [float(each) for each in listed(step.idf)]
    if bool(words) == bool(step.buckets):
        raise ValueError("give a vocabulary or a number of buckets")
    if len({*words}) < len(words):
        raise ValueError("the vocabulary has a word twice")
    _finite(*idf)
    if idf and len(idf) != (step.buckets or len(words)):
        raise ValueError(f"idf has {len(idf)} numbers for {step.buckets or len(words)} columns")
    if step.binary and step.sublinear:
        raise ValueError("binary and sublinear exclude each other")
    if step.hash != "crc32" and not step.buckets:
        raise ValueError("hash is for buckets, not for a vocabulary")
    if step.signed and (step.hash == "crc32" or step.sublinear):
        raise ValueError("signed needs the hash murmur3, and counts that sublinear may not take the logarithm of")
    return (TEXT,), SEVERAL


_CHECKS: dict[type, Callable[..., Verdict]] = {
    Impute: _impute,
    IsMissing: lambda _step, _kind: ((NUMBER, TEXT), NUMBER),
    Scale: _scale,
    Clip: _clip,
    Log1p: lambda _step, _kind: ((NUMBER,), NUMBER),
    Bucketize: _bucketize,
    Ordinal: _ordinal,
    OneHot: _one_hot,
    HashBucket: lambda _step, _kind: ((TEXT,), NUMBER),
    DateParts: _date_parts,
    Tokens: _tokens,
}


def _categories(kind: str, categories: Sequence[str | float]) -> None:
    wanted = str if kind == TEXT else float
    if not categories:
        raise ValueError("there are no categories")
    if any(not isinstance(each, wanted) for each in categories):
        raise ValueError(f"the categories of {kind} must be {'texts' if kind == TEXT else 'numbers'}")
    if len({*categories}) < len(categories):
        raise ValueError("a category is named twice")
    if kind == NUMBER:
        _finite(*(float(each) for each in categories))


def _finite(*numbers: float | None) -> None:
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise ValueError("a number is not finite")


def _lists(step: AnyStep) -> Iterator[Sequence[object]]:
    for name in ("categories", "infrequent", "edges", "vocabulary", "idf"):
        values = getattr(step, name, ())
        if not isinstance(values, Table):
            yield values


def _check_lists(step: AnyStep) -> None:
    """Raise ValueError where a list is only named."""
    for name in ("categories", "infrequent", "edges", "vocabulary", "idf"):
        if isinstance(getattr(step, name, None), Table):
            raise ValueError(f"{name} is a table's digest; publish the list itself")  # noqa: TRY004 - of the spec, not of our call
