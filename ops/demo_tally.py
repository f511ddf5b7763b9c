"""What the demo counts, and how it tells a right score from a wrong one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from client import OutputKind, Residency, Scores
from ops.demo_data import DemoModel


def is_right(model: DemoModel, picked: NDArray[np.int64], scores: Scores) -> bool:
    """Whether `scores` for the rows of these numbers are what the engine's own library predicts."""
    outputs = list(scores.outputs.values())
    if len(outputs) != len(model.expected):
        return False
    for output, whole in zip(outputs, model.expected, strict=True):
        expected = whole[picked]
        if output.values.shape != expected.shape:
            return False
        if not np.allclose(output.values, expected, rtol=model.tolerance, atol=model.tolerance):
            return False
        if output.kind is OutputKind.RANKING and (output.order is None or not _falls(output.values[output.order])):
            return False
    return True


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them don't exceed ("nearest rank")."""
    return sorted(values)[max(ceil(len(values) * percent / 100) - 1, 0)]


@dataclass
class Tally:
    """`served`: (phase, scorer id) -> requests. `latencies_ms`: of single requests, by where the model was.
    `failures`, `wrong`: one line each. `predictions`: rows that were scored and compared.
    """

    served: Counter[tuple[int, str]] = field(default_factory=Counter)
    residencies: Counter[Residency] = field(default_factory=Counter)
    latencies_ms: dict[Residency, list[float]] = field(default_factory=dict)
    predict_us: dict[Residency, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    predictions: int = 0

    @property
    def answered(self) -> int:
        """Requests with an answer, right or wrong."""
        return self.served.total()

    @property
    def passed(self) -> bool:
        """Whether there were answers, all right, and no failure."""
        return self.answered > 0 and not self.failures and not self.wrong

    @property
    def hit_rate(self) -> float:
        """Share of the answers whose model was in memory."""
        return self.residencies[Residency.HIT] / max(self.answered, 1)

    def in_phase(self, phase: int) -> int:
        """Answers to requests sent in a phase."""
        return sum(count for (sent_in, _), count in self.served.items() if sent_in == phase)

    def add_answer(self, phase: int, model: DemoModel, picked: NDArray[np.int64], scores: Scores) -> None:
        """Count and check one answer."""
        self.served[(phase, scores.served_by)] += 1
        self.residencies[scores.residency] += 1
        self.predictions += len(picked)
        if not is_right(model, picked, scores):
            self.wrong.append(f"{model.ref} version {scores.version}, {len(picked)} rows, by {scores.served_by}")

    def add_latency(self, scores: Scores, latency_ms: float) -> None:
        """Note how long one single request took."""
        self.latencies_ms.setdefault(scores.residency, []).append(latency_ms)
        self.predict_us.setdefault(scores.residency, []).append(scores.timing.score_us)


def _falls(values: NDArray[np.float64]) -> bool:
    return bool((values[:-1] >= values[1:]).all())
