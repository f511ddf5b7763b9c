"""One request's way through the versions that may answer it: the canary first where it is the canary's, then the
version that the alias means. Pure.

Contract: a canary fails no caller: whatever goes wrong with it, the alias's version is tried next. What a canary failed
counts against it as soon as the alias's version has answered it; what both fail is the caller's fault (features that
neither takes) and counts for nobody, as does what another try may do better (no room, no time, no store). A request
that a canary failed counts for the canary alone; one that it wasn't asked, as it was still being loaded, for neither.
"""

from __future__ import annotations

import numpy as np

from registry.errors import InvalidRequestError, Kind, ScoreMeshError
from registry.model import ModelVersion
from scorer.rollout_tally import RolloutTally
from scorer.split import position, turn_position

_SCORES_A_REQUEST = 64
_PASSING = frozenset({Kind.UNAVAILABLE, Kind.EXHAUSTED, Kind.DEADLINE, Kind.CANCELLED})


class Trial:
    """See the module. `version`: the one to be tried now; after the answer, the one that gave it. `outputs`: what it
    answered, put there by whoever scores. `tally`: None where nothing runs beside the alias.
    """

    __slots__ = ("_chosen", "_doubted", "_stable", "outputs", "tally", "version")

    def __init__(self, stable: ModelVersion, tally: RolloutTally | None = None, entity_key: str = "") -> None:
        self._stable = stable
        self._doubted = False
        self.tally = tally
        self.outputs: list[np.ndarray] = []
        self.version = self._chosen = stable if tally is None else _choose(stable, tally, entity_key)

    @property
    def is_canary(self) -> bool:
        """Whether the version to be tried now is the canary."""
        return self.version is not self._stable

    @property
    def is_stable(self) -> bool:
        """Whether the request is the alias's version's from the beginning."""
        return self._chosen is self._stable

    def answered(self) -> None:
        """The version has answered with `outputs`."""
        if self.tally is None:
            return
        if self.is_canary:
            self.tally.canary.scored(_scores(self.outputs))
        elif self.is_stable:
            self.tally.stable.scored(_scores(self.outputs))
        elif self._doubted:
            self.tally.canary.failed()

    def failed(self, error: Exception) -> bool:
        """The version has failed. True when another one, which is now `version`, is to be tried."""
        if self.tally is None:
            return False
        if self.is_canary:
            self.step_aside(broken=is_lasting(error))
            return True
        if self.is_stable and is_lasting(error) and not isinstance(error, InvalidRequestError):
            self.tally.stable.failed()
        return False

    def step_aside(self, *, broken: bool) -> None:
        """Let the alias's version answer for the canary. `broken`: the canary could not have."""
        self._doubted = broken
        self.version = self._stable


def is_lasting(error: Exception) -> bool:
    """Whether another try would fare no better."""
    if isinstance(error, ScoreMeshError):
        return error.kind not in _PASSING
    return not isinstance(error, TimeoutError)


def _choose(stable: ModelVersion, tally: RolloutTally, entity_key: str) -> ModelVersion:
    rollout = stable.rollout
    if rollout is None or rollout.canary is None:
        return stable
    if entity_key:
        place = position(rollout.id, entity_key)
    else:
        tally.turns += 1
        place = turn_position(tally.turns)
    return rollout.canary if place < rollout.percent else stable


def _scores(outputs: list[np.ndarray]) -> list[float]:
    """The scores of the rows; of many rows some, evenly spread."""
    column = score_column(outputs)
    scores: list[float] = column[:: -(-len(column) // _SCORES_A_REQUEST)].tolist()
    return scores


def score_column(outputs: list[np.ndarray]) -> np.ndarray:
    """The score of each row: the last number of the first output. For a binary classifier it's the probability of the
    second class, which is near 0 where that is rare; there buckets are fine, and near 1 they aren't.
    """
    return outputs[0] if outputs[0].ndim == 1 else outputs[0][:, -1]
