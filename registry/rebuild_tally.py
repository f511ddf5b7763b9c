"""What a rebuild has done so far, and telling of it now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

_EVERY_S = 0.2
_FAILURES_KEPT = 1000


class Failure(NamedTuple):
    """A record that couldn't be brought to etcd: "tenants/t/models/m", "tenants/t" or "applications/a", and why."""

    name: str
    why: str


class Rebuilt(NamedTuple):
    """`models`: that object storage has. `written`, `removed`: index entries of any kind. `failed`: all failures, of
    which `failures` has the first thousand.
    """

    models: int
    written: int
    removed: int
    failed: int
    elapsed_s: float
    failures: tuple[Failure, ...] = ()


OnProgress = Callable[[Rebuilt], None]


class Tally:
    """Counts, and calls `on_progress` at most every 0.2 s."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.models = self.written = self.removed = 0
        self._failed = 0
        self._failures: list[Failure] = []
        self._on_progress = on_progress
        self._began_s = self._told_s = time.monotonic()

    def fail(self, name: str, why: str) -> None:
        """Note a record that couldn't be brought."""
        self._failed += 1
        if len(self._failures) < _FAILURES_KEPT:
            self._failures.append(Failure(name, why))

    def tell(self) -> None:
        """Call when something was counted."""
        now_s = time.monotonic()
        if self._on_progress is not None and now_s - self._told_s >= _EVERY_S:
            self._told_s = now_s
            self._on_progress(self.result())

    def result(self) -> Rebuilt:
        """The counts up to now."""
        elapsed_s = time.monotonic() - self._began_s
        return Rebuilt(self.models, self.written, self.removed, self._failed, elapsed_s, tuple(self._failures))
