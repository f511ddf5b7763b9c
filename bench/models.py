"""What the benchmark asks for: LightGBM models, one request for each, and the answer that each must give."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from registry.model import ModelRef
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest

TREES = 200
LEAVES = 15


class BenchModel(NamedTuple):
    """`path`: the model's text. `request`: a serialized ScoreRequest of one row. `body`: a file with the request behind
    its gRPC length prefix, as it stands in HTTP/2 DATA frames. `expected`: probability of each class.
    """

    ref: ModelRef
    path: Path
    request: bytes
    body: Path
    expected: tuple[float, ...]


def train(directory: Path, count: int) -> list[BenchModel]:
    """Train models that differ in their sample of the rows, so that no two have the same digest."""
    from sklearn.datasets import load_breast_cancer

    rows, benign = load_breast_cancer(return_X_y=True)
    return [_train_one(directory, number, rows, benign) for number in range(count)]


def _train_one(directory: Path, number: int, rows: np.ndarray, benign: np.ndarray) -> BenchModel:
    import lightgbm

    ref = ModelRef("bench", f"tumour-{number:02}")
    parameters = {"objective": "binary", "num_leaves": LEAVES, "num_threads": 1, "deterministic": True, "verbose": -1}
    sampling = {"seed": number, "bagging_fraction": 0.8, "bagging_freq": 1}
    booster = lightgbm.train({**parameters, **sampling}, lightgbm.Dataset(rows, benign), TREES)
    path = directory / f"{ref.model}.txt"
    booster.save_model(path)
    row = rows[number]
    probability = float(booster.predict(row[None], num_threads=1)[0])
    request = ScoreRequest(tenant=ref.tenant, model=ref.model, row_count=1, dense_double=row).SerializeToString()
    body = directory / f"{ref.model}.body"
    body.write_bytes(b"\0" + struct.pack(">I", len(request)) + request)
    return BenchModel(ref, path, request, body, (1.0 - probability, probability))
