"""What the registry and the program that tries models say to each other. Pure.

A request is its head (`HEAD`), the JSON of an `Order`, and the bytes of the model. A reply is its head (`ENDED`) and
what the throw-away process wrote, which nobody may trust: at most two frames, each behind its length. The first one,
`Rewritten`, leaves that process before an engine touches the bytes of a LightGBM or XGBoost model, and when ONNX
Runtime has made its own of an ONNX model; it is a mark, a length, and the bytes as they are. The last one is `Findings`
or `Refused` in MessagePack, and short, as decoding takes time and memory. The program's own first words are `Hello`, in
one frame.

What an honest answer can't be, in numbers, is here too, as both sides keep to it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec

from registry.manifest import GoldenRows
from registry.model import ModelSchema, OutputSchema, Runtime
from registry.transforms import TransformSpec

# Bytes of the order, bytes of the model, seconds of CPU time, seconds.
HEAD = struct.Struct("<QQdd")
# Why it was ended (`ENDINGS`), its exit code or minus its signal, bytes that it wrote.
ENDED = struct.Struct("<iiQ")
FRAME = struct.Struct("<Q")

BY_ITSELF, OUT_OF_TIME, TOO_TALKATIVE = range(3)

MOST_TOLD_BYTES = 2 << 20
MOST_REASON = 2_000  # characters
MOST_GOLDEN_ROWS = 1_000
MOST_FEATURES = 10_000  # and as many text columns
# Names go into logs and onto terminals.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_MOST_NUMBERS = 100_000  # of one golden row, or of one output for all of them
_ADDRESS_SPACE_BYTES = 4 << 30
_MARK = b"\xc1"  # no MessagePack begins with it


class Order(msgspec.Struct, frozen=True):
    """What is to be done with the model."""

    runtime: Runtime
    golden: GoldenRows | None = None
    transforms: TransformSpec | None = None


class Hello(msgspec.Struct, frozen=True):
    """`missing`: the parts of the sandbox that can't be had here, in words."""

    missing: tuple[str, ...]


class Rewritten(msgspec.Struct, frozen=True):
    """The bytes that scorers are to load. `annotated`: the same model with what contributions are computed from, empty
    where it hasn't that; on the wire it is empty as well where the artifact itself has it.
    """

    artifact: bytes
    annotated: bytes = b""


