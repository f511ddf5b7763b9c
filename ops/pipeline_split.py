"""Which pipelines of scikit-learn are published as a transform spec and a model behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

_WORDS = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


class Split(NamedTuple):
    """A pipeline in two. `before`: its transformers, one behind another. `last`: the model."""

    before: tuple[Any, ...]
    last: Any

    @property
    def needs_spec(self) -> bool:
        """Whether nothing else will do: a LightGBM model stays one, and words become no graph that scorers accept."""
        if type(self.last).__module__.startswith("lightgbm."):
            return True
        return any(type(each).__name__ in _WORDS for step in self.before for each in _all(step))

    @property
    def has_columns(self) -> bool:
        """Whether it treats columns one by one, so that a spec is worth its while; else one graph is."""
        return any(hasattr(each, "transformers_") for step in self.before for each in _all(step))


def split_pipeline(estimator: Any) -> Split | None:
    """None for what is no pipeline of transformers and a model."""
    steps = [step for _, step in getattr(estimator, "steps", ()) if step not in (None, "passthrough")]
    *before, last = steps or (None,)
    return Split(tuple(before), last) if before else None


def _all(step: Any) -> Iterator[Any]:
    """A transformer and those in it."""
    yield step
    for name in ("steps", "transformer_list", "transformers_"):
        for _, inner, *_ in getattr(step, name, ()):
            yield from _all(inner)
