"""Many real models for one scorer: few are trained, each copy has leaves of its own, all are published as real models.

Models of 31 leaves on 20,000 generated rows of 30 features, as a plain training makes them. A copy has one leaf of
each tree moved by a few percent, so that its bytes, its digest and its answers are its own and its size is the same.
The first copy of each is tried as every published model is; what admission found of it holds for the other copies,
which spares an hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np

from ops.local_cluster import LocalCluster
from registry.alias_moves import AliasMoves
from registry.ledger import Ledger
from registry.library import Library
from registry.lightgbm_slim import slim
from registry.model import ModelRef, Runtime
from registry.offer import Admit, Admitted, Offer
from registry.probing import probe
from registry.publish import Publisher
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchRequest, ScoreBatchResponse, ScoreRequest

FEATURES = 30
_ROWS = 20_000


class Base:
    """A trained model, to be copied. `trees`: how many it has."""

    def __init__(self, trees: int, seed: int = 0) -> None:
        import lightgbm
        from sklearn.datasets import make_classification

        rows, target = make_classification(_ROWS, FEATURES, n_informative=20, random_state=seed)
        settings = {"objective": "binary", "num_leaves": 31, "num_threads": 2, "verbose": -1, "seed": seed}
        self.trees = trees
        self._booster = lightgbm.train(settings, lightgbm.Dataset(rows, target), trees)
        self._random = np.random.default_rng(seed)

    def copy(self) -> str:
        """The text of another copy."""
        for tree in range(self.trees):
            leaf = int(self._random.integers(0, 15))
            value = self._booster.get_leaf_output(tree, leaf)
            self._booster.set_leaf_output(tree, leaf, value * (1 + 0.03 * self._random.standard_normal()))
        return str(self._booster.model_to_string())


def admit_like_the_first() -> Admit:
    """Tries the first model that it's given, and says the same of all others."""
    first: list[Admitted] = []

    async def admit(offer: Offer) -> Admitted:
        if not first:
            first.append(await probe(offer))
            return first[0]
        return first[0]._replace(artifact=slim(offer.data) if offer.runtime is Runtime.LIGHTGBM else offer.data)

    return admit


async def publish_copies(cluster: LocalCluster, base: Base, refs: Sequence[ModelRef], folder: Path) -> None:
    """Publish a copy under each name."""
    ledger = Ledger(Library(open_store(cluster.store_url)), cluster.etcd, cluster.keys)
    publisher = Publisher(ledger, AliasMoves(ledger), admit_like_the_first())
    path = folder / "copy.txt"
    for ref in refs:
        path.write_text(base.copy())
        await publisher.publish(path, ref)


def score_each(address: str, refs: Sequence[ModelRef], at_once: int = 16) -> Iterator[ScoreBatchResponse]:
    """Ask for one row of each model, some at a time."""
    row = np.zeros(FEATURES)
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/scoremesh.scoring.v1.ScoringService/ScoreBatch",
            request_serializer=ScoreBatchRequest.SerializeToString,
            response_deserializer=ScoreBatchResponse.FromString,
        )
        for start in range(0, len(refs), at_once):
            part = refs[start : start + at_once]
            items = [ScoreRequest(tenant=r.tenant, model=r.model, row_count=1, dense_double=row) for r in part]
            yield call(ScoreBatchRequest(items=items), timeout=60)
