"""Between a caller's rows and the wire: `ScoreItem` to ScoreRequest, ScoreResponse to `Scores`. Pure.

Numbers travel as float64, which tree models want: their split thresholds are float64, and a value rounded to float32
may fall on the other side of one. An array that is float32 already travels as float32, since widening it adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from client.scores import Contributions, Output, OutputKind, Residency, Scores, Timing
from scoremesh.scoring.v1 import scoring_pb2 as pb

_LENGTH_DELIMITED = 2
_TIMES = [each.name for each in fields(Timing)]  # called as in the message
_RESIDENCIES: dict[int, Residency] = {place.value: place for place in Residency}


class MalformedResponseError(ValueError):
    """The server's answer contradicts itself or the request."""


@dataclass(frozen=True, eq=False)
class ScoreItem:
    """One request.

    `rows`: numbers, (rows, features), in the model's feature order; one-dimensional means one row. A missing value is
    NaN or None. None where the model takes text alone.
    `string_columns`: text features: column name -> one string a row.
    `version` or `alias`: which version answers; neither means the alias "live".
    `outputs`: names of the outputs wanted; empty means all.
    `entity_key`: who the rows are about, at most 128 bytes; while a new version is tried on a share of the requests,
    the same key always gets the same version.
    `contributions`: also tell what each input adds to each score; see `Scores.contributions`.
    """

    tenant: str
    model: str
    rows: ArrayLike | None
    version: str | None = None
    alias: str | None = None
    string_columns: Mapping[str, Sequence[str]] | None = None
    request_id: str = ""
    outputs: Sequence[str] = ()
    entity_key: str = ""
    contributions: bool = False


def encode_request(item: ScoreItem) -> pb.ScoreRequest:
    """The message for one item.

    Raises:
        ValueError: no rows, columns of different lengths, or both a version and an alias.
        TypeError: rows that aren't numbers, or text columns that aren't strings.
    """
    if item.version is not None and item.alias is not None:
        raise ValueError("ask for a version or for an alias, not for both")
    columns = item.string_columns or {}
    dense = None if item.rows is None else _dense(item.rows)
    request = pb.ScoreRequest(
        tenant=item.tenant,
        model=item.model,
        version=item.version,
        alias=item.alias,
        row_count=_row_count(dense, columns),
        request_id=item.request_id,
        output_names=item.outputs,
        entity_key=item.entity_key,
        contributions=item.contributions,
        string_columns=[_string_column(name, values) for name, values in columns.items()],
    )
    if dense is not None:
        request.MergeFromString(_packed(dense))
    return request


def decode_response(response: pb.ScoreResponse, row_count: int) -> Scores:
    """The answer to a request of `row_count` rows. Raises MalformedResponseError where its sizes don't fit."""
    residency, timing = response.residency, response.timing
    return Scores(
        version=response.model_version,
        outputs={output.name: _output(output, row_count) for output in response.outputs},
        # A newer server may know more places than this client.
        residency=_RESIDENCIES.get(residency, Residency.UNSPECIFIED),
        timing=Timing(*(getattr(timing, name) for name in _TIMES)),
        served_by=response.served_by,
        request_id=response.request_id,
        contributions=tuple(_contributions(each, row_count) for each in response.contributions),
    )


def _contributions(one: pb.Contributions, row_count: int) -> Contributions:
    names = tuple(one.names)
    return Contributions(names, _matrix("contributions", one.values, row_count, len(names)), one.label)


def _dense(rows: ArrayLike) -> NDArray[Any]:
    """A matrix of float32 or float64."""
    array = np.asarray(rows)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"rows must be numbers, not {array.dtype}; text goes into string_columns")
    if array.dtype != np.float32:
        array = array.astype(np.float64)
    if array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim != 2 or len(array) == 0:
        raise ValueError(f"rows must be a matrix with at least one row, not of shape {array.shape}")
    return array


def _row_count(dense: NDArray[Any] | None, columns: Mapping[str, Sequence[str]]) -> int:
    counts = {name: len(values) for name, values in columns.items()}
    if dense is not None:
        counts["rows"] = len(dense)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"rows and text columns must have one common length of at least 1, not {counts}")
    return next(iter(counts.values()))


def _string_column(name: str, values: Sequence[str]) -> pb.StringColumn:
    """A text column; as dictionary and codes where values repeat enough to make that shorter."""
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"text column {name!r} must be a sequence of strings, one a row")
    places: dict[str, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    if 2 * len(places) > len(values):
        return pb.StringColumn(name=name, values=values)
    return pb.StringColumn(name=name, dictionary=places, codes=codes)


def _packed(dense: NDArray[Any]) -> bytes:
    """The wire form of a repeated float or double field: key, length in bytes, little-endian numbers. Merging it into a
    message copies memory once; `extend` makes a Python object of each number and took 50 times as long for 256 rows of
    30. See https://protobuf.dev/programming-guides/encoding/#packed.
    """
    single = dense.dtype == np.float32
    field = pb.ScoreRequest.DENSE_FLOAT_FIELD_NUMBER if single else pb.ScoreRequest.DENSE_DOUBLE_FIELD_NUMBER
    data = dense.astype("<f4" if single else "<f8", copy=False).tobytes()
    return bytes([field << 3 | _LENGTH_DELIMITED]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _output(output: pb.Output, row_count: int) -> Output:
    match output.WhichOneof("value"):
        case "class_probabilities":
            classes = output.class_probabilities
            matrix = _matrix(output.name, classes.probabilities, row_count, len(classes.labels))
            return Output(OutputKind.CLASS_PROBABILITIES, matrix, tuple(classes.labels))
        case "multi_output":
            several = output.multi_output
            matrix = _matrix(output.name, several.values, row_count, len(several.names))
            return Output(OutputKind.MULTI_OUTPUT, matrix, tuple(several.names))
        case "regression":
            return Output(OutputKind.REGRESSION, _vector(output.name, output.regression.values, row_count))
        case "ranking":
            return _ranking(output.name, output.ranking, row_count)
        case _:
            raise MalformedResponseError(f"output {output.name!r} is of a kind that this client doesn't know")


def _ranking(name: str, ranking: pb.Ranking, row_count: int) -> Output:
    order = np.array(ranking.order, dtype=np.int64)
    if not np.array_equal(np.sort(order), np.arange(row_count)):
        raise MalformedResponseError(f"the order of output {name!r} is not a permutation of {row_count} rows")
    return Output(OutputKind.RANKING, _vector(name, ranking.scores, row_count), order=order)


def _vector(name: str, numbers: Any, row_count: int) -> NDArray[np.float64]:
    values = np.array(numbers, dtype=np.float64)
    if values.shape != (row_count,):
        raise MalformedResponseError(f"output {name!r} has {values.size} numbers, wanted {row_count}")
    return values


def _matrix(name: str, numbers: Any, row_count: int, column_count: int) -> NDArray[np.float64]:
    return _vector(name, numbers, row_count * column_count).reshape(row_count, column_count)
