"""The etcd client: reads, writes, compare-and-swap and watches of one etcd v3 cluster, over etcd's own gRPC API.

Contract: any number of endpoints; a call moves on to the next one when a node is dead, stopped or without a leader, for
`retry_s` at most. Reads are linearizable. `put`, `delete` and `delete_prefix` are at-least-once: after a failure that
leaves open whether etcd applied them they are sent again, so a write may count twice (two revisions) and may come after
a write of somebody else; writers who compete use `compare_and_swap`. Leases: `registry.etcd_lease`.

Errors of every call: EtcdUnavailableError names the endpoints, none of which answered; EtcdAuthError: wrong user,
password or rights; EtcdRefusedError: etcd said no.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence

from registry.errors import ConflictError, EtcdHistoryGoneError, EtcdUnavailableError
from registry.etcd_backoff import Backoff
from registry.etcd_batch import Write, batch_request, unchanged
from registry.etcd_endpoints import COMPACT, DELETE_RANGE, PUT, RANGE, STATUS, TXN, Endpoints
from registry.etcd_records import Changed, EtcdStatus, Gap, KeyValue, Listed, Listing, Swap, TlsFiles, prefix_end
from registry.etcd_watch import follow
from scoremesh.etcd.v1 import etcd_pb2 as pb

__all__ = ["Etcd", "EtcdStatus", "KeyValue", "Listing", "Swap", "TlsFiles", "Write"]

_LISTING_TRIES = 8


class Etcd:
    """A client of one cluster. Build it inside a running event loop; close it with `aclose`.

    `endpoints`: "host:port" of the nodes. `user`, `password`: for a cluster with authentication; a token that has
    expired is renewed. `timeout_s`: for one try at one node; `retry_s`: for all tries of one call together.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        user: str = "",
        password: str = "",
        tls: TlsFiles | None = None,
        timeout_s: float = 3.0,
        retry_s: float = 10.0,
    ) -> None:
        self.endpoints = Endpoints(
            endpoints, user=user, password=password, tls=tls, timeout_s=timeout_s, retry_s=retry_s
        )

    async def get(self, key: bytes) -> tuple[int, KeyValue | None]:
        """The revision of the read, and the key as it was then (None: there is no such key)."""
        answer = (await self.endpoints.call(RANGE, pb.RangeRequest(key=key))).message
        return answer.header.revision, _first(answer)

    async def list_prefix(self, prefix: bytes, page_size: int = 500) -> Listing:
        """All keys that begin with `prefix`, read page by page at one revision. A compaction that overtakes the
        reading makes it begin anew, at a newer revision.

        Raises:
            EtcdUnavailableError: also when compactions overtook it 8 times.
        """
        backoff = Backoff()
        for _ in range(_LISTING_TRIES):
            try:
                return await self._list_once(prefix, page_size)
            except EtcdHistoryGoneError:
                await backoff.pause()
        raise EtcdUnavailableError(f"etcd compacts faster than {prefix!r} can be listed")

    async def put(self, key: bytes, value: bytes, lease_id: int = 0) -> int:
        """Write a key, under a lease if `lease_id` is not 0. Returns the revision of the write; at least once.

        Raises:
            EtcdLeaseLostError: the lease is gone.
        """
        request = pb.PutRequest(key=key, value=value, lease=lease_id)
        return (await self.endpoints.call(PUT, request)).message.header.revision

    async def delete(self, key: bytes) -> bool:
        """Delete a key. True if it was there; after a retry False can also mean that the first try deleted it."""
        return (await self.endpoints.call(DELETE_RANGE, pb.DeleteRangeRequest(key=key))).message.deleted > 0

    async def delete_prefix(self, prefix: bytes) -> int:
        """Delete all keys that begin with `prefix`. How many they were (by the last try, if there were several)."""
        request = pb.DeleteRangeRequest(key=prefix, range_end=prefix_end(prefix))
        return (await self.endpoints.call(DELETE_RANGE, request)).message.deleted

    async def compare_and_swap(self, key: bytes, value: bytes, expected_mod_revision: int, lease_id: int = 0) -> Swap:
        """Write `value` if the key was last written at `expected_mod_revision` (0: if there is no such key).

        Applied at most once. A try whose outcome is unknown is followed by the same transaction, which holds the same
        condition and reads the key when it does not hold, so that looking and deciding are one step in etcd:
        the condition still holds -> written now; the key holds exactly `value` at a newer revision -> it is taken for
        ours, the earlier try succeeded (who must tell his write from an equal one puts something of his own into the
        value); another value -> ConflictError. The one exception to "at most once": with `expected_mod_revision` 0 a
        key that was made by the first try and deleted by somebody before the second is made again.

        Raises:
            ConflictError: an earlier try may have been applied, and somebody else has written since.
            EtcdUnavailableError: it may have been applied or not; read the key to know.
            EtcdLeaseLostError: the lease is gone; nothing was written.
        """
        write = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease_id))
        answer = await self.endpoints.call(TXN, _conditional_request(key, expected_mod_revision, write))
        revision = answer.message.header.revision
        if answer.message.succeeded:
            return Swap(succeeded=True, revision=revision, current=None)
        current = _first(answer.message.responses[0].response_range)
        if not answer.doubtful:
            return Swap(succeeded=False, revision=revision, current=current)
        if current and current.value == value and current.mod_revision > expected_mod_revision:
            return Swap(succeeded=True, revision=current.mod_revision, current=None)
        raise ConflictError(f"the key {key!r} was changed while the outcome of a write to it was unknown")

    async def compare_and_delete(self, key: bytes, expected_mod_revision: int) -> Swap:
        """Delete a key if its last write is still the expected one. A key that is gone is as good as deleted.

        Raises:
            EtcdUnavailableError: it may have been deleted or not; read the key to know.
        """
        delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
        request = _conditional_request(key, expected_mod_revision, delete)
        answer = (await self.endpoints.call(TXN, request)).message
        current = None if answer.succeeded else _first(answer.responses[0].response_range)
        return Swap(succeeded=current is None, revision=answer.header.revision, current=current)

    async def write_all(self, writes: Sequence[Write]) -> bool:
        """Make all these writes at one revision, or none. True: they are made, once. False: a key isn't as one of them
        expects, or was not when the outcome of an earlier try was unknown; then they may have been made by that try.
        At most 128 of different keys, and 1.5 MB together (etcd's own limits).

        Raises:
            EtcdUnavailableError: they may have been made or not; read the keys to know.
        """
        return not writes or (await self.endpoints.call(TXN, batch_request(writes))).message.succeeded

    async def pages(self, prefix: bytes, page_size: int = 1000) -> AsyncGenerator[Sequence[KeyValue], None]:
        """All keys that begin with `prefix`, ascending, page by page; each page as it was when it was read, so that a
        key that was written meanwhile may be seen before, after, or (a new one) not at all.
        """
        request = pb.RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=page_size)
        more = True
        while more:
            page = (await self.endpoints.call(RANGE, request)).message
            found = [KeyValue(kv.key, kv.value, kv.mod_revision) for kv in page.kvs]
            more = page.more
            if found:
                yield found
                request.key = found[-1].key + b"\0"

    async def next_key(self, start: bytes, prefix: bytes) -> bytes | None:
        """The first key from `start` on that begins with `prefix`; None: there is none."""
        request = pb.RangeRequest(key=start, range_end=prefix_end(prefix), limit=1, keys_only=True)
        found = (await self.endpoints.call(RANGE, request)).message.kvs
        return found[0].key if found else None

    async def compact(self, revision: int) -> None:
        """Forget the history before `revision`; for operators and tests."""
        await self.endpoints.call(COMPACT, pb.CompactionRequest(revision=revision, physical=True))

    async def status(self) -> EtcdStatus:
        """How the node in use is."""
        answer = (await self.endpoints.call(STATUS, pb.StatusRequest())).message
        return EtcdStatus(self.endpoints.current.address, answer.version, answer.leader != 0, answer.dbSize)

    def watch(
        self, prefix: bytes, *, stall_s: float = 5.0, on_heard: Callable[[], None] | None = None
    ) -> AsyncGenerator[Listed | Changed, None]:
        """Follow all keys that begin with `prefix`, for ever: first Listed, then each change exactly once, in order.

        Survives restarts, dead and stopped nodes and lost connections: it resumes where it was. When etcd has
        forgotten what is missing (compaction), or began anew (wiped), another Listed comes. A node that is silent
        for `stall_s`, although asked for a sign of life, is left. Close the generator (`contextlib.aclosing`).
        `on_heard`: called at every sign of life, so that silence shows how old the state may be.

        Raises:
            EtcdAuthError, EtcdRefusedError: trying on would not help.
        """

        async def take_listing() -> Listed:
            return Listed(*await self.list_prefix(prefix))

        return follow(self.endpoints, prefix, stall_s, take_listing, on_heard or (lambda: None))

    def watch_changes(self, prefix: bytes, *, stall_s: float = 5.0) -> AsyncGenerator[Gap | Changed, None]:
        """As `watch`, without reading the state: Gap stands where Listed would, first of all and whenever changes
        may have been missed. For who holds a few of very many keys and reads them when needed.
        """

        async def take_revision() -> Gap:
            return Gap((await self.get(prefix))[0])

        return follow(self.endpoints, prefix, stall_s, take_revision, lambda: None)

    async def aclose(self) -> None:
        """Close the connections. Calls that are under way end as cancelled."""
        await self.endpoints.aclose()

    async def _list_once(self, prefix: bytes, page_size: int) -> Listing:
        kvs: list[KeyValue] = []
        request = pb.RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=page_size)
        while True:
            page = (await self.endpoints.call(RANGE, request)).message
            request.revision = request.revision or page.header.revision
            kvs.extend(KeyValue(kv.key, kv.value, kv.mod_revision) for kv in page.kvs)
            if not page.more:
                return Listing(request.revision, tuple(kvs))
            request.key = kvs[-1].key + b"\0"


def _first(answer: pb.RangeResponse) -> KeyValue | None:
    return next((KeyValue(kv.key, kv.value, kv.mod_revision) for kv in answer.kvs), None)


def _conditional_request(key: bytes, expected_mod_revision: int, step: pb.RequestOp) -> pb.TxnRequest:
    """Do one step with a key if its last write is still the expected one, else read it."""
    look = pb.RequestOp(request_range=pb.RangeRequest(key=key))
    return pb.TxnRequest(compare=[unchanged(key, expected_mod_revision)], success=[step], failure=[look])
