"""BentoML: one worker, all models in memory. Its services of today speak HTTP; gRPC was for those of version 1.1."""

import os

import bentoml
import numpy as np

from bench.peers.served.files import load, read_index


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 10_000}, logging={"access": {"enabled": False}})
class Scorer:
    """POST /score with model and rows."""

    def __init__(self) -> None:
        self._boosters = {name: load(path) for name, path in read_index(os.environ["BENCH_INDEX"]).items()}

    @bentoml.api
    async def score(self, model: str, rows: list[list[float]]) -> list[float]:
        """The probability of each row."""
        return list(self._boosters[model].predict(np.array(rows)).tolist())
