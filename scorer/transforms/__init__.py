"""Transforms as scorers run them: a spec is compiled once, when its model is loaded."""

from scorer.transforms.compiled import Transform, compile_transform
from scorer.transforms.shared import SharedTables
from scorer.transforms.transformed import TransformedModel

__all__ = ["SharedTables", "Transform", "TransformedModel", "compile_transform"]
