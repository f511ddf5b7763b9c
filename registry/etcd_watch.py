"""Following a prefix for ever, over broken streams, stopped nodes, compactions and wiped stores.

Contract: first the state (or its revision), then each change once, in order; again the state when continuity can't be
had. A stream asks for a leader (`hasleader`), so that a node cut off from the others ends it instead of being silent.
Where a store lost its data (or was restored from a backup) and is written past the revision that was seen before a
watch is back, that can't be told from the revision: only another cluster id shows it then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import grpc.aio

from registry.errors import EtcdAuthError, EtcdUnavailableError
from registry.etcd_backoff import Backoff
from registry.etcd_endpoints import RANGE, WATCH, Endpoint, Endpoints
from registry.etcd_faults import Fault, classify
from registry.etcd_position import Mark, WatchPosition
from registry.etcd_records import Changed, Deleted, Gap, Listed, Put, prefix_end
from scoremesh.etcd.v1 import etcd_pb2 as pb

__all__ = ["Changed", "Deleted", "Gap", "Listed", "Put", "follow"]

S = TypeVar("S", Listed, Gap)
_HAS_LEADER = (("hasleader", "true"),)
_log = logging.getLogger(__name__)


async def follow(
    endpoints: Endpoints,
    prefix: bytes,
    stall_s: float,
    take_state: Callable[[], Awaitable[S]],
    on_heard: Callable[[], None],
) -> AsyncGenerator[S | Changed, None]:
    """Yield `take_state()`, then the changes behind its revision; anew when the changes can't be had. `on_heard`:
    called at every sign of life, at least every `stall_s` while a node answers.
    """
    backoff = Backoff()
    while True:
        try:
            state = await take_state()
        except EtcdUnavailableError as error:
            _log.warning("can't read the state of %r yet: %s", prefix, error)
        else:
            on_heard()
            yield state
            position = WatchPosition(state.revision)
            async with aclosing(_changes(endpoints, prefix, stall_s, position, on_heard)) as changes:
                async for changed in changes:
                    yield changed
                    backoff.reset()
            _log.warning("the history of %r is lost; reading its whole state", prefix)
        await backoff.pause()


async def _changes(
    endpoints: Endpoints, prefix: bytes, stall_s: float, position: WatchPosition, on_heard: Callable[[], None]
) -> AsyncGenerator[Changed, None]:
    """The changes behind `position`, over as many streams as it takes; ends when the history is lost."""
    backoff, endpoint, refusals = Backoff(), endpoints.current, 0
    while True:
        stream = WatchStream(endpoints, endpoint, prefix, position, stall_s)
        try:
            await stream.open()
            while True:
                step = await stream.read()
                on_heard()
                if isinstance(step, Changed):
                    yield step
                if step is not Mark.BEGUN:  # A node that lets each watch begin and then ends it must not make us spin.
                    backoff.reset()
                refusals = 0
        except HistoryLostError:
            return
        except LoginStaleError as error:
            refusals += 1
            if refusals > 2 or not endpoints.has_user:
                raise EtcdAuthError(f"etcd does not let this user watch {prefix!r}") from error
            endpoints.forget_token(error.token)
        except (StreamBrokenError, EtcdUnavailableError) as error:
            _log.info("the watch of %r at %s broke: %s", prefix, endpoint.address, error)
            endpoint = endpoints.after(endpoint)
        finally:
            await stream.aclose()
        await backoff.pause()


class StreamBrokenError(Exception):
    """The stream ended; another one may do better."""


class HistoryLostError(Exception):
    """What is missing can't be had from etcd any more."""


class LoginStaleError(Exception):
    """etcd did not accept `token` for the watch."""

    def __init__(self, token: str | None) -> None:
        super().__init__("login is stale")
        self.token = token


class WatchStream:
    """One watch on one node; owns the call."""

    def __init__(
        self, endpoints: Endpoints, endpoint: Endpoint, prefix: bytes, position: WatchPosition, stall_s: float
    ) -> None:
        self._endpoints, self._endpoint = endpoints, endpoint
        self._prefix, self._position, self._stall_s = prefix, position, stall_s
        self._token: str | None = None
        self._call: grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse] | None = None
        self._reading: asyncio.Task[object] | None = None

    async def open(self) -> None:
        """Begin the watch at the position. Raises StreamBrokenError, LoginStaleError."""
        metadata = await self._endpoints.metadata()
        self._token = self._endpoints.token
        self._call = self._endpoint.stream(WATCH, metadata + _HAS_LEADER)
        self._position.restart()
        create = pb.WatchCreateRequest(
            key=self._prefix,
            range_end=prefix_end(self._prefix),
            start_revision=self._position.next_revision,
            progress_notify=True,
            fragment=True,
        )
        await self._send(pb.WatchRequest(create_request=create))

    async def read(self) -> Changed | Mark:
        """The next change, or another sign of life.

        Raises:
            StreamBrokenError, HistoryLostError, LoginStaleError.
        """
        step = self._position.fold(await self._receive())
        match step:
            case Mark.GONE:
                raise HistoryLostError
            case Mark.FORBIDDEN:
                raise LoginStaleError(self._token)
            case Mark.OVER:
                raise StreamBrokenError("ended by the node")
            case Mark.UNSURE:
                await self._check_history()
        return step

    async def aclose(self) -> None:
        """End the call and wait until nothing of it is running."""
        if self._call is not None:
            self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            # Looked at, so that asyncio does not report it as an error that nobody saw.
            _ = self._reading.cancelled() or self._reading.exception()

    async def _receive(self) -> pb.WatchResponse:
        """The next message. A node that is silent for half of `stall_s` is asked for a sign of life."""
        if not await self._arrived():
            await self._send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
            if not await self._arrived():
                raise StreamBrokenError(f"silent for {self._stall_s:g} s")
        assert self._reading is not None  # noqa: S101 - for the type checker; _arrived sets it
        reading, self._reading = self._reading, None
        try:
            response = reading.result()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._broken(error) from error
        if not isinstance(response, pb.WatchResponse):  # gRPC's mark of the end
            raise StreamBrokenError("ended by the node")
        return response

    async def _arrived(self) -> bool:
        """Whether a message (or the end) came within half of `stall_s`. The read itself is never cancelled for a
        time limit, because cancelling a read cancels the call.
        """
        if self._reading is None:
            assert self._call is not None  # noqa: S101 - open() was called
            self._reading = asyncio.create_task(self._call.read())
        done, _ = await asyncio.wait({self._reading}, timeout=self._stall_s / 2)
        return bool(done)

    async def _send(self, request: pb.WatchRequest) -> None:
        assert self._call is not None  # noqa: S101 - open() was called
        try:
            async with asyncio.timeout(self._stall_s / 2):
                await self._call.write(request)
        # gRPC says InvalidStateError for a call that ended before the write.
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> Exception:
        if isinstance(error, grpc.aio.AioRpcError):
            if classify(error.code(), error.details() or "") in (Fault.STALE_TOKEN, Fault.FORBIDDEN):
                return LoginStaleError(self._token)
            return StreamBrokenError(error.code().name)
        return StreamBrokenError(type(error).__name__)

    async def _check_history(self) -> None:
        """The node's store is behind what was seen. A node that lags catches up; but if a majority is behind too,
        then the store began anew, and waiting for the old revisions would be waiting for ever.
        """
        answer = (await self._endpoints.call(RANGE, pb.RangeRequest(key=self._prefix, limit=1))).message
        if answer.header.revision < self._position.seen_revision:
            raise HistoryLostError
