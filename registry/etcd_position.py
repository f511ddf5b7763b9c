"""Where a watch stands: what it has seen of the store's history, and what each message of etcd adds. Pure.

Invariants: each event comes out once, in the order of revisions, whole revisions only; `next_revision` is the first
revision that has not come out. It follows events, and progress notifications of this watch. It does not follow the
revision in the headers of other messages: the answer to a progress request carries the node's revision even when events
up to it are still to be sent (etcd before 3.4.25 and 3.5.8, etcd issue 15220).
"""

from __future__ import annotations

from enum import Enum

from registry.etcd_records import Changed, Deleted, KeyValue, Put
from scoremesh.etcd.v1 import etcd_pb2 as pb


class Mark(Enum):
    """What a message without events says."""

    ALIVE = "nothing new"
    BEGUN = "the watch begins; what comes is complete"
    UNSURE = "the node's store is behind what was seen: it lags, or it began anew"
    GONE = "the history that is missing is forgotten, or it is another cluster"
    FORBIDDEN = "not allowed, or the login is stale"
    OVER = "the node ended the watch"


class WatchPosition:
    """Begins behind `revision`, at which the state is known."""

    def __init__(self, revision: int) -> None:
        self.next_revision = revision + 1
        self._cluster_id = 0
        self._fragments: list[Put | Deleted] = []

    @property
    def seen_revision(self) -> int:
        """All changes up to here have come out."""
        return self.next_revision - 1

    def restart(self) -> None:
        """The stream broke: what came of an unfinished message will come again."""
        self._fragments = []

    def fold(self, response: pb.WatchResponse) -> Changed | Mark:
        """Take the next message of the stream."""
        if response.compact_revision:
            return Mark.GONE
        if response.canceled:
            reason = response.cancel_reason
            return Mark.FORBIDDEN if any(word in reason for word in ("permission", "auth", "user name")) else Mark.OVER
        if response.created:
            return self._begin(response.header)
        return self._take_events(response)

    def _begin(self, header: pb.ResponseHeader) -> Mark:
        if self._cluster_id not in (0, header.cluster_id):
            return Mark.GONE
        self._cluster_id = header.cluster_id
        return Mark.UNSURE if header.revision < self.seen_revision else Mark.BEGUN

    def _take_events(self, response: pb.WatchResponse) -> Changed | Mark:
        self._fragments += [_event(raw) for raw in response.events if raw.kv.mod_revision >= self.next_revision]
        if response.fragment:
            return Mark.ALIVE
        events, self._fragments = tuple(self._fragments), []
        if not events:
            # A progress notification of this watch (-1 would be the answer to a request): etcd sends it only to
            # a watch that has been given everything up to the header's revision.
            if not response.events and response.watch_id >= 0:
                self.next_revision = max(self.next_revision, response.header.revision + 1)
            return Mark.ALIVE
        self.next_revision = _revision(events[-1]) + 1
        return Changed(_revision(events[-1]), events)


def _event(raw: pb.Event) -> Put | Deleted:
    kv = raw.kv
    if raw.type == pb.Event.DELETE:
        return Deleted(kv.key, kv.mod_revision)
    return Put(KeyValue(kv.key, kv.value, kv.mod_revision))


def _revision(event: Put | Deleted) -> int:
    return event.mod_revision if isinstance(event, Deleted) else event.kv.mod_revision
