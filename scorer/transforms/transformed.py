"""A loaded model behind its transforms: takes rows as callers send them."""

from __future__ import annotations

import numpy as np

from scorer.engine import LoadedModel, Rows, predict_unlocked
from scorer.transforms.compiled import Transform


class TransformedModel:
    """Implements `scorer.engine.LoadedModel`. Owns the model, and holds the transform with what it shares."""

    def __init__(self, model: LoadedModel, transform: Transform) -> None:
        self.model = model
        self.transform = transform
        self.resident_bytes = model.resident_bytes + transform.resident_bytes

    def predict(self, rows: Rows) -> list[np.ndarray]:
        """As `LoadedModel.predict`. Raises InvalidFeaturesError for what can't be transformed, too."""
        return self.model.predict(self.transform(rows))

    def predict_unlocked(self, rows: Rows) -> list[np.ndarray]:
        """As `scorer.engine.KeepsLock` has it; but the transforms keep the lock, between switches of threads."""
        return predict_unlocked(self.model, self.transform(rows))

    def close(self) -> None:
        """Close the model."""
        self.model.close()
