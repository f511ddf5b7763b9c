"""What a scorer does so that no model crashes it over and over: it tells of crashes, and keeps to the quarantine.

Contract: `run` first reports the crashes that the supervisor noted before this start, then follows the quarantine;
where etcd is dead it goes on trying both. `wait_ready` waits until both are done, for `PATIENCE_S` at most: a scorer
that takes requests sooner might get the one that ended it before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from registry.errors import InvalidRequestError, ScoreMeshError
from registry.etcd import Etcd
from registry.etcd_backoff import Backoff
from registry.keys import Keys
from registry.quarantined import Quarantined
from registry.suspects import Suspects, Suspicion
from scorer.crash_notes import CrashNote, CrashNotes

PATIENCE_S = 5.0
_log = logging.getLogger(__name__)


class Precaution:
    """Of the scorer `member`. `on_begun` is told each package that must not be used from now on."""

    def __init__(
        self, etcd: Etcd, keys: Keys, member: str, notes: CrashNotes, on_begun: Callable[[set[str]], None]
    ) -> None:
        self._member = member
        self._notes = notes
        self._suspects = Suspects(etcd, keys)
        self._quarantined = Quarantined(etcd, keys, on_begun)
        self.refusal = self._quarantined.refusal

    async def run(self) -> None:
        """See the module; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(self._report())
            await asyncio.wait({reporting}, timeout=PATIENCE_S)
            await self._quarantined.run()

    async def wait_ready(self) -> None:
        """Wait until the quarantine is known, or for `PATIENCE_S`."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._quarantined.known.wait()
        except TimeoutError:
            _log.warning("the quarantine isn't known yet")

    async def _report(self) -> None:
        """Tell etcd, for as long as it takes, and forget what was told."""
        noted = await asyncio.to_thread(self._notes.read)
        if not noted:
            return
        backoff = Backoff()
        while not await self._told(noted):
            await backoff.pause()
        await asyncio.to_thread(self._notes.remove, {note.crash for note in noted})

    async def _told(self, noted: list[CrashNote]) -> bool:
        try:
            for note in noted:
                await self._tell(note)
        except ScoreMeshError as error:
            _log.warning("can't report crashes yet: %s", error)
            return False
        return True

    async def _tell(self, note: CrashNote) -> None:
        try:
            told = Suspicion(self._member, note.cause, note.at)
            await self._suspects.report(note.package, note.crash, told)
        except InvalidRequestError as error:  # whoever ended the worker did so in the middle of a name
            _log.warning("a note of a crash is of no use: %s", error)
