from __future__ import annotations

from registry.etcd_position import Mark, WatchPosition
from registry.etcd_records import Changed, Deleted, KeyValue, Put
from scoremesh.etcd.v1 import etcd_pb2 as pb


def response(*events: pb.Event, revision: int = 100, cluster: int = 1, **fields: object) -> pb.WatchResponse:
    header = pb.ResponseHeader(revision=revision, cluster_id=cluster)
    return pb.WatchResponse(header=header, events=events, **fields)  # type: ignore[arg-type]


def put(revision: int, key: bytes = b"k", value: bytes = b"v") -> pb.Event:
    return pb.Event(type=pb.Event.PUT, kv=pb.KeyValue(key=key, value=value, mod_revision=revision))


def test_events_come_out_typed_and_move_the_position() -> None:
    position = WatchPosition(4)
    deletion = pb.Event(type=pb.Event.DELETE, kv=pb.KeyValue(key=b"k", mod_revision=7))
    step = position.fold(response(put(5), deletion))
    assert step == Changed(7, (Put(KeyValue(b"k", b"v", 5)), Deleted(b"k", 7)))
    assert position.next_revision == 8


def test_what_was_seen_does_not_come_again() -> None:
    position = WatchPosition(4)
    assert position.fold(response(put(3), put(4))) is Mark.ALIVE
    assert position.next_revision == 5


def test_fragments_are_put_together() -> None:
    position = WatchPosition(4)
    assert position.fold(response(put(5, b"a"), fragment=True)) is Mark.ALIVE
    assert position.next_revision == 5
    step = position.fold(response(put(5, b"b")))
    assert isinstance(step, Changed)
    assert [event.kv.key for event in step.events if isinstance(event, Put)] == [b"a", b"b"]


def test_fragments_of_a_broken_stream_are_dropped() -> None:
    position = WatchPosition(4)
    position.fold(response(put(5, b"a"), fragment=True))
    position.restart()
    step = position.fold(response(put(5, b"a"), put(5, b"b")))
    assert isinstance(step, Changed)
    assert len(step.events) == 2


def test_only_a_progress_notification_moves_the_position_by_the_header() -> None:
    position = WatchPosition(4)
    assert position.fold(response(created=True, revision=50)) is Mark.BEGUN
    assert position.fold(response(watch_id=-1, revision=60)) is Mark.ALIVE
    assert position.next_revision == 5
    assert position.fold(response(watch_id=0, revision=70)) is Mark.ALIVE
    assert position.next_revision == 71


def test_a_late_progress_notification_does_not_move_it_back() -> None:
    position = WatchPosition(4)
    position.fold(response(watch_id=0, revision=2))
    assert position.next_revision == 5


def test_a_store_that_is_behind_is_doubted() -> None:
    assert WatchPosition(40).fold(response(created=True, revision=39)) is Mark.UNSURE
    assert WatchPosition(40).fold(response(created=True, revision=40)) is Mark.BEGUN


def test_another_cluster_has_another_history() -> None:
    position = WatchPosition(4)
    assert position.fold(response(created=True, cluster=1)) is Mark.BEGUN
    assert position.fold(response(created=True, cluster=2)) is Mark.GONE


def test_the_ways_a_watch_is_cancelled() -> None:
    position = WatchPosition(4)
    assert position.fold(response(canceled=True, compact_revision=9)) is Mark.GONE
    denied = response(created=True, canceled=True, cancel_reason="etcdserver: permission denied")
    assert position.fold(denied) is Mark.FORBIDDEN
    token = response(
        canceled=True, cancel_reason="rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    )
    assert position.fold(token) is Mark.FORBIDDEN
    assert position.fold(response(canceled=True, cancel_reason="etcdserver: no leader")) is Mark.OVER
