"""Many real models for one scorer: few are trained, and each is published many times with digits of its own.

Models of 31 leaves on 5,000 generated rows of 30 features, as a plain training makes them. A copy has other last digits
in one leaf of each tree, so that its bytes and its digest are its own and its size is the same. The first copy of each
is tried as every published model is; what admission found of it holds for the other copies, which spares an hour.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np

from ops.local_cluster import LocalCluster
from registry.alias_moves import AliasMoves
from registry.ledger import Ledger
from registry.library import Library
from registry.manifest import Manifest
from registry.model import ModelRef
from registry.offer import Admitted, Offer
from registry.probing import probe
from registry.publish import Publisher
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchRequest, ScoreBatchResponse, ScoreRequest

FEATURES = 30
_ROWS = 5_000
_LAST_DIGITS = re.compile(rb"(leaf_value=-?\d\.\d{6,})\d{6}(?=[ e\n])")


class Crowd:
    """Copies of one trained model. `trees`: how many it has."""

    def __init__(self, trees: int, seed: int = 0) -> None:
        import lightgbm
        from sklearn.datasets import make_classification

        rows, target = make_classification(_ROWS, FEATURES, n_informative=20, random_state=seed)
        settings = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbose": -1, "seed": seed}
        self.text = str(lightgbm.train(settings, lightgbm.Dataset(rows, target), trees).model_to_string())
        self._admitted: Admitted | None = None
        self._made = 0

    async def admit(self, offer: Offer) -> Admitted:
        """Tries the model at the first call, and gives another copy of what came of it at each one."""
        if self._admitted is None:
            self._admitted = await probe(offer)
        return self._admitted._replace(artifact=self.copy(self._admitted.artifact))

    def copy(self, artifact: bytes) -> bytes:
        """Another copy of a text."""
        self._made += 1
        return _LAST_DIGITS.sub(rb"\g<1>%06d" % self._made, artifact)


async def publish_copies(cluster: LocalCluster, crowd: Crowd, refs: Sequence[ModelRef], folder: Path) -> list[Manifest]:
    """Publish a copy under each name."""
    ledger = Ledger(Library(open_store(cluster.store_url)), cluster.etcd, cluster.keys)
    publisher = Publisher(ledger, AliasMoves(ledger), crowd.admit)
    path = folder / "copied.txt"
    path.write_text(crowd.text)
    first = await publisher.publish(path, refs[0])
    gate = asyncio.Semaphore(8)

    async def publish(ref: ModelRef) -> Manifest:
        async with gate:
            return await publisher.publish(path, ref)

    return [first, *await asyncio.gather(*(publish(ref) for ref in refs[1:]))]


def request_of(ref: ModelRef) -> ScoreRequest:
    """Asks for one row."""
    return ScoreRequest(tenant=ref.tenant, model=ref.model, row_count=1, dense_double=np.zeros(FEATURES))


def score_each(address: str, refs: Sequence[ModelRef], at_once: int = 16) -> Iterator[ScoreBatchResponse]:
    """Ask for one row of each model, some at a time."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/scoremesh.scoring.v1.ScoringService/ScoreBatch",
            request_serializer=ScoreBatchRequest.SerializeToString,
            response_deserializer=ScoreBatchResponse.FromString,
        )
        for start in range(0, len(refs), at_once):
            yield call(ScoreBatchRequest(items=[request_of(ref) for ref in refs[start : start + at_once]]), timeout=60)
