"""The `Score` calls that come in one turn of the event loop, answered at its end.

Contract: what is added to `gathering` is answered when the callbacks of this turn have run; nothing waits for another
turn. Its models stay in memory until then, since other callbacks may ask for room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from scorer.answers import Answers, Waiting
from scorer.join import Gathering


class Turn:
    """See the module. `keep`: pins a package and gives the function that unpins it."""

    def __init__(self, answers: Answers, keep: Callable[[str], Callable[[], None]]) -> None:
        self._answers, self._keep = answers, keep
        self._loop = asyncio.get_running_loop()
        self._unpin: list[Callable[[], None]] = []
        self.gathering: Gathering[Waiting] = Gathering(self._on_new)

    def _on_new(self, package: str) -> None:
        if not self._unpin:
            self._loop.call_soon(self._end)
        self._unpin.append(self._keep(package))

    def _end(self) -> None:
        unpins, self._unpin = self._unpin, []
        try:
            self._answers.answer(self.gathering.take())
        finally:
            for unpin in unpins:
                unpin()
