"""What admission does with the files of each runtime: one entry an engine.

`docs/engines.md` says what a new engine needs besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from registry.lightgbm_slim import slim, with_counts
from registry.lightgbm_text import check_lightgbm_text
from registry.model import Runtime
from registry.onnx_graph import check_onnx
from registry.probe_wire import Rewritten
from registry.xgboost_model import check_xgboost, read_xgboost
from registry.xgboost_rewrite import rewrite
from scorer.onnx_optimise import optimise


class Format(NamedTuple):
    """`packages`: the distributions that bring the engine; the first one that is installed counts. `check`: says what
    is wrong with a file, without its engine, by ArtifactRejectedError. `rewrite`: makes what scorers load of a checked
    file; the second argument is a memfd for scratch, or None. `is_exact`: that answers bit for bit as the file does, so
    that no scorer ever gets the file itself. `takes_missing`: NaN means the same to all versions of the engine.
    `has_large_runs`: a run may take memory out of proportion to its model.
    """

    packages: tuple[str, ...]
    check: Callable[[bytes], None]
    rewrite: Callable[[bytes, int | None], Rewritten]
    is_exact: bool = True
    takes_missing: bool = True
    has_large_runs: bool = False


def _lightgbm(data: bytes, _: int | None) -> Rewritten:
    return Rewritten(slim(data), with_counts(data))


def _xgboost(data: bytes, _: int | None) -> Rewritten:
    forest = read_xgboost(data)
    artifact = rewrite(forest)
    return Rewritten(artifact, artifact if all(tree.has_counts for tree in forest.trees) else b"")


def _onnx(data: bytes, memory: int | None) -> Rewritten:
    return Rewritten(optimise(data, memory))


FORMATS: Mapping[Runtime, Format] = {
    Runtime.LIGHTGBM: Format(("lightgbm",), check_lightgbm_text, _lightgbm),
    Runtime.XGBOOST: Format(("xgboost-cpu", "xgboost"), check_xgboost, _xgboost),
    Runtime.ONNX: Format(("onnxruntime",), check_onnx, _onnx, is_exact=False, takes_missing=False, has_large_runs=True),
}
