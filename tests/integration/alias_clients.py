"""Callers that change one model by chance over a store that fails by chance, and note what they did and saw.

`main` is one such caller as a process: it takes a `Task` as JSON, and prints its calls as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.change import retire
from registry.errors import (
    ConflictError,
    EtcdUnavailableError,
    ModelInUseError,
    ModelNotFoundError,
    StoreUnavailableError,
)
from registry.etcd import Etcd
from registry.keys import Keys
from registry.manifest import AliasRecord
from registry.model import ModelRef
from registry.next_record import Condition
from registry.publish import Publisher
from registry.store_urls import open_store
from tests.integration.linearizing import Call
from tests.integration.publishing import constant_admit, index_entry, model_file, open_ledger

REF = ModelRef("acme", "fraud")
ALIASES = ("live", "candidate")
SETUP = ("1", "2", "3", "4")
_TRIES = 3
_REFUSALS: dict[type[Exception], str] = {
    ConflictError: "conflict",
    ModelNotFoundError: "missing",
    ModelInUseError: "in use",
}
# How often each act is chosen.
_ACTS = {"publish": 2, "point": 5, "roll_back": 3, "remove": 1, "retire": 0.4, "read": 3}


class FaultyStore(ArtifactStore):
    """Fails by chance: before a create or after it; or says that it failed and does it later, as a request does that
    was still under way when its caller gave up; or says "there already" of what it has just written, as it does where
    the transport repeated a request whose answer was lost. Answers come after a few turns of the event loop.
    """

    def __init__(self, store: ArtifactStore, dice: Random, failing: float) -> None:
        super().__init__(store._store, store.url)
        self._dice, self._failing = dice, failing
        self._late: set[asyncio.Task[bool]] = set()

    async def create(self, path: str, data: bytes) -> bool:
        await self._pause()
        match self._dice.choice(["before", "after", "late", "repeated"]) if self._dice.random() < self._failing else "":
            case "before":
                raise StoreUnavailableError("failed before")
            case "late":
                self._late.add(asyncio.create_task(self._create_late(path, data)))
                raise StoreUnavailableError("failed, but is still under way")
            case "after":
                await super().create(path, data)
                raise StoreUnavailableError("failed after")
            case "repeated":
                await super().create(path, data)
        created = await super().create(path, data)
        await self._pause()
        return created

    async def get(self, path: str, size_bytes: int = 0) -> bytes:
        await self._pause()
        return await super().get(path, size_bytes)

    async def list_names(self, folder: str) -> list[str]:
        await self._pause()
        if self._dice.random() < self._failing / 4:
            raise StoreUnavailableError("failed to list")
        return await super().list_names(folder)

    async def settle(self) -> None:
        """Wait for what is still under way."""
        await asyncio.gather(*self._late)

    async def _create_late(self, path: str, data: bytes) -> bool:
        for _ in range(self._dice.randrange(20)):
            await self._pause()
        return await ArtifactStore.create(self, path, data)

    async def _pause(self) -> None:
        for _ in range(self._dice.randrange(6)):
            await asyncio.sleep(0)


class AliasClient:
    """One caller, with a ledger of its own. `calls`: what it did. `direct`: an etcd that doesn't fail, where it looks
    whether etcd knows of what it was told is done.
    """

    def __init__(
        self, name: str, store: ArtifactStore, etcd: Etcd, keys: Keys, folder: Path, dice: Random, direct: Etcd
    ) -> None:
        self._name, self._folder, self._dice, self._direct = name, folder, dice, direct
        self._ledger = open_ledger(store, etcd, keys)
        self._moves = AliasMoves(self._ledger)
        self._publisher = Publisher(self._ledger, self._moves, constant_admit)
        self._known = list(SETUP)
        self._seen: dict[str, str] = {}
        self.calls: list[Call] = []

    async def run(self, calls: int, acts: Sequence[str] = tuple(_ACTS)) -> None:
        """Make so many calls, one after the other."""
        for number in range(calls):
            [act] = self._dice.choices(acts, [_ACTS[act] for act in acts])
            self.calls.append(await self._call(act, f"{self._name}-{number}"))

    async def _call(self, act: str, request_id: str) -> Call:
        """One call, tried again under the same request id after a failure that leaves open what happened. Some have no
        request id, and so must not be tried again.
        """
        anonymous = act != "publish" and self._dice.random() < 0.4
        call = self._choose(act, "" if anonymous else request_id)
        for tries in range(1, 1 + (1 if anonymous else _TRIES)):
            try:
                record = await self._perform(call)
            except EtcdUnavailableError:  # so it is stored
                return self._ended(call)
            except StoreUnavailableError:
                continue
            except tuple(_REFUSALS) as refusal:
                if tries > 1:
                    break  # an earlier try may have been made, or may still be
                return msgspec.structs.replace(self._ended(call), outcome=_REFUSALS[type(refusal)])
            if record is not None:
                self._seen = dict(record.aliases)
            # A request that is known by its id answers with what holds now, which may be the work of others.
            shown = (record.revision, dict(record.aliases)) if record is not None and tries == 1 else None
            ended = msgspec.structs.replace(self._ended(call), shown=shown)
            if record is not None and act != "read":
                known = await index_entry(self._direct, self._ledger.keys, REF)
                assert known is not None
                assert known.revision >= record.revision
            return ended
        return msgspec.structs.replace(call, outcome="unknown")

    def _choose(self, act: str, request_id: str) -> Call:
        dice = self._dice
        alias = "" if act in ("read", "retire") or (act == "publish" and dice.random() < 0.3) else dice.choice(ALIASES)
        expected = None
        if act in ("point", "roll_back") and dice.random() < 0.6:
            expected = self._seen.get(alias, "") if dice.random() < 0.7 else dice.choice(self._known)
        version = dice.choice(self._known) if act in ("point", "retire") else ""
        began = time.monotonic_ns()
        return Call(
            act=act, alias=alias, version=version, expected=expected, began=began, ended=None, request_id=request_id
        )

    async def _perform(self, call: Call) -> AliasRecord | None:
        condition = Condition(call.request_id)
        match call.act:
            case "publish":
                path = await asyncio.to_thread(model_file, self._folder, call.request_id)
                aliases = (call.alias,) if call.alias else ()
                manifest = await self._publisher.publish(path, REF, aliases=aliases, request_id=call.request_id)
                self._known.append(manifest.version)
                return None
            case "point":
                return await self._moves.point(REF, call.alias, call.version, condition, expected=call.expected)
            case "roll_back":
                return await self._moves.roll_back(REF, call.alias, condition, expected=call.expected)
            case "remove":
                return await self._moves.remove(REF, call.alias, condition)
            case "retire":
                return await self._ledger.change(REF, retire(REF, call.version), condition)
        return await self._ledger.library.newest_aliases(REF)

    def _ended(self, call: Call) -> Call:
        return msgspec.structs.replace(call, ended=time.monotonic_ns())


class Task(msgspec.Struct):
    """What one process does; see `AliasClient`."""

    name: str
    store: str
    etcd: str
    direct: str
    cluster: str
    folder: str
    calls: int
    failing: float


async def _run(task: Task) -> list[Call]:
    dice = Random(task.name)
    store = FaultyStore(open_store(task.store), dice, task.failing)
    etcd = Etcd([task.etcd], timeout_s=0.5, retry_s=1.0)
    direct = Etcd([task.direct])
    client = AliasClient(task.name, store, etcd, Keys(task.cluster), Path(task.folder), dice, direct)
    try:
        await client.run(task.calls)
    finally:
        await etcd.aclose()
        await direct.aclose()
    await store.settle()
    return client.calls


def main() -> None:
    """See the module."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_run(task))))
