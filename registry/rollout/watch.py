"""Which models have a rollout now, followed in etcd.

Contract: `open` tends to the rollouts that etcd's entries of models have, whatever is lost in between. A cluster may
have hundreds of thousands of models and a handful of rollouts, so nothing is held of a model without one: the changes
come by one watch, and when it begins (or had a gap) all entries are read page by page, of which only those with a
rollout stay. Pages are read each at its own moment, as what changes meanwhile comes by the watch. (Keys of their own
for rollouts would spare the listing, but would be a second truth that every move must keep equal to the first.)
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from registry.errors import ScoreMeshError
from registry.etcd import Etcd, KeyValue
from registry.etcd_backoff import Backoff
from registry.etcd_records import Changed, Deleted, Put
from registry.keys import Keys, decode_model
from registry.model import ModelRef, Rollout

_log = logging.getLogger(__name__)
_MARK = b'"rollout"'


class OpenRollout(NamedTuple):
    """What runs beside an alias. `revision`: of the model's record, which has all about it."""

    ref: ModelRef
    alias: str
    revision: int
    rollout: Rollout


class RolloutWatch:
    """See the module. `follow` keeps it fresh."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self._held: dict[bytes, tuple[int, tuple[OpenRollout, ...]]] = {}

    @property
    def open(self) -> list[OpenRollout]:
        """All rollouts that are known, by tenant and model."""
        return [rollout for key in sorted(self._held) for rollout in self._held[key][1]]

    async def follow(self) -> None:
        """Follow etcd, until cancelled."""
        backoff = Backoff()
        while True:
            try:
                async with aclosing(self._etcd.watch_changes(self._keys.models_prefix)) as events:
                    async for event in events:
                        if isinstance(event, Changed):
                            self._apply(event)
                        else:
                            await self._list()
                        backoff.reset()
            except ScoreMeshError as error:
                _log.error("can't follow the rollouts: %s", error.message)
            await backoff.pause()

    async def _list(self) -> None:
        """Read all models; between two pages only what has a rollout is kept."""
        held: dict[bytes, tuple[int, tuple[OpenRollout, ...]]] = {}
        async with aclosing(self._etcd.pages(self._keys.models_prefix)) as pages:
            async for page in pages:
                held |= {kv.key: (kv.mod_revision, self._rollouts(kv)) for kv in page if _MARK in kv.value}
        self._held = held

    def _apply(self, changed: Changed) -> None:
        for event in changed.events:
            match event:
                case Put(kv):
                    self._take(kv)
                case Deleted(key, revision) if key in self._held and self._held[key][0] < revision:
                    del self._held[key]

    def _take(self, kv: KeyValue) -> None:
        """Hold what an entry says, unless a newer one was seen; nothing of one without a rollout."""
        held = self._held.get(kv.key)
        if held is not None and held[0] >= kv.mod_revision:
            return
        found = self._rollouts(kv) if _MARK in kv.value else ()
        if found:
            self._held[kv.key] = (kv.mod_revision, found)
        else:
            self._held.pop(kv.key, None)

    def _rollouts(self, kv: KeyValue) -> tuple[OpenRollout, ...]:
        ref = self._keys.model_ref(kv.key)
        try:
            record = decode_model(kv.value)
        except msgspec.DecodeError:
            _log.warning("the entry %r in etcd is damaged", kv.key)
            return ()
        return tuple(
            OpenRollout(ref, alias, record.revision, target.rollout)
            for alias, target in sorted(record.aliases.items())
            if ref is not None and target.rollout is not None
        )
