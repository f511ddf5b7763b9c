"""A lease: keys that hang on it vanish when its owner does not renew it in time.

Contract: `lost` is set exactly once, when etcd says that the lease is gone or when it could not be renewed for its time
to live, counted from the sending of the last renewal that succeeded. It is set no later than etcd may drop the keys,
as long as the event loop runs; an owner that was stopped in between learns it as soon as it runs again. It is not
set by `revoke` and `aclose`, which are the owner's own doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Self, TypeAlias

import grpc.aio

from registry.errors import EtcdLeaseLostError, ScoreMeshError
from registry.etcd import Etcd
from registry.etcd_backoff import Backoff
from registry.etcd_endpoints import LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, LEASE_TIME_TO_LIVE, Endpoint
from scoremesh.etcd.v1 import etcd_pb2 as pb

KeepAliveCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]"


class Lease:
    """A lease that is kept alive by a task of its own; made by `grant`, ended by `revoke` or `aclose`."""

    def __init__(self, etcd: Etcd, lease_id: int, ttl_s: float, granted_at: float) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.lost = asyncio.Event()
        self._etcd = etcd
        self._ends_at = granted_at + ttl_s
        self._task = asyncio.create_task(self._keep_alive())
        self._task.add_done_callback(self._note_end)

    @classmethod
    async def grant(cls, etcd: Etcd, ttl_s: float) -> Self:
        """Make a lease. etcd counts in whole seconds and may choose a longer time (about 2 s at least).

        Raises:
            EtcdUnavailableError: no endpoint answered; a lease that was made all the same ends by itself.
        """
        asked_at = asyncio.get_running_loop().time()
        request = pb.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        answer = (await etcd.endpoints.call(LEASE_GRANT, request)).message
        return cls(etcd, answer.ID, float(answer.TTL), asked_at)

    async def revoke(self) -> None:
        """End the lease and delete its keys at once. No error if it is gone already.

        Raises:
            EtcdUnavailableError: no endpoint answered; the lease ends by itself within `ttl_s`.
        """
        await self.aclose()
        with contextlib.suppress(EtcdLeaseLostError):
            await self._etcd.endpoints.call(LEASE_REVOKE, pb.LeaseRevokeRequest(ID=self.id))

    async def time_left_s(self) -> float:
        """What etcd says is left of it, seconds; -1 if it is gone."""
        request = pb.LeaseTimeToLiveRequest(ID=self.id)
        return float((await self._etcd.endpoints.call(LEASE_TIME_TO_LIVE, request)).message.TTL)

    async def aclose(self) -> None:
        """Stop renewing; the keys vanish when the time to live is over."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def _note_end(self, renewing: asyncio.Task[None]) -> None:
        """Whatever ended the renewing, if not we ourselves: the lease will not live."""
        if not renewing.cancelled():
            self.lost.set()

    async def _keep_alive(self) -> None:
        endpoint, backoff = self._etcd.endpoints.current, Backoff()
        # The time limit is moved on by each renewal, see _renew.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._ends_at) as limit:
                while await self._renew_until_broken(endpoint, backoff, limit):
                    endpoint = self._etcd.endpoints.after(endpoint)
                    await backoff.pause()

    async def _renew_until_broken(self, endpoint: Endpoint, backoff: Backoff, limit: asyncio.Timeout) -> bool:
        """Renew over one stream. True when the stream broke, False when the lease is gone."""
        call = None
        try:
            call = endpoint.stream(LEASE_KEEP_ALIVE, await self._etcd.endpoints.metadata())
            while await self._renew(call, limit):
                backoff.reset()
                await asyncio.sleep(self.ttl_s / 3)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, ScoreMeshError, _StreamEndedError):
            return True
        else:
            return False
        finally:
            if call is not None:
                call.cancel()

    async def _renew(self, call: KeepAliveCall, limit: asyncio.Timeout) -> bool:
        """Renew once; False when the lease is gone. Leaves time for two more tries elsewhere if the node is stuck."""
        asked_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(self.ttl_s / 4):
            await call.write(pb.LeaseKeepAliveRequest(ID=self.id))
            answer = await call.read()
        if not isinstance(answer, pb.LeaseKeepAliveResponse):
            raise _StreamEndedError
        if answer.TTL <= 0:
            return False
        limit.reschedule(asked_at + answer.TTL)
        return True


class _StreamEndedError(Exception):
    """The node ended the stream."""
