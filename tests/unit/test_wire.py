"""The encoding by hand is the one of the generated classes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scoremesh.scoring.v1.scoring_pb2 import Ranking, Regression, ScoreResponse, ScoreResult, StringColumn, Timing
from scorer.contributions import Contributions, encode
from scorer.wire import doubles, field, number_field, varint

_U32 = st.integers(0, 2**32 - 1)


@given(_U32, _U32, _U32, _U32)
def test_number_fields(wait_us: int, fetch_us: int, load_us: int, score_us: int) -> None:
    wanted = Timing(wait_us=wait_us, fetch_us=fetch_us, load_us=load_us, score_us=score_us)
    encoded = b"".join(number_field(place, us) for place, us in enumerate((wait_us, fetch_us, load_us, score_us), 1))
    assert encoded == wanted.SerializeToString()


@given(st.integers(0, 2**63 - 1))
def test_a_varint_is_read_back(number: int) -> None:
    read, shift = 0, 0
    for byte in varint(number):
        read |= (byte & 0x7F) << shift
        shift += 7
    assert read == number
    assert all(byte & 0x80 for byte in varint(number)[:-1])
    assert not varint(number)[-1] & 0x80


@given(st.text(max_size=300), st.lists(st.text(max_size=40), max_size=20))
def test_length_delimited_fields(name: str, values: list[str]) -> None:
    encoded = (field(1, name.encode()) if name else b"") + b"".join(field(2, value.encode()) for value in values)
    assert encoded == StringColumn(name=name, values=values).SerializeToString()


@given(st.lists(st.floats(), min_size=1, max_size=300))
def test_packed_doubles_keep_every_bit(values: list[float]) -> None:
    array = np.array(values)
    assert field(1, doubles(array)) == Regression(values=values).SerializeToString()
    assert np.array(Regression.FromString(field(1, doubles(array))).values).tobytes() == array.tobytes()


@given(st.lists(_U32, min_size=1, max_size=300))
def test_packed_varints(rows: list[int]) -> None:
    assert field(2, b"".join(varint(row) for row in rows)) == Ranking(order=rows).SerializeToString()


@given(_U32, st.integers(0, 16), st.text(min_size=1), _U32)
def test_a_result(index: int, code: int, message: str, retry_after_ms: int) -> None:
    wanted = ScoreResult(index=index, code=code, message=message, retry_after_ms=retry_after_ms)
    encoded = (
        number_field(1, index) + number_field(2, code) + field(3, message.encode()) + number_field(5, retry_after_ms)
    )
    assert encoded == wanted.SerializeToString()


def test_contributions_are_encoded_as_protobuf_would() -> None:
    values = np.array([[0.5, -1.25], [np.inf, 3.0]])
    found = [Contributions(("age", "bias"), values, label) for label in ("", "ja")]
    want = ScoreResponse()
    for one in found:
        want.contributions.add(names=one.names, values=values.ravel().tolist(), label=one.label)
    assert ScoreResponse.FromString(encode(found)) == want