class Findings(msgspec.Struct, frozen=True, tag=True):
    """See `registry.offer.Admitted`. `rewritten`: whether the bytes of `Rewritten` hold, else those that came.
    `explains`: whether contributions can be computed, from its `annotated` bytes or, without these, its artifact.
    """

    schema: ModelSchema
    resident_bytes: int
    predict_us: dict[str, float]
    runtime_version: str
    golden: GoldenRows
    rewritten: bool
    explains: bool = False


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why no scorer may load the model."""

    why: str


# Lengths stand before what they count, so that more than this is refused before any of it is decoded. Numbers are
# decoded row by row, so that another thread may run in between: the interpreter is held by a call of msgspec.
_Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_FEATURES)]
_OfNames = msgspec.Meta(max_length=2 * MOST_FEATURES)
_Numbers = Annotated[tuple[float | None, ...], msgspec.Meta(max_length=_MOST_NUMBERS)]
_NUMBERS: msgspec.msgpack.Decoder[tuple[float | None, ...]] = msgspec.msgpack.Decoder(_Numbers)


class _Schema(msgspec.Struct, frozen=True):
    features: _Names
    outputs: Annotated[tuple[OutputSchema, ...], _OfNames]
    string_columns: _Names = ()
    dtypes: Annotated[dict[str, str], _OfNames] = {}
    categories: Annotated[dict[str, tuple[str, ...]], _OfNames] = {}

    def plain(self) -> ModelSchema:
        return ModelSchema(*msgspec.structs.astuple(self))


class _Golden(msgspec.Struct, frozen=True):
    dense: Annotated[tuple[msgspec.Raw, ...], msgspec.Meta(max_length=MOST_GOLDEN_ROWS)]
    outputs: Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=MOST_FEATURES)]
    strings: dict[str, tuple[str, ...]] = {}
    tolerance: float = 0.0

    def plain(self) -> GoldenRows:
        dense = tuple([_NUMBERS.decode(row) for row in self.dense])
        outputs = {name: _NUMBERS.decode(numbers) for name, numbers in self.outputs.items()}
        return GoldenRows(dense, outputs, self.strings, self.tolerance)


class _Findings(msgspec.Struct, frozen=True, tag="Findings"):
    schema: _Schema
    resident_bytes: int
    predict_us: Annotated[dict[str, float], msgspec.Meta(max_length=2)]
    runtime_version: str
    golden: _Golden
    rewritten: bool
    explains: bool = False

    def plain(self) -> Findings:
        measured = (self.resident_bytes, self.predict_us, self.runtime_version)
        return Findings(self.schema.plain(), *measured, self.golden.plain(), self.rewritten, self.explains)


_DECODER: msgspec.msgpack.Decoder[_Findings | Refused] = msgspec.msgpack.Decoder(_Findings | Refused)


class Answer(NamedTuple):
    """What a throw-away process wrote, as far as it came."""

    rewritten: Rewritten | None
    told: Findings | Refused | None


def frame(message: msgspec.Struct) -> bytes:
    """One message behind its length."""
    if not isinstance(message, Rewritten):
        body = msgspec.msgpack.encode(message)
    else:
        body = _MARK + FRAME.pack(len(message.artifact)) + message.artifact + message.annotated
    return FRAME.pack(len(body)) + body


def read_answer(data: bytes) -> Answer:
    """What a throw-away process wrote. Takes time in proportion to `MOST_TOLD_BYTES` at most, and copies the artifact.

    Raises:
        ValueError: it is something else.
    """
    bodies = _bodies(memoryview(data))
    rewritten = _rewritten(bodies.pop(0)[len(_MARK) :]) if bodies and bodies[0][: len(_MARK)] == _MARK else None
    if len(bodies) > 1 or any(len(body) > MOST_TOLD_BYTES for body in bodies):
        raise ValueError("too much")
    try:
        told = _DECODER.decode(bodies[0]) if bodies else None
        return Answer(rewritten, told.plain() if isinstance(told, _Findings) else told)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError("not what was asked") from error


def _rewritten(body: memoryview) -> Rewritten:
    (length,) = FRAME.unpack_from(body) if len(body) >= FRAME.size else (len(body),)
    if length > len(body) - FRAME.size:
        raise ValueError("cut off")
    return Rewritten(bytes(body[FRAME.size : FRAME.size + length]), bytes(body[FRAME.size + length :]))


def _bodies(data: memoryview) -> list[memoryview]:
    """Those of the frames, at most three."""
    bodies: list[memoryview] = []
    while data and len(bodies) < 3:
        if len(data) < FRAME.size:
            raise ValueError("cut off")
        (length,) = FRAME.unpack_from(data)
        if length > len(data) - FRAME.size:
            raise ValueError("cut off")
        bodies.append(data[FRAME.size : FRAME.size + length])
        data = data[FRAME.size + length :]
    return bodies


def names_of(schema: ModelSchema) -> Iterator[str]:
    """All of its names, in which there may be no control character."""
    yield from schema.features
    yield from schema.string_columns
    for output in schema.outputs:
        yield output.name
        yield from output.columns


def most_answer_bytes(model_bytes: int) -> int:
    """No honest answer to a model of so many bytes is longer."""
    return 3 * FRAME.size + len(_MARK) + most_artifact_bytes(model_bytes) + MOST_TOLD_BYTES


def most_artifact_bytes(model_bytes: int) -> int:
    """No rewritten forms of a model of so many bytes are larger; trees in ONNX Runtime's own grow 2.4 times."""
    return 4 * model_bytes + (1 << 20)


def most_memory_bytes(model_bytes: int) -> int:
    """What some copies of a loaded model may take; one takes 6 times an ONNX file with trees."""
    return min(_ADDRESS_SPACE_BYTES, (512 << 20) + 64 * model_bytes)


def least_resident_bytes(artifact_bytes: int) -> int:
    """No loaded copy counts as less. One takes half of a file in ONNX Runtime's own format, all of other ONNX files,
    1.7 times a LightGBM text, and 1.3 times XGBoost's UBJSON.
    """
    return 1024 + artifact_bytes // 4
