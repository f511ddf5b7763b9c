"""The models of a server that is written in Python, by name. Needs lightgbm alone."""

import json
from pathlib import Path

import lightgbm


def read_index(path: str) -> dict[str, str]:
    """Files of the models, by the models' names."""
    return dict(json.loads(Path(path).read_text()))


def load(path: str) -> lightgbm.Booster:
    """A model, as the library reads it."""
    return lightgbm.Booster(model_file=path)
