"""Reads the parts of an ONNX file that decide whether it may be loaded. Pure; needs neither onnx nor its runtime.

Contract: `read_model` walks the protobuf encoding of a ModelProto once and keeps operators, attributes and names; the
numbers of weights are skipped. Unknown fields are skipped as protobuf demands, so what is read is what ONNX Runtime
reads. Field numbers are those of onnx.proto3; the encoding is protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec

from registry.errors import ArtifactRejectedError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_WIDTH = {_FIXED64: 8, _FIXED32: 4}


class Attribute(msgspec.Struct):
    """A named setting of an operator. Lists are empty where the attribute is of another type. `has_graph`: it holds
    operators of its own, or a sparse tensor.
    """

    name: str = ""
    integer: int = 0
    integers: list[int] = msgspec.field(default_factory=list)
    strings: list[str] = msgspec.field(default_factory=list)
    has_graph: bool = False
    has_external_data: bool = False


class Node(msgspec.Struct):
    """One operator of the graph; `inputs` and `outputs` are names of tensors, "" where an optional one is left out."""

    operator: str = ""
    domain: str = ""
    inputs: list[str] = msgspec.field(default_factory=list)
    outputs: list[str] = msgspec.field(default_factory=list)
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)


class OnnxModel(msgspec.Struct):
    """What admission must know of a file. `weights`: the names of the tensors that it holds (initializers)."""

    nodes: list[Node] = msgspec.field(default_factory=list)
    weights: set[str] = msgspec.field(default_factory=set)
    has_graph: bool = False
    has_functions: bool = False
    has_sparse_weights: bool = False
    has_external_data: bool = False


class _Field(NamedTuple):
    """`data`: of a length-delimited field; None where the field is a varint."""

    number: int
    varint: int
    data: memoryview | None


_SKIPPED = _Field(0, 0, None)
_SMALL_INTEGERS = re.compile(rb"(?:\x40[\x00-\x7f])+")  # field 8, a varint of one byte
_MIDDLE_INTEGERS = re.compile(rb"(?:\x40[\x80-\xff][\x00-\x7f])+")  # of two bytes
_REALS = re.compile(rb"(?:\x3d.{4})+", re.DOTALL)  # field 7, 32 bits


@lru_cache(maxsize=1)  # of one file several things are asked
def read_model(data: bytes) -> OnnxModel:
    """Read a serialized ModelProto. Nobody may change the result.

    Raises:
        ArtifactRejectedError: it is not one, or it is cut off.
    """
    model = OnnxModel()
    for number, part in _parts(memoryview(data)):
        if number == 7:
            model.has_graph = True
            _read_graph(part, model)
        elif number == 25:
            model.has_functions = True
    if not model.has_graph:
        raise ArtifactRejectedError("not an ONNX model: it has no graph")
    return model


def _read_graph(data: memoryview, model: OnnxModel) -> None:
    for number, part in _parts(data):
        if number == 1:
            node = _read_node(part)
            model.nodes.append(node)
            model.has_external_data |= any(a.has_external_data for a in node.attributes.values())
        elif number == 5:
            model.has_external_data |= _is_external(part)
            model.weights |= {_text(name) for field, name in _parts(part) if field == 8}
        elif number == 15:
            model.has_sparse_weights = True


def _read_node(data: memoryview) -> Node:
    node = Node()
    for number, part in _parts(data):
        if number == 1:
            node.inputs.append(_text(part))
        elif number == 2:
            node.outputs.append(_text(part))
        elif number == 4:
            node.operator = _text(part)
        elif number == 5:
            attribute = _read_attribute(part)
            if attribute.name in node.attributes:
                raise ArtifactRejectedError(f"ONNX model is damaged: attribute {attribute.name[:40]!r} is there twice")
            node.attributes[attribute.name] = attribute
        elif number == 7:
            node.domain = _text(part)
    return node


def _read_attribute(data: memoryview) -> Attribute:
    attribute = Attribute()
    position = 0
    while position < len(data):
        # Trees have thousands of numbers, a field each; those of the same length are taken at once.
        if run := _SMALL_INTEGERS.match(data, position):
            attribute.integers.extend(data[position + 1 : run.end() : 2])
            position = run.end()
        elif run := _MIDDLE_INTEGERS.match(data, position):
            low, high = (data[position + at : run.end() : 3] for at in (1, 2))
            attribute.integers.extend((one & 0x7F) | two << 7 for one, two in zip(low, high, strict=True))
            position = run.end()
        elif run := _REALS.match(data, position):
            position = run.end()
        else:
            field, position = _field(data, position)
            _add_to(attribute, field)
    return attribute


def _add_to(attribute: Attribute, field: _Field) -> None:
    number, value, part = field
    if number == 8:
        attribute.integers.extend([_signed(value)] if part is None else _packed(part))
    elif number == 3 and part is None:
        attribute.integer = _signed(value)
    # A graph, graphs, a sparse tensor, sparse tensors. The last two have no use here, so they count as one.
    elif number in {6, 11, 22, 23}:
        attribute.has_graph = True
    elif part is not None and number == 1:
        attribute.name = _text(part)
    elif part is not None and number == 9:
        attribute.strings.append(_text(part))
    elif part is not None and number in {5, 10}:  # a tensor, tensors
        attribute.has_external_data |= _is_external(part)


def _is_external(tensor: memoryview) -> bool:
    """Whether a TensorProto points to another file: `external_data` is 13, `data_location` 14, 0 inside the model."""
    return any(number == 13 or (number == 14 and value) for number, value, _ in _fields(tensor))


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", errors="replace")


def _packed(data: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _parts(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields. A known number with another wire type is an unknown field, for protobuf as here."""
    return ((number, part) for number, _, part in _fields(data) if part is not None)


def _fields(data: memoryview) -> Iterator[_Field]:
    position = 0
    while position < len(data):
        field, position = _field(data, position)
        yield field


def _field(data: memoryview, position: int) -> tuple[_Field, int]:
    """(the field that begins at `position`, position behind it). One of fixed width has number 0 and no value."""
    tag, position = _varint(data, position)
    number, wire_type = tag >> 3, tag & 7
    if wire_type == _VARINT:
        value, position = _varint(data, position)
        return _Field(number, value, None), position
    length, position = _length(data, position, wire_type)
    end = position + length
    if end > len(data):
        raise ArtifactRejectedError("ONNX model is damaged: it ends too early")
    return (_Field(number, 0, data[position:end]) if wire_type == _BYTES else _SKIPPED), end


def _length(data: memoryview, position: int, wire_type: int) -> tuple[int, int]:
    """(bytes of the field's value, position where it begins)."""
    if wire_type == _BYTES:
        return _varint(data, position)
    if wire_type not in _FIXED_WIDTH:
        raise ArtifactRejectedError("not an ONNX model: it is not a protobuf message")
    return _FIXED_WIDTH[wire_type], position


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ArtifactRejectedError("ONNX model is damaged: it ends too early")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), position
    raise ArtifactRejectedError("ONNX model is damaged: a number is too long")
