"""Joined requests: each gets what is its own, in the order in which they came."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scorer.engine import Rows
from scorer.join import Gathering, join_rows

_doubles = st.floats(width=64)


@st.composite
def _parts(draw: st.DrawFn) -> list[Rows]:
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    parts = []
    for count in counts:
        if draw(st.booleans()):
            dense = draw(arrays(np.float64, (count, 3), elements=_doubles))
        else:
            dense = draw(arrays(np.float32, (count, 3), elements=st.floats(width=32)))
        texts = draw(st.lists(st.text(max_size=3), min_size=count, max_size=count))
        parts.append(Rows(dense, {"city": texts}))
    return parts


@given(_parts())
def test_rows_stand_in_the_order_of_the_requests(parts: list[Rows]) -> None:
    joined, start = join_rows(parts), 0
    for part in parts:
        end = start + len(part.dense)
        np.testing.assert_array_equal(joined.dense[start:end], part.dense.astype(np.float64))
        assert joined.strings["city"][start:end] == part.strings["city"]
        start = end
    assert joined.dense.flags.c_contiguous
    assert len(joined.dense) == len(joined.strings["city"]) == start


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_requests_are_gathered_by_model_in_their_order(packages: list[str]) -> None:
    new: list[str] = []
    gathering: Gathering[tuple[str, int]] = Gathering(new.append)
    for number, package in enumerate(packages):
        gathering.add(package, (package, number))
    groups = list(gathering.take())
    assert [group[0][0] for group in groups] == new == list(dict.fromkeys(packages))
    for group in groups:
        assert [number for _, number in group] == [n for n, p in enumerate(packages) if p == group[0][0]]
    assert not gathering.take()
