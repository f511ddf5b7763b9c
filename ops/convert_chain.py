"""What a fitted transformer of scikit-learn does to its columns, as chains of steps. Used by `ops.convert_columns`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from registry.transforms import AnyStep, Impute


class Chain(NamedTuple):
    """An input on its way. `missing`: what stands for a missing text in its tables, "" for nothing."""

    name: str
    steps: tuple[AnyStep, ...] = ()
    is_text: bool = False
    missing: Any = ""

    def then(self, *steps: AnyStep, is_text: bool = False, missing: Any = "") -> Chain:
        """More steps. `is_text`, `missing`: what is learnt of the input by them, where the chain begins with them."""
        if self.is_untouched and is_text:
            return Chain(self.name, (*self.steps, *steps), True, missing if self.missing == "" else self.missing)
        return self._replace(steps=(*self.steps, *steps))

    @property
    def is_untouched(self) -> bool:
        """Whether the steps so far leave a text a text."""
        return all(isinstance(step, Impute) for step in self.steps)

    @property
    def fills_texts(self) -> bool:
        """Whether a missing text becomes another."""
        return any(isinstance(step, Impute) and isinstance(step.value, str) for step in self.steps)


Maker = Callable[[Any, list[Chain]], list[Chain]]


def pairs(chains: list[Chain], fitted: Sequence[Any]) -> list[tuple[Chain, Any]]:
    """Each chain with what was fitted for it. Raises ValueError."""
    if len(chains) != len(fitted):
        raise ValueError(f"it has {len(fitted)} columns where {len(chains)} come in")
    return list(zip(chains, fitted, strict=True))


def is_nan(value: Any) -> bool:
    """Whether it is NaN, or what pandas has for it."""
    return (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"


def is_missing(value: Any) -> bool:
    """Whether it stands for a missing value."""
    return value is None or is_nan(value)
