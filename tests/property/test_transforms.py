"""Random specs and random rows: one by one and column by column must be the same, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidFeaturesError
from registry.transform_check import check_spec, parse_spec
from registry.transform_tables import decode_table, join_tables, split_tables
from registry.transforms import (
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
    Tokens,
    TransformSpec,
    encode_spec,
)
from scorer.engine import Rows
from scorer.transforms import SharedTables, compile_transform

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SOME = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, -1.0, 1e300, 5e-324, 0.1])
NUMBERS = st.one_of(SOME, st.floats(width=64), st.sampled_from([math.nan, math.inf, -math.inf, 1.7e9, 1e18]))
WORDS = ["", "red", "Red", "a", "blue sky", "ünïcode", "x_1", "2026-11-24", "2026-11-24T08:30:00+02:00", "0001-01-01"]
TEXTS = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))

numeric_steps = st.one_of(
    FINITE.map(Impute),
    st.just(IsMissing()),
    st.builds(
        Scale,
        subtract=st.none() | FINITE,
        divide=st.none() | FINITE.filter(bool),
        multiply=st.none() | FINITE,
        add=st.none() | FINITE,
    ),
    st.tuples(FINITE, FINITE).map(lambda ends: Clip(min(ends), max(ends))),
    st.just(Clip(low=0.0)),
    st.just(Log1p()),
    st.sets(FINITE, max_size=5).map(lambda edges: Bucketize(tuple(sorted({edge + 0.0 for edge in edges})))),
    st.builds(
        Ordinal,
        categories=st.sets(SOME, min_size=1).map(lambda found: tuple({value + 0.0 for value in found})),
        unknown=st.one_of(st.sampled_from(["error", "missing"]), FINITE),
        missing=st.none() | st.just("unknown") | FINITE,
    ),
    st.just(DateParts(("weekday",), invalid="missing")),
)
numeric_ends = st.one_of(
    st.just(DateParts(("year", "month", "day", "hour", "epoch"), invalid="missing")),
    st.builds(OneHot, categories=st.just((0.0, 1.0, 2.0)), drop=st.none() | st.just(1), unknown=st.just("zeros")),
)
text_ends = st.one_of(
    st.builds(
        OneHot,
        categories=st.just(("red", "a")),
        infrequent=st.sampled_from([(), ("blue sky", "")]),
        drop=st.none() | st.just(1),
        unknown=st.sampled_from(["zeros", "error"]),
    ),
    st.just(OneHot(("red", "a"), ("blue sky",), unknown="infrequent")),
    st.builds(
        Tokens,
        vocabulary=st.just(("red", "blue", "blue sky", "sky", "ünïcode")),
        lower=st.booleans(),
        longest_ngram=st.integers(1, 3),
        sublinear=st.booleans(),
        idf=st.sampled_from([(), (1.0, 1.5, 2.25, 0.1, 3.7)]),
        norm=st.sampled_from(["none", "l1", "l2"]),
    ),
    st.builds(Tokens, buckets=st.integers(1, 5), binary=st.booleans()),
    st.builds(
        Tokens,
        buckets=st.integers(1, 5) | st.just(500),
        hash=st.just("murmur3"),
        signed=st.booleans(),
        norm=st.sampled_from(["none", "l1", "l2"]),
    ),
    st.just(DateParts(("year", "day_of_year", "minute", "second"), invalid="missing")),
)
text_numbers = st.one_of(
    st.builds(HashBucket, buckets=st.integers(1, 50), seed=st.integers(0, 5)),
    st.builds(
        Ordinal,
        categories=st.sampled_from([("red", "a", "blue sky"), ("x_1", "")]),
        unknown=st.sampled_from(["error", "missing", -1.0]),
        missing=st.sampled_from([None, "unknown", 7.0]),
    ),
    st.just(DateParts(("epoch",), invalid="missing")),
    st.just(IsMissing()),
)


@st.composite
def columns(draw: st.DrawFn) -> Column:
    steps: list[AnyStep] = []
    if draw(st.booleans()):
        steps += draw(st.lists(numeric_steps, max_size=3))
        steps += draw(st.lists(numeric_ends, max_size=1))
        return Column(draw(st.sampled_from(["n0", "n1", "n2"])), tuple(steps))
    steps += draw(st.lists(st.just(Impute("red")), max_size=1))
    if draw(st.booleans()):
        return Column(draw(st.sampled_from(["t0", "t1"])), (*steps, draw(text_ends)))
    steps.append(draw(text_numbers))
    steps += draw(st.lists(numeric_steps, max_size=2))
    return Column(draw(st.sampled_from(["t0", "t1"])), tuple(steps))


@st.composite
def specs(draw: st.DrawFn) -> TransformSpec:
    from registry.transforms import width

    chosen = draw(st.lists(columns(), min_size=1, max_size=8))
    named = [
        Column(column.input, column.steps, tuple(f"{place}.{number}" for number in range(width(column))))
        for place, column in enumerate(chosen)
    ]
    return TransformSpec(("n0", "n1", "n2"), tuple(named), ("t0", "t1"))


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    count = draw(st.integers(5, 9))
    dense = draw(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=count, max_size=count))
    texts = st.lists(TEXTS, min_size=count, max_size=count)
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    with np.errstate(over="ignore"):
        return Rows(np.array(dense).astype(dtype), {"t0": draw(texts), "t1": draw(texts)})


def _part(these: Rows, numbers: Sequence[int]) -> Rows:
    strings = {name: [values[number] for number in numbers] for name, values in these.strings.items()}
    return Rows(these.dense[list(numbers)], strings)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(spec=specs(), these=rows())
def test_one_by_one_and_together_are_the_same_bits(spec: TransformSpec, these: Rows) -> None:
    check_spec(spec)
    transform = compile_transform(spec, SharedTables())
    single: list[np.ndarray | str] = []
    for number in range(len(these.dense)):
        try:
            single.append(transform(_part(these, [number])).dense[0])
        except InvalidFeaturesError as error:
            single.append(error.message.replace("row 1:", f"row {number + 1}:"))
    refused = next((found for found in single if isinstance(found, str)), None)
    if refused is not None:
        with pytest.raises(InvalidFeaturesError) as caught:
            transform(these)
        assert caught.value.message == refused
        return
    together = transform(these).dense
    alone = np.array(single)
    assert together.shape == (len(these.dense), len(spec.outputs))
    assert np.array_equal(together, alone, equal_nan=True)
    assert np.array_equal(np.signbit(together), np.signbit(alone) | (np.isnan(alone) & np.signbit(together)))


@settings(max_examples=100, deadline=None)
@given(spec=specs())
def test_a_spec_survives_its_json_and_its_tables(spec: TransformSpec) -> None:
    assert parse_spec(encode_spec(spec)) == spec
    split, tables = split_tables(spec)
    assert join_tables(split, {digest: decode_table(data) for digest, data in tables.items()}) == spec
