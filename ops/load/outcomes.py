"""What became of each request, in columns that are laid out before the first one is sent.

Contract: a request that is never answered has status `UNFINISHED`. Times are seconds after the begin of the warm-up, on
a clock that all processes of the machine share. Latency counts from when a request was due, not from when it was sent,
so that a stalled server, or a generator that falls behind, can't hide what callers would have waited.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ops.load.arrivals import Arrivals

UNFINISHED = -1
_COLUMNS = ("due_s", "sent_s", "done_s", "status", "residency", "model", "rows", "group")


class Outcomes:
    """`sent_s`, `done_s`: float64, NaN for never; `status`: of gRPC; `residency`: as in scoring.v1, 0 for not told."""

    def __init__(self, arrivals: Arrivals) -> None:
        count = len(arrivals)
        self.due_s, self.model = arrivals.due_s, arrivals.model
        self.rows, self.group = arrivals.rows, arrivals.group
        self.sent_s = np.full(count, np.nan)
        self.done_s = np.full(count, np.nan)
        self.status = np.full(count, UNFINISHED, np.int16)
        self.residency = np.zeros(count, np.int8)

    def __len__(self) -> int:
        return len(self.due_s)

    @property
    def latency_s(self) -> np.ndarray:
        """From when it was due until it was done; NaN for what never was."""
        return np.asarray(self.done_s - self.due_s)

    @property
    def lateness_s(self) -> np.ndarray:
        """How much later than it was due it was sent: the generator's own fault."""
        return np.asarray(self.sent_s - self.due_s)

    def select(self, which: np.ndarray) -> Outcomes:
        """Those of a mask."""
        found = Outcomes.__new__(Outcomes)
        for name in _COLUMNS:
            setattr(found, name, getattr(self, name)[which])
        return found

    def save(self, path: Path) -> None:
        """Write them."""
        np.savez(path, **{name: getattr(self, name) for name in _COLUMNS})


def load_all(paths: list[Path]) -> Outcomes:
    """Those of all processes, in order of when they were due."""
    files = [np.load(path) for path in paths]
    columns = {name: np.concatenate([file[name] for file in files]) for name in _COLUMNS}
    order = np.argsort(columns["due_s"], kind="stable")
    found = Outcomes.__new__(Outcomes)
    for name in _COLUMNS:
        setattr(found, name, columns[name][order])
    return found
