"""How requests for one version are read and answered, worked out once when it is first used.

Contract: `read` checks a request against the version's schema and gives the rows; `write` gives the serialized
ScoreResponse. Both name the field at fault and never change the request. `read_all` and `writer` do the same for many
requests that are predicted together, where what is the same for all is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from registry.errors import InvalidFeaturesError, MessageTooLargeError
from registry.model import ModelSchema, ModelVersion, OutputKind, OutputSchema
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, StringColumn
from scorer.engine import Rows
from scorer.wire import doubles, field, number_field, varint

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_PREFIXES = 64
_FEW = 48
_NO_STRINGS: Mapping[str, Sequence[str]] = {}
Encoder = Callable[[np.ndarray], bytes]
# The answer to a request whose rows are those from one to before another of a joined prediction.
Writer = Callable[[ScoreRequest, int, int], bytes]


class Spent(NamedTuple):
    """The numbers of a Timing message in the order of its fields, in microseconds."""

    wait_us: int = 0
    fetch_us: int = 0
    load_us: int = 0
    score_us: int = 0
    verify_us: int = 0
    queue_us: int = 0


@lru_cache(maxsize=1024)
def spent_scoring(score_us: int) -> Spent:
    """What a request has spent that waited for nothing; few different ones."""
    return Spent(score_us=score_us)


class Plan:
    """See the module."""

    def __init__(self, version: ModelVersion, schema: ModelSchema, served_by: str) -> None:
        self.version = version
        self._features = len(schema.features)
        self._string_columns = schema.string_columns
        self._head = field(1, version.version.encode()) + field(6, served_by.encode())
        self._encoders = [_encoder(output) for output in schema.outputs]
        self._places = {output.name: place for place, output in enumerate(schema.outputs)}

    def read(self, request: ScoreRequest) -> Rows:
        """The rows of a request. Raises InvalidFeaturesError."""
        rows = request.row_count
        double = request.dense_double
        if double:
            if request.dense_float:
                raise InvalidFeaturesError("dense_float and dense_double are both set; send one of them")
            dense = _array(double, np.float64)
        else:
            dense = _array(request.dense_float, np.float32)
        if not rows or dense.size != rows * self._features:
            self._refuse_shape(rows, dense.size)
        if request.string_columns or self._string_columns:
            return Rows(dense.reshape(rows, self._features), self._strings(request))
        return Rows(dense.reshape(rows, self._features), _NO_STRINGS)

    def read_all(self, requests: Sequence[ScoreRequest]) -> tuple[Rows, list[int]] | None:
        """The rows of all, and how many rows each has, of requests that have a few float64 and nothing else each;
        None where one hasn't, or can't be read: then each has to be read by itself.
        """
        if self._string_columns:
            return None
        numbers: list[float] = []
        counts = []
        for request in requests:
            double, rows = request.dense_double, request.row_count
            if not 0 < len(double) <= _FEW or len(double) != rows * self._features:
                return None
            if request.dense_float or request.string_columns:
                return None
            numbers += double[:]
            counts.append(rows)
        return Rows(np.array(numbers, np.float64).reshape(-1, self._features), _NO_STRINGS), counts

    def _refuse_shape(self, rows: int, values: int) -> None:
        if not rows:
            raise InvalidFeaturesError("row_count is missing; it must be at least 1")
        wanted = f"the model has {self._features} features, so {rows} rows need {rows * self._features} values"
        if values % rows:
            raise InvalidFeaturesError(
                f"the dense matrix has {values} values, which are not {rows} whole rows; {wanted}"
            )
        raise InvalidFeaturesError(f"the dense matrix has {values // rows} features a row; {wanted}, not {values}")

    def _strings(self, request: ScoreRequest) -> Mapping[str, Sequence[str]]:
        got = {column.name: column for column in request.string_columns}
        if len(got) != len(request.string_columns):
            raise InvalidFeaturesError("string_columns has a name twice")
        if got.keys() != set(self._string_columns):
            wanted = ", ".join(self._string_columns) or "none"
            raise InvalidFeaturesError(f"string_columns are {', '.join(sorted(got)) or 'none'}; the model has {wanted}")
        return {name: _values(got[name], request.row_count) for name in self._string_columns}

    def write(self, request: ScoreRequest, outputs: Sequence[np.ndarray], residency: int, spent: Spent) -> bytes:
        """The serialized ScoreResponse. `outputs`: one array an output of the schema, as `LoadedModel.predict`
        gives. Raises MessageTooLargeError.
        """
        parts = [self._head]
        if request.output_names:
            parts += [self._encoders[place](outputs[place]) for place in self._selected(request.output_names)]
        else:
            parts += [encode(output) for encode, output in zip(self._encoders, outputs, strict=True)]
        if request.request_id:
            parts.append(field(5, request.request_id.encode()))
        parts.append(_tail(residency, spent))
        return _bounded(b"".join(parts))

    def writer(self, outputs: Sequence[np.ndarray], residency: int, spent: Spent) -> Writer:
        """Writes what `write` would for each request of a joined prediction. `outputs`: of all its rows."""
        only = self._encoders[0] if len(self._encoders) == 1 else None
        if not isinstance(only, _Prefixed):
            return lambda request, start, end: self.write(request, [o[start:end] for o in outputs], residency, spent)
        raw, tail, leads = doubles(outputs[0]), _tail(residency, spent), dict[int, bytes]()
        width = len(raw) // len(outputs[0])

        def write(request: ScoreRequest, start: int, end: int) -> bytes:
            if request.output_names or request.request_id:
                return self.write(request, [outputs[0][start:end]], residency, spent)
            lead = leads.get(end - start)
            if lead is None:
                lead = leads[end - start] = self._head + only.prefix((end - start) * width)
            return _bounded(lead + raw[start * width : end * width] + tail)

        return write

    def _selected(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self._places]
        if unknown:
            raise InvalidFeaturesError(f"output_names has {unknown[0]!r}; the model has {', '.join(self._places)}")
        wanted = set(names)
        return [place for name, place in self._places.items() if name in wanted]


def _bounded(answer: bytes) -> bytes:
    if len(answer) > MAX_ANSWER_BYTES:
        raise MessageTooLargeError(
            f"the answer has {len(answer)} bytes, over the limit of {MAX_ANSWER_BYTES}; send fewer rows a request"
        )
    return answer


def _array(numbers: Sequence[float], dtype: type[np.float64 | np.float32]) -> np.ndarray:
    """A copy of the numbers. For few of them a list is quicker: asking the container for an array takes 3 us."""
    return np.array(numbers[:], dtype) if len(numbers) <= _FEW else np.asarray(numbers)


def _values(column: StringColumn, rows: int) -> Sequence[str]:
    """The values of a column, one a row."""
    if not column.codes:
        values: Sequence[str] = column.values
    elif column.values:
        raise InvalidFeaturesError(f"string column {column.name!r} has values and codes; send one of them")
    elif max(column.codes) >= len(column.dictionary):
        raise InvalidFeaturesError(f"string column {column.name!r} has a code outside its dictionary")
    else:
        values = [column.dictionary[code] for code in column.codes]
    if len(values) != rows:
        raise InvalidFeaturesError(f"string column {column.name!r} has {len(values)} values for {rows} rows")
    return values


@lru_cache(maxsize=8192)
def _tail(residency: int, spent: Spent) -> bytes:
    """The fields that tell where the time went; for warm models they are few different ones."""
    timing = b"".join(number_field(place, us) for place, us in enumerate(spent, 1))
    return number_field(3, residency) + field(4, timing)


def _encoder(output: OutputSchema) -> Encoder:
    """Encodes one output as the field `outputs` of a ScoreResponse."""
    name = field(1, output.name.encode())
    if output.kind is OutputKind.RANKING:
        return lambda values: field(2, name + field(5, field(1, doubles(values)) + field(2, _order(values))))
    if output.kind is OutputKind.REGRESSION:
        return _Prefixed(lambda values: field(2, name + field(3, field(1, values))))
    number = 2 if output.kind is OutputKind.CLASS_PROBABILITIES else 4
    columns = b"".join(field(1, column.encode()) for column in output.columns)
    return _Prefixed(lambda values: field(2, name + field(number, columns + field(2, values))))


class _Prefixed:
    """An encoder for values that stand at the end of what `encode` makes: all before them depends on their size alone,
    and is remembered by it.
    """

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode
        self._prefixes: dict[int, bytes] = {}

    def __call__(self, values: np.ndarray) -> bytes:
        raw = doubles(values)
        return self.prefix(len(raw)) + raw

    def prefix(self, nbytes: int) -> bytes:
        """What stands before so many bytes of values."""
        prefix = self._prefixes.get(nbytes)
        if prefix is None:
            prefix = self._encode(bytes(nbytes))[:-nbytes]
            if len(self._prefixes) < _PREFIXES:
                self._prefixes[nbytes] = prefix
        return prefix


def _order(scores: np.ndarray) -> bytes:
    """Row numbers, best score first; a stable sort keeps ties in the order of the request."""
    return b"".join(varint(int(row)) for row in np.argsort(-scores, kind="stable"))
