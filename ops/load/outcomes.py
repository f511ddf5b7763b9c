"""What became of each request: noted while it goes on in `Notes`, looked at afterwards as the columns of `Outcomes`.

Contract: a request that is never answered has status `UNFINISHED`. Times are seconds after the begin of the warm-up, on
a clock that all processes of the machine share. Latency counts from when a request was due, not from when it was sent,
so that a stalled server, or a generator that falls behind, can't hide what callers would have waited.

Notes are arrays of the standard library: storing a number takes 20 ns there, and 60 to 90 in one of numpy.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ops.load.arrivals import Arrivals

UNFINISHED = -1
_EXAMPLE = 300  # characters
_MOST_EXAMPLES = 32
_TYPES = {
    **dict.fromkeys(("due_s", "sent_s", "done_s"), "d"),
    **dict.fromkeys(("model", "rows", "group"), "i"),
    "status": "h",
    "residency": "b",
}


class Notes:
    """One process's requests, in order of when they are due. `sent_s`, `done_s`: NaN for never; `status`: of gRPC;
    `residency`: as in scoring.v1, 0 for not told. `examples`: what was said with the first failure of each status.
    `recent_s`: latencies since somebody last emptied it.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        count = len(arrivals)
        self.due_s = array("d", arrivals.due_s.tobytes())
        self.model = array("i", arrivals.model.tobytes())
        self.rows = array("i", arrivals.rows.tobytes())
        self.group = array("i", arrivals.group.tobytes())
        self.sent_s = array("d", [np.nan]) * count
        self.done_s = array("d", [np.nan]) * count
        self.status = array("h", [UNFINISHED]) * count
        self.residency = array("b", [0]) * count
        self.answered = self.failed = 0
        self.recent_s: list[float] = []
        self.examples: dict[int, str] = {}

    def answer(self, place: int, residency: int, now: float) -> None:
        """A request was answered."""
        self.status[place] = 0
        self.residency[place] = residency
        self.done_s[place] = now
        self.answered += 1
        self.recent_s.append(now - self.due_s[place])

    def fail(self, place: int, status: int, why: str, now: float) -> None:
        """A request failed. `why`: what the server said."""
        self.status[place] = status
        self.done_s[place] = now
        self.failed += 1
        if status not in self.examples and len(self.examples) < _MOST_EXAMPLES:
            self.examples[status] = why[:_EXAMPLE]

    def save(self, path: Path) -> None:
        """Write them for `load_all`."""
        columns: dict[str, Any] = {name: np.frombuffer(getattr(self, name), code) for name, code in _TYPES.items()}
        np.savez(path, **columns)


class Outcomes:
    """The columns of `Notes`, as numpy arrays."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self._columns = columns
        self.due_s, self.sent_s, self.done_s = columns["due_s"], columns["sent_s"], columns["done_s"]
        self.status, self.residency, self.group = columns["status"], columns["residency"], columns["group"]
        self.model, self.rows = columns["model"], columns["rows"]

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

    def select(self, which: np.ndarray | slice) -> Outcomes:
        """Those of a mask, of places, or of a slice."""
        return Outcomes({name: column[which] for name, column in self._columns.items()})


class LoadRun(NamedTuple):
    """A finished run. `busiest`: share of a processor that the busiest sending process took; `cpu_us`: of all sending
    processes, a request. `server_cpu_s`: of the servers over the measured time, NaN where none was named, or one ended.
    `limit_per_s`: requests a second that the sending processes can do when nothing holds them. `examples`: what servers
    said with a failure, by status.
    """

    outcomes: Outcomes
    busiest: float
    cpu_us: float
    server_cpu_s: float
    limit_per_s: float
    examples: dict[int, str]


def load_all(paths: list[Path]) -> Outcomes:
    """Those of all processes, in order of when they were due."""
    files = [np.load(path) for path in paths]
    columns = {name: np.concatenate([file[name] for file in files]) for name in _TYPES}
    order = np.argsort(columns["due_s"], kind="stable")
    return Outcomes({name: column[order] for name, column in columns.items()})
