"""The declarative transforms of a model: what is done to features before the model sees them. Pure.

A spec lists what callers send (`features`: the columns of the dense matrix, `string_columns`) and then columns: each
takes one of these, sends it through a chain of steps, and gives one or more of the model's inputs, in the order of the
spec. docs/transforms.md has each step with an example; `registry.transform_check` says what fits together.

Missing is NaN for a number and the empty text. A number that stays missing reaches the model as NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from registry.errors import ArtifactRejectedError

FORMAT = 1
MOST_SPEC_BYTES = 64 << 20

DatePart = Literal["year", "month", "day", "weekday", "day_of_year", "hour", "minute", "second", "epoch"]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stands for a list that is stored by its content: `table` is the lower-case sha256 of its JSON."""

    table: str


Names = tuple[str, ...] | Table
Numbers = tuple[float, ...] | Table
Categories = tuple[str | float, ...] | Table


class Step(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="op"):
    """One link of a chain."""


class Impute(Step, frozen=True, tag="impute"):
    """A missing value becomes `value`, a text for text columns."""

    value: float | str


class IsMissing(Step, frozen=True, tag="is_missing"):
    """1 for a missing value, else 0."""


class Scale(Step, frozen=True, tag="scale"):
    """((x - subtract) / divide) * multiply + add; what isn't given is left out, not done with 0 or 1."""

    subtract: float | None = None
    divide: float | None = None
    multiply: float | None = None
    add: float | None = None


class Clip(Step, frozen=True, tag="clip"):
    """At least `low`, at most `high`."""

    low: float | None = None
    high: float | None = None


class Log1p(Step, frozen=True, tag="log1p"):
    """log(1 + x); NaN under -1, minus infinity at -1."""


class Bucketize(Step, frozen=True, tag="bucketize"):
    """How many of the rising `edges` are at or below x."""

    edges: Numbers


class Ordinal(Step, frozen=True, tag="ordinal"):
    """The place of x among `categories`. `unknown`: what others become; "error" refuses the request, "missing" is NaN.
    `missing`: what a missing value becomes that is no category; None is NaN, "unknown" makes it one of the others.
    """

    categories: Categories
    unknown: float | Literal["error", "missing"] = "error"
    missing: float | Literal["unknown"] | None = None


class OneHot(Step, frozen=True, tag="one_hot"):
    """One column for each category, 1 in that of x and 0 in the others. `infrequent`: categories that share one more
    column, the last one. `drop`: the place of a category that gets no column. `unknown`: what others get; "zeros" in
    all columns, a 1 in the column of the "infrequent", or an "error".
    """

    categories: Categories
    infrequent: Categories = ()
    drop: int | None = None
    unknown: Literal["zeros", "error", "infrequent"] = "zeros"


class HashBucket(Step, frozen=True, tag="hash_bucket"):
    """CRC-32 (ISO-HDLC, that of zlib) of the UTF-8 of a text, begun with `seed`, modulo `buckets`. A missing text is
    hashed as any other.
    """

    buckets: _Count
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0


class DateParts(Step, frozen=True, tag="date_parts"):
    """Parts of a time, one column each: of an ISO 8601 text, or of seconds since 1970. In UTC, which is also assumed
    where a text names no zone. Monday is weekday 0. A missing time gives missing parts. `invalid`: what else does.
    """

    parts: tuple[DatePart, ...]
    invalid: Literal["error", "missing"] = "error"


class Tokens(Step, frozen=True, tag="tokens"):
    r"""Counts the words of a text, one column for each word of `vocabulary` or each of `buckets` (CRC-32 of the word
    modulo their number). Words are runs of at least two letters, digits or underscores, as Unicode has them
    (`\w\w+`), in lower case unless `lower` is false; `longest_ngram` also counts so many of them in a row, joined
    by a space. `binary`: 1 instead of a count. `sublinear`: 1 + log(count). `idf`: what each column is multiplied by.
    `norm`: of the columns of a row, which is then 1. `hash` "murmur3": the absolute value of MurmurHash3 (x86, 32 bits,
    seed 0) modulo `buckets`; where it is negative a `signed` word counts -1.
    """

    vocabulary: Names = ()
    buckets: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    lower: bool = True
    longest_ngram: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1
    binary: bool = False
    sublinear: bool = False
    idf: Numbers = ()
    norm: Literal["none", "l1", "l2"] = "none"
    hash: Literal["crc32", "murmur3"] = "crc32"
    signed: bool = False


AnyStep = Impute | IsMissing | Scale | Clip | Log1p | Bucketize | Ordinal | OneHot | HashBucket | DateParts | Tokens


class Column(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What becomes of one input. `outputs`: names of what comes out; without them they are made of the input's."""

    input: str
    steps: tuple[AnyStep, ...] = ()
    outputs: tuple[str, ...] = ()


class TransformSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """See the module."""

    features: tuple[str, ...]
    columns: tuple[Column, ...]
    string_columns: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order. Of a spec without `Table`s."""
        return tuple(name for column in self.columns for name in output_names(column))


_DECODER = msgspec.json.Decoder(TransformSpec)


def decode_spec(data: bytes) -> TransformSpec:
    """Read a spec's JSON, without asking whether its parts fit together.

    Raises:
        ArtifactRejectedError: it isn't one; names the place.
    """
    if len(data) > MOST_SPEC_BYTES:
        raise ArtifactRejectedError(f"the transforms have {len(data)} bytes, at most {MOST_SPEC_BYTES} are accepted")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArtifactRejectedError(f"the transforms are not as described: {error}") from error


def encode_spec(spec: TransformSpec) -> bytes:
    """Canonical JSON: equal specs give equal bytes."""
    return msgspec.json.encode(spec, order="deterministic")


def spec_digest(spec: TransformSpec) -> str:
    """Lower-case sha256 of a spec's canonical JSON."""
    return hashlib.sha256(encode_spec(spec)).hexdigest()


def output_names(column: Column) -> tuple[str, ...]:
    """What comes out of a column: as it says, or made of the input's name."""
    if column.outputs:
        return column.outputs
    last = column.steps[-1] if column.steps else None
    if isinstance(last, OneHot):
        kept = [str(each) for place, each in enumerate(listed(last.categories)) if place != last.drop]
        return tuple(f"{column.input}={name}" for name in (*kept, *(["infrequent"] if listed(last.infrequent) else [])))
    if isinstance(last, DateParts) and len(last.parts) > 1:
        return tuple(f"{column.input}.{part}" for part in last.parts)
    if isinstance(last, Tokens):
        names: Sequence[object] = listed(last.vocabulary) if not last.buckets else range(last.buckets)
        return tuple(f"{column.input}:{name}" for name in names)
    return (f"{column.input}?",) if isinstance(last, IsMissing) else (column.input,)


def width(column: Column) -> int:
    """How many of the model's inputs a column gives."""
    last = column.steps[-1] if column.steps else None
    if isinstance(last, OneHot):
        return len(listed(last.categories)) - (last.drop is not None) + bool(listed(last.infrequent))
    if isinstance(last, DateParts):
        return len(last.parts)
    if isinstance(last, Tokens):
        return last.buckets or len(listed(last.vocabulary))
    return 1


def listed(values: tuple[str | float, ...] | tuple[str, ...] | tuple[float, ...] | Table) -> tuple[str | float, ...]:
    """The list itself. Raises TypeError where a `Table` still stands for it."""
    if isinstance(values, Table):
        raise TypeError(f"table {values.table} was not put in")
    return values
