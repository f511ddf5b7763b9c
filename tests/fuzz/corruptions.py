"""The cases of the fuzzing, each made again from its seed, its format and its number.

Of LightGBM texts and XGBoost files 4 in 10 are damaged bytewise and 6 by meaning; of ONNX graphs 3 in 10 bytewise, 4 by
meaning, and 3 are graphs of accepted operators put together at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from registry.model import Runtime
from tests.fuzz.damage_bytes import BYTES
from tests.fuzz.damage_lightgbm import LIGHTGBM
from tests.fuzz.damage_onnx import ONNX
from tests.fuzz.damage_xgboost import XGBOOST, as_either
from tests.fuzz.originals import lightgbm_originals, onnx_originals, xgboost_originals
from tests.fuzz.random_graphs import random_graph

_Damage = Callable[[bytes, Random], bytes]

_DAMAGES: dict[Runtime, list[tuple[int, Sequence[_Damage]]]] = {
    Runtime.LIGHTGBM: [(4, BYTES), (6, LIGHTGBM)],
    Runtime.XGBOOST: [(4, as_either(BYTES)), (6, XGBOOST)],
    Runtime.ONNX: [(3, BYTES), (4, ONNX), (3, [random_graph])],
}


class Case(NamedTuple):
    """A damaged file. `name` says all that makes it again."""

    name: str
    runtime: Runtime
    damage: str
    data: bytes


class Corruptions:
    """Makes cases; trains the models that it damages once."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._originals = {
            Runtime.LIGHTGBM: lightgbm_originals(),
            Runtime.XGBOOST: xgboost_originals(),
            Runtime.ONNX: onnx_originals(),
        }

    def case(self, runtime: Runtime, number: int) -> Case:
        chance = Random(f"{self._seed}/{runtime.value}/{number}")
        weights, families = zip(*_DAMAGES[runtime], strict=True)
        damage = chance.choice(chance.choices(families, weights)[0])
        data = damage(chance.choice(self._originals[runtime]), chance)
        name = f"{runtime.value}-seed{self._seed}-{number}-{damage.__name__}"
        return Case(name, runtime, damage.__name__, data)
