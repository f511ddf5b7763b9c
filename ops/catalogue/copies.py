"""Copies of an admitted model that are other models: other numbers in the same structure. Pure.

Contract: a copy of a LightGBM text has other leaf values (20 % standard deviation) and other thresholds (2 %), a copy
of an ONNX graph other weights (10 %). Nothing else of it differs from its base, and its bytes are in the very form in
which publishing writes a model, so that `registry.lightgbm_slim.slim(copy) == copy`. What the static check of a
LightGBM text looks at besides is that these two lines have so many finite decimals, which is so by construction. Memory
and the shape of each prediction are the base's.

Only bases without categorical features: the thresholds of these are places in a table.
"""

from __future__ import annotations

import re
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np

from registry.lightgbm_text import read_sections, tree_blocks
from registry.model import Runtime

_LEAF_NOISE, _THRESHOLD_NOISE, _WEIGHT_NOISE = 0.2, 0.02, 0.1
_NUMBERS = re.compile(r"^(?P<what>threshold|leaf_value)=(?P<numbers>.*)$", re.MULTILINE)
_SIZES = re.compile(r"tree_sizes=[0-9 ]*")
_WEIGHTS = {"coefficients", "intercepts"}


class Copier(Protocol):
    """Makes copies of one model."""

    def copy(self, random: np.random.Generator) -> bytes:
        """The copy that this generator gives."""


def copier_of(runtime: Runtime, artifact: bytes) -> Copier:
    """Of an artifact as publishing writes it, LightGBM or ONNX."""
    return TextCopier(artifact) if runtime is Runtime.LIGHTGBM else GraphCopier(artifact)


def in_order(runtime: Runtime, artifact: bytes) -> bytes:
    """The same model, an ONNX graph with its metadata and its operator sets in the order of their names: skl2onnx and
    ONNX Runtime write them in another one at each run.
    """
    if runtime is not Runtime.ONNX:
        return artifact
    import onnx

    model = onnx.ModelProto.FromString(artifact)
    model.metadata_props.sort(key=lambda entry: str(entry.key))
    model.opset_import.sort(key=lambda entry: str(entry.domain))
    return bytes(model.SerializeToString())


class TextCopier:
    """Of a slim LightGBM text."""

    def __init__(self, artifact: bytes) -> None:
        header, trees, tail = read_sections(artifact)
        if any(int(count) for count in re.findall(r"^num_cat=(\d+)$", trees, re.MULTILINE)):
            raise ValueError("a model with categorical features can't be copied")
        text = artifact.decode()
        self._before, self._after = _SIZES.split(text[: text.index("\nTree=0\n") + 1])
        self._tail = tail[1:]  # The line break before it is the last tree's.
        self._parts: list[list[str]] = []  # of each tree: text, numbers, text, numbers, ... text
        numbers: list[float] = []
        noise: list[float] = []
        self._counts: list[int] = []  # of numbers, of each line of them
        for block in tree_blocks(header, trees):
            parts, end = [], 0
            for found in _NUMBERS.finditer(block):
                values = [float(word) for word in found["numbers"].split()]
                numbers += values
                noise += [_LEAF_NOISE if found["what"] == "leaf_value" else _THRESHOLD_NOISE] * len(values)
                self._counts.append(len(values))
                parts += [block[end : found.start("numbers")], ""]
                end = found.end("numbers")
            self._parts.append([*parts, block[end:]])
        self._numbers, self._noise = np.array(numbers), np.array(noise)
        self._cuts = [*pairwise(accumulate(self._counts, initial=0))]

    def copy(self, random: np.random.Generator) -> bytes:
        """See `Copier`."""
        changed = self._numbers * (1 + self._noise * random.standard_normal(len(self._numbers)))
        words = [repr(number).removesuffix(".0") for number in changed.tolist()]
        lines = iter([" ".join(words[begin:end]) for begin, end in self._cuts])
        trees = []
        for parts in self._parts:
            parts[1::2] = [next(lines) for _ in parts[1::2]]
            trees.append("".join(parts))
        sizes = " ".join([str(len(tree)) for tree in trees])
        return f"{self._before}tree_sizes={sizes}{self._after}{''.join(trees)}{self._tail}".encode()


class GraphCopier:
    """Of an ONNX graph: its float tensors of more than one number, and the coefficients of linear operators. A lone
    number is a constant of the arithmetic (the 1 in 1 - p), not a weight.
    """

    def __init__(self, artifact: bytes) -> None:
        import onnx

        self._artifact = artifact
        self._parse = onnx.ModelProto.FromString
        self._float = onnx.TensorProto.FLOAT
        self._to_array = onnx.numpy_helper.to_array

    def copy(self, random: np.random.Generator) -> bytes:
        """See `Copier`."""
        model = self._parse(self._artifact)
        for tensor in model.graph.initializer:
            if tensor.data_type == self._float and np.prod(tensor.dims) > 1:
                weights = self._to_array(tensor)
                tensor.ClearField("float_data")
                tensor.raw_data = _changed(weights, random).tobytes()
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name in _WEIGHTS:
                    attribute.floats[:] = _changed(np.array(attribute.floats, np.float32), random).tolist()
        return bytes(model.SerializeToString())


def _changed(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Numbers of one magnitude change alike: the two rows of a binary classifier are each other's mirror image, and
    only so do its probabilities add up to 1.
    """
    sizes, places = np.unique(np.abs(weights), return_inverse=True)
    noise = 1 + _WEIGHT_NOISE * random.standard_normal(len(sizes))
    return np.ascontiguousarray(weights * noise[places].reshape(weights.shape), dtype="<f4")
