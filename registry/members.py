"""Who is alive: a scorer announces itself, a router follows the announcements.

Contract of `Announcement`: while `on_ready(True)` was the last call, the member's key is in etcd under a lease of this
process. A lease that is lost is reported by `on_ready(False)` before anything is announced anew, and the new
announcement has a new incarnation. It never gives up: while etcd is dead it tries on, with pauses of 2 s at most. A key
that somebody deletes or overwrites is written again within `ttl_s`; two processes with one id would fight over it so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Callable

import msgspec

from registry.errors import ConflictError, EtcdLeaseLostError, ScoreMeshError
from registry.etcd import Etcd
from registry.etcd_backoff import Backoff
from registry.etcd_follow import follow
from registry.etcd_lease import Lease
from registry.etcd_records import Changed, Listed
from registry.keys import Keys, encode
from registry.member_fold import MemberFold, MembersView
from registry.model import Member, MemberState

_log = logging.getLogger(__name__)


class Announcement:
    """Keeps one member announced, from `start` until `withdraw` or `aclose`.

    `ttl_s`: how long the announcement outlives a process that died without a word. `on_ready` is called in the event
    loop: True when the member is in etcd, False when it may be there no more.
    """

    def __init__(
        self, etcd: Etcd, keys: Keys, member: Member, on_ready: Callable[[bool], None], *, ttl_s: float = 10.0
    ) -> None:
        self.member = member
        self._etcd, self._key, self._on_ready, self._ttl_s = etcd, keys.member(member.id), on_ready, ttl_s
        self._ready = False
        self._wake, self._settled = asyncio.Event(), asyncio.Event()
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; returns at once, whether etcd answers or not."""
        self._task = asyncio.create_task(self._run())

    def set_state(self, state: MemberState) -> None:
        """Announce another state from now on; `wait_announced` tells when etcd has it."""
        self.member = msgspec.structs.replace(self.member, state=state)
        self._settled.clear()
        self._wake.set()

    async def wait_announced(self) -> None:
        """Wait until etcd holds the member in its present state; without a time limit, so put one around it."""
        await self._settled.wait()

    async def withdraw(self) -> None:
        """End the announcement now; if etcd does not answer, it ends with its lease. Does not call `on_ready`."""
        await self._stop()
        if self._lease is not None:
            try:
                await self._lease.revoke()
            except ScoreMeshError as error:
                _log.warning("the announcement of %s stays until its lease ends: %s", self.member.id, error)

    async def aclose(self) -> None:
        """Stop without a word, as a crash would: the announcement ends with its lease."""
        await self._stop()
        if self._lease is not None:
            await self._lease.aclose()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                self._lease = await Lease.grant(self._etcd, self._ttl_s)
            except ScoreMeshError as error:
                _log.warning("can't announce %s yet: %s", self.member.id, error)
            else:
                backoff.reset()
                await self._hold(self._lease)
                self._give_up()
            await backoff.pause()

    async def _hold(self, lease: Lease) -> None:
        """Keep the key written until the lease is lost, be it in the middle of a write."""
        lost, writing = asyncio.create_task(lease.lost.wait()), asyncio.create_task(self._keep_written(lease))
        try:
            await asyncio.wait({lost, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (lost, writing):
                task.cancel()
            await asyncio.wait({lost, writing})
            if not writing.cancelled():
                writing.result()
        # Not in `finally`: when we are cancelled, `withdraw` still needs the lease.
        await lease.aclose()

    def _give_up(self) -> None:
        """The lease is lost: not ready first; what is announced next is a new incarnation."""
        _log.warning("the lease of %s is lost; announcing it anew", self.member.id)
        self._settled.clear()
        if self._ready:
            self._ready = False
            self._on_ready(False)
        self.member = msgspec.structs.replace(self.member, incarnation=uuid.uuid4().hex)

    async def _keep_written(self, lease: Lease) -> None:
        """Write the member now, when its state changes, and when a look each `ttl_s` finds something else. Returns when
        etcd says that the lease is gone.
        """
        backoff = Backoff()
        while True:
            self._wake.clear()
            try:
                await self._write(lease)
            except EtcdLeaseLostError:
                return
            except ScoreMeshError as error:
                _log.warning("can't write the announcement of %s: %s", self.member.id, error)
                await backoff.pause()
                continue
            backoff.reset()
            await _wait_at_most(self._wake, self._ttl_s)

    async def _write(self, lease: Lease) -> None:
        """Make the key hold the member. Compare-and-swap, because a plain put that got stuck in a stopped node could
        be applied after a later announcement, and hang the key on a lease that is about to end.
        """
        member = self.member
        _, current = await self._etcd.get(self._key)
        if current is None or current.value != encode(member):
            expected = current.mod_revision if current else 0
            swap = await self._etcd.compare_and_swap(self._key, encode(member), expected, lease.id)
            if not swap.succeeded:
                raise ConflictError("somebody else wrote to it")
        if member == self.member and not lease.lost.is_set():
            self._settled.set()
            if not self._ready:
                self._ready = True
                self._on_ready(True)


async def follow_members(
    etcd: Etcd,
    keys: Keys,
    on_view: Callable[[MembersView], None],
    *,
    grace_s: float = 10.0,
    refill_after_s: float = 0.0,
    on_heard: Callable[[], None] | None = None,
) -> None:
    """Call `on_view` with the view of the members, at first and whenever its epoch changed, until cancelled.

    While etcd is dead the last view holds; after etcd lost its data, `grace_s` longer for who isn't announced again
    (see `registry.member_fold`). `refill_after_s`: how long the dead keep their places (see `registry.tombstones`).
    `on_heard`: called at every sign of life of etcd. `on_view` is called in the event loop.
    """
    following = _Following(MemberFold(keys, grace_s, refill_after_s), on_view)
    try:
        await follow(etcd, keys.members_prefix, following.apply, "the members", on_heard=on_heard)
    finally:
        following.close()


class _Following:
    """Shows each new view, also one that is new because somebody's grace is over."""

    def __init__(self, fold: MemberFold, on_view: Callable[[MembersView], None]) -> None:
        self._fold, self._on_view, self._shown = fold, on_view, -1
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def apply(self, event: Listed | Changed) -> None:
        for key in self._fold.apply(event, self._loop.time()):
            _log.warning("%r holds no member of that name", key)
        self._show()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._fold.expire(self._loop.time())
        self._show()

    def _show(self) -> None:
        self.close()
        if self._fold.next_s < math.inf:
            self._timer = self._loop.call_at(self._fold.next_s, self._expire)
        if self._fold.view.epoch != self._shown:
            self._shown = self._fold.view.epoch
            self._on_view(self._fold.view)


async def _wait_at_most(event: asyncio.Event, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return
