"""Takes back canaries that do harm.

Contract: every `interval_s` the guard asks the scorers what they saw of all rollouts, judges each guarded one that
has a canary (`registry.rollout.judge`), and ends those that must go. An end is a change of the model's record on the
condition that this very rollout still runs: two registries that guard at once, or an operator who was quicker, do no
harm. What fails is logged and tried again at the next look. A canary that is healthy stays what it is: going on is
the operator's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import NamedTuple

from registry.alias_moves import AliasMoves
from registry.bounded import for_each
from registry.errors import ScoreMeshError
from registry.ledger import Ledger, utc_now
from registry.manifest import RolloutSpec
from registry.model import ModelRef
from registry.rollout.judge import Limits, RollBack, describe, judge
from registry.rollout.scorers import ScorerCalls
from registry.rollout.stats import read_stats
from registry.rollout.tally import RolloutTally
from registry.rollout.watch import OpenRollout, RolloutWatch

_log = logging.getLogger(__name__)
_KEPT = 1000
_READS_AT_ONCE = 16


class Judgement(NamedTuple):
    """The last word about a rollout. `verdict`: as text; `at`: RFC 3339, UTC; `ended`: the guard took it back."""

    ref: ModelRef
    alias: str
    rollout_id: str
    verdict: str
    tally: RolloutTally
    at: str
    ended: bool = False


def limits_of(spec: RolloutSpec) -> Limits:
    """What a rollout is judged by."""
    return Limits(spec.max_error_ratio, spec.max_drift, spec.min_requests)


class Guard:
    """See the module. `run` until cancelled; `look` is one look, for who has a rhythm of his own. The last judgements
    of 1000 aliases stay in memory, also after the rollout's end.
    """

    def __init__(
        self, ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, interval_s: float = 5.0, timeout_s: float = 5.0
    ) -> None:
        self.watch = RolloutWatch(ledger.etcd, ledger.keys)
        self._library = ledger.library
        self._moves, self._calls = moves, calls
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._specs: dict[OpenRollout, RolloutSpec | None] = {}
        self._last: OrderedDict[tuple[ModelRef, str], Judgement] = OrderedDict()

    async def run(self) -> None:
        """Guard, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch.follow())
            while True:
                await asyncio.sleep(self._interval_s)
                try:
                    await self.look()
                except ScoreMeshError as error:
                    _log.warning("can't judge the rollouts now: %s", error.message)

    def last(self, ref: ModelRef, alias: str) -> Judgement | None:
        """What was last said of an alias's rollout; None where there was none, or it was long ago."""
        return self._last.get((ref, alias))

    async def look(self) -> None:
        """Judge all guarded rollouts once. Raises EtcdUnavailableError."""
        guarded = [(rollout, spec) for rollout, spec in await self._read_specs() if spec.canary and spec.guarded]
        if not guarded:
            return
        stats = await read_stats(self._calls, sorted({spec.id for _, spec in guarded}), self._timeout_s)
        for rollout, spec in guarded:
            await self._judge(rollout, spec, stats[spec.id])

    async def _judge(self, rollout: OpenRollout, spec: RolloutSpec, tally: RolloutTally) -> None:
        verdict = judge(tally, limits_of(spec))
        said = Judgement(rollout.ref, rollout.alias, spec.id, describe(verdict), tally, utc_now())
        if isinstance(verdict, RollBack):
            said = await self._roll_back(said)
        self._last[rollout.ref, rollout.alias] = said
        self._last.move_to_end((rollout.ref, rollout.alias))
        if len(self._last) > _KEPT:
            self._last.popitem(last=False)

    async def _roll_back(self, said: Judgement) -> Judgement:
        what = f"rollout {said.rollout_id} beside alias {said.alias} of model {said.ref}"
        try:
            await self._moves.end(said.ref, said.alias, promote=False, rollout_id=said.rollout_id)
        except ScoreMeshError as error:
            _log.error("%s must end, but it can't be ended yet: %s", what, error.message)
            return said
        _log.warning("%s is ended: %s", what, said.verdict)
        return said._replace(ended=True)

    async def _read_specs(self) -> list[tuple[OpenRollout, RolloutSpec]]:
        """What object storage has about each open rollout: etcd has only what scorers must know. Read once for each
        revision of a model.
        """
        still_open = self.watch.open
        self._specs = {rollout: self._specs[rollout] for rollout in still_open if rollout in self._specs}
        await for_each([each for each in still_open if each not in self._specs], self._read_spec, _READS_AT_ONCE)
        return [(rollout, spec) for rollout, spec in self._specs.items() if spec is not None]

    async def _read_spec(self, rollout: OpenRollout) -> None:
        try:
            record = await self._library.newest_aliases(rollout.ref)
        except ScoreMeshError as error:
            _log.warning("can't read what guards the rollout of model %s: %s", rollout.ref, error.message)
            return
        spec = record.rollouts.get(rollout.alias) if record is not None else None
        self._specs[rollout] = spec if spec is not None and spec.id == rollout.rollout.id else None
