"""What the servers speak: the same row as our Score, as Open Inference Protocol v2, and as JSON over HTTP/1.1. Pure.

Each protocol says where a call goes, makes the body of one for a model's row, and reads the probability of the positive
class out of an answer. Sources: kserve/open-inference-protocol, inference_grpc; protobuf.dev, "Encoding".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from bench.load import PATH
from bench.models import BenchModel
from ops.load.spec import Target
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, ScoreResponse
from scorer.wire import field, number_field

OIP_PATH = "/inference.GRPCInferenceService/ModelInfer"
TENSOR = "input-0"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Speech(Protocol):
    """One of the protocols. `target`: what `scoremesh load` calls it, None for what it doesn't speak."""

    @property
    def path(self) -> str: ...

    @property
    def target(self) -> Target | None: ...

    def request(self, model: BenchModel) -> bytes: ...

    def positive(self, answer: bytes) -> float: ...


class ScoreSpeech(NamedTuple):
    """Our own."""

    path: str = PATH
    target: Target | None = Target.SCORE

    def request(self, model: BenchModel) -> bytes:
        """A ScoreRequest."""
        return model.request

    def positive(self, answer: bytes) -> float:
        """Of a ScoreResponse."""
        return ScoreResponse.FromString(answer).outputs[0].class_probabilities.probabilities[1]


class OipSpeech(NamedTuple):
    """Open Inference Protocol v2 over gRPC, float64, raw contents."""

    path: str = OIP_PATH
    target: Target | None = Target.OIP

    def request(self, model: BenchModel) -> bytes:
        """A ModelInferRequest."""
        row = row_of(model)
        shape = number_field(3, 1) + number_field(3, len(row))
        tensor = field(1, TENSOR.encode()) + field(2, b"FP64") + shape
        return field(1, model.ref.model.encode()) + field(5, tensor) + field(7, struct.pack(f"<{len(row)}d", *row))

    def positive(self, answer: bytes) -> float:
        """The first float64 of a ModelInferResponse's first output, raw or typed."""
        found = dict(reversed([*wire_fields(answer)]))
        if 6 in found:
            return first_double(found[6])
        return first_double(dict(wire_fields(dict(wire_fields(found[5]))[5]))[7])


class JsonSpeech(NamedTuple):
    """A POST with a JSON object."""

    path: str = "/score"
    target: Target | None = None

    def request(self, model: BenchModel) -> bytes:
        """Model and rows by name."""
        return json.dumps({"model": model.ref.model, "rows": [row_of(model)]}).encode()

    def positive(self, answer: bytes) -> float:
        """The first of the list."""
        return float(json.loads(answer)[0])


SCORE, OIP, JSON = ScoreSpeech(), OipSpeech(), JsonSpeech()


def row_of(model: BenchModel) -> list[float]:
    """The row that a model's request has."""
    return list(ScoreRequest.FromString(model.request).dense_double)


def first_double(data: bytes) -> float:
    """Of packed doubles."""
    return float(struct.unpack_from("<d", data)[0])


def wire_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message, by number; the others are passed over."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _BYTES:
            length, position = _varint(data, position)
            yield key >> 3, data[position : position + length]
            position += length
        elif kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is none of proto3's")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position
