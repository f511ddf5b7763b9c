"""The server's side of HTTP/2 against an independent implementation (the package h2, as the client), and garbage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from hypothesis import given
from hypothesis import strategies as st

from registry.failure import Failure
from registry.http2 import frames as h2f
from registry.http2.server_connection import ServerConnection
from registry.http2.server_events import Cancelled, Event, Request, Unreadable

LIMIT_BYTES = 200_000
FAILURE = Failure(9, "not ä good", "REASON")
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s.S/Run"),
    (":authority", "host:1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
sizes = st.integers(0, 300) | st.integers(0, 70_000)


def message(size: int, seed: int) -> bytes:
    return bytes((seed + at) & 0xFF for at in range(251)) * (size // 251) + b"e" * (size % 251)


def framed(payload: bytes) -> bytes:
    return h2f.PREFIX.pack(0, len(payload)) + payload


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


class Plan(NamedTuple):
    """One call: sizes of the request and of the messages of the answer, and whether a failure ends it."""

    request: int
    answers: list[int]
    fails: bool


plans = st.builds(Plan, sizes, st.lists(sizes, max_size=4), st.booleans())


class Oracle:
    """A client that raises where the server breaks HTTP/2, a window or a frame size."""

    def __init__(self, window: int, max_frame: int, fragment: int, pad: int | None) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        self.connection.initiate_connection()
        self.connection.update_settings({codes.INITIAL_WINDOW_SIZE: window, codes.MAX_FRAME_SIZE: max_frame})
        self.fragment = fragment
        self.pad = pad
        self.unsent: dict[int, bytes] = {}
        self.bodies: dict[int, bytearray] = {}
        self.fields: dict[int, dict[bytes, bytes]] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.received: list[tuple[int, int]] = []

    def open(self, payload: bytes, number: int) -> int:
        stream_id = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream_id, [*HEADERS, ("grpc-timeout", f"{number + 1}S"), ("x-key", "a" * number)])
        self.bodies[stream_id] = bytearray()
        self.unsent[stream_id] = framed(payload)
        return stream_id

    def send(self) -> None:
        """Send of the requests what the server's windows allow."""
        for stream_id in list(self.unsent):
            while self._send_piece(stream_id):
                pass

    def _send_piece(self, stream_id: int) -> bool:
        """True when there may be more to send."""
        body = self.unsent[stream_id]
        extra = 0 if self.pad is None else self.pad + 1
        room = min(self.connection.local_flow_control_window(stream_id), self.connection.max_outbound_frame_size)
        size = min(self.fragment, room - extra, len(body))
        if size <= 0:
            return False
        ends = size == len(body)
        self.connection.send_data(stream_id, body[:size], end_stream=ends, pad_length=self.pad)
        self.unsent[stream_id] = body[size:]
        if ends:
            del self.unsent[stream_id]
        return not ends

    def cancel(self, stream_id: int) -> None:
        self.reset.add(stream_id)
        self.unsent.pop(stream_id, None)
        self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            stream_id = getattr(event, "stream_id", None) or 0
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                assert event.headers is not None
                self.fields.setdefault(stream_id, {}).update({bytes(k): bytes(v) for k, v in event.headers})
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[stream_id] += event.data or b""
                self.received.append((stream_id, event.flow_controlled_length or 0))
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(stream_id)
            assert not isinstance(event, h2.events.ConnectionTerminated), event

    def grant(self) -> None:
        """Let the server send again as much as it has sent."""
        received, self.received = self.received, []
        for stream_id, size in received:
            if size:
                self.connection.increment_flow_control_window(size)
                if stream_id not in self.ended and stream_id not in self.reset:
                    self.connection.increment_flow_control_window(size, stream_id)


def answer(server: ServerConnection, event: Request, plan: Plan) -> None:
    replies = [message(size, seed) for seed, size in enumerate(plan.answers)]
    if len(replies) == 1 and not plan.fails:
        server.answers.respond(event.stream_id, replies[0])
        return
    for reply in replies:
        server.answers.send(event.stream_id, reply)
    if plan.fails:
        server.answers.fail(event.stream_id, FAILURE, (("detail-bin", b"\xff\x00"),))
    else:
        server.answers.end(event.stream_id)


def exchange(server: ServerConnection, oracle: Oracle, by_id: dict[int, Plan], cut: int) -> list[Event]:
    """Carry bytes both ways, in pieces of `cut` bytes, until both fall silent; answer each request."""
    events: list[Event] = []
    while True:
        oracle.send()
        to_server = bytes(oracle.connection.data_to_send())
        for piece in pieces(to_server, cut):
            for event in server.receive(piece):
                events.append(event)
                if isinstance(event, Request):
                    answer(server, event, by_id[event.stream_id])
        to_client = server.answers.take_output()
        for piece in pieces(to_client, cut):
            oracle.receive(piece)
        oracle.grant()
        if not to_server and not to_client:
            return events


def started(window: int, max_frame: int, fragment: int, pad: int | None) -> tuple[ServerConnection, Oracle]:
    server, oracle = ServerConnection(LIMIT_BYTES), Oracle(window, max_frame, fragment, pad)
    server.receive(bytes(oracle.connection.data_to_send()))
    return server, oracle


@given(
    calls=st.lists(plans, min_size=1, max_size=5),
    window=st.integers(1, 100) | st.integers(1000, 200_000),
    later_window=st.none() | st.integers(1, 200_000),
    max_frame=st.integers(16_384, 100_000),
    fragment=st.integers(1, 16_000) | st.integers(500, 16_384),
    pad=st.none() | st.integers(0, 255),
    cut=st.integers(1, 50) | st.integers(1000, 100_000),
    early=st.booleans(),
)
def test_all_messages_arrive_whole_and_no_window_is_exceeded(
    calls: list[Plan],
    window: int,
    later_window: int | None,
    max_frame: int,
    fragment: int,
    pad: int | None,
    cut: int,
    early: bool,
) -> None:
    # Tiny pieces of large messages only make the test slow.
    total = sum(plan.request + sum(plan.answers) for plan in calls)
    window, fragment, cut = max(window, total // 300), max(fragment, total // 300), max(cut, total // 1000)
    if early:
        max_frame = 16_384  # h2 obeys its own acknowledged frame size only in the bytes that it's fed later
    server, oracle = started(window, max_frame, fragment, pad)
    if not early:  # else the first requests still use the client's header table
        exchange(server, oracle, {}, cut)
    by_id = {oracle.open(message(plan.request, n), n): plan for n, plan in enumerate(calls)}
    oracle.send()
    if later_window is not None and not early:  # h2 takes each acknowledgement for the next change that waits
        later = max(later_window, total // 300)
        oracle.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: later})
    events = exchange(server, oracle, by_id, cut)
    requests = {event.stream_id: event for event in events if isinstance(event, Request)}
    assert len(requests) == len(events) == len(calls)
    for number, (stream_id, plan) in enumerate(by_id.items()):
        expected = Request(stream_id, "/s.S/Run", number + 1.0, message(plan.request, number))
        assert requests[stream_id] == expected
        replies = b"".join(framed(message(size, seed)) for seed, size in enumerate(plan.answers))
        assert oracle.bodies[stream_id] == replies
        fields = oracle.fields[stream_id]
        assert (fields[b":status"], fields[b"content-type"]) == (b"200", b"application/grpc")
        if plan.fails:
            assert (fields[b"grpc-status"], fields[b"grpc-message"]) == (b"9", b"not %C3%A4 good")
            assert fields[b"detail-bin"] == b"/wA"
        else:
            assert fields[b"grpc-status"] == b"0"
        assert stream_id in oracle.ended
    assert (server.open_streams, server.answers.blocked, server._streams.held_bytes) == ([], {}, 0)


@given(
    cancelled=st.sets(st.integers(0, 5)),
    again=st.sets(st.integers(0, 5)),
    size=sizes,
    reply=sizes,
    cut=st.integers(1, 5000),
)
def test_resets_leave_the_other_calls_alone(
    cancelled: set[int], again: set[int], size: int, reply: int, cut: int
) -> None:
    server, oracle = started(1000, 16_384, 16_000, None)
    plan = Plan(size, [reply], False)
    by_id = {oracle.open(message(size, number), 0): plan for number in range(6)}
    ids = list(by_id)
    for number in again:  # nothing of these requests has left but their heads
        oracle.cancel(ids[number])
    oracle.send()
    for number in cancelled - again:
        oracle.cancel(ids[number])
    cut = max(cut, (size + reply) // 50)
    events = exchange(server, oracle, by_id, cut)
    for number, stream_id in enumerate(ids):
        mine = [type(event) for event in events if event.stream_id == stream_id]
        if number in again:
            assert mine == []
        elif number in cancelled:
            assert mine in ([], [Request], [Request, Cancelled])
        else:
            assert mine == [Request]
            assert oracle.bodies[stream_id] == framed(message(reply, 0))
    assert (server.open_streams, server.answers.blocked, server._streams.held_bytes) == ([], {}, 0)


def transcript() -> bytes:
    """What a client sends for three calls, with all kinds of frames."""
    oracle = Oracle(500, 16_384, 700, 3)
    for size in (7, 3000, 0):
        oracle.open(bytes(size), size % 5)
    oracle.send()
    oracle.connection.ping(b"12345678")
    oracle.connection.increment_flow_control_window(1000)
    oracle.connection.increment_flow_control_window(1000, 3)
    oracle.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 200})
    oracle.cancel(5)
    oracle.connection.prioritize(1, weight=20)
    oracle.connection.close_connection()
    return bytes(oracle.connection.data_to_send())


TRANSCRIPT = transcript()


def feed(data: bytes, cut: int, reply_bytes: int) -> None:
    """Whatever comes in: nothing is raised, each stream has its events in order, and no stream is left behind."""
    server = ServerConnection(LIMIT_BYTES)
    begun: set[int] = set()
    over: set[int] = set()
    for piece in pieces(data, cut):
        for event in server.receive(piece):
            if isinstance(event, Cancelled):
                assert event.stream_id in begun - over
                over.add(event.stream_id)
                continue
            assert event.stream_id not in begun
            begun.add(event.stream_id)
            if isinstance(event, Unreadable):
                over.add(event.stream_id)
                server.answers.fail(event.stream_id, event.failure)
            elif event.stream_id % 4 == 1:
                server.answers.respond(event.stream_id, bytes(reply_bytes))
        assert len(b"".join(server.answers.output)) < 40 * len(data) + 20_000 + 4 * reply_bytes
    unanswered = {sid for sid in server.open_streams if sid in begun and sid % 4 == 3}
    assert begun - over - unanswered <= {sid for sid in begun if sid % 4 == 1}
    for stream_id in server.open_streams:
        server.answers.drop(stream_id)
    assert (server.answers.blocked, server._streams.held_bytes) == ({}, 0)


mutations = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from("rid"), st.binary(min_size=1, max_size=9)), max_size=6
)


@given(changes=mutations, cut=st.integers(1, 6000), reply_bytes=sizes)
def test_damaged_requests_never_raise(changes: list[tuple[int, str, bytes]], cut: int, reply_bytes: int) -> None:
    data = bytearray(TRANSCRIPT)
    for anywhere, how, new in changes:
        at = anywhere % (len(data) + 1)
        data[at : at + (0 if how == "i" else len(new))] = b"" if how == "d" else new
    feed(bytes(data), cut, reply_bytes)


blocks = st.sampled_from(
    [
        b"\x83\x86\x44\x01/\x0f\x10\x10application/grpc",  # :method POST, :scheme http, :path /, content-type
        b"\x20\x83\x86\x44\x01/\x0f\x10\x10application/grpc\x00\x0cgrpc-timeout\x025S",
        b"\x20",
        b"\xbe",
    ]
)
frames = st.builds(
    h2f.frame,
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]) | st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 7]),
    st.binary(max_size=40) | blocks | st.sampled_from([bytes(4), bytes(8), b"\x00\x01\x00\x00", framed(b"abc")]),
)
calls_of_frames = st.builds(
    lambda sid, block, body: h2f.frame(1, 4, sid, block) + h2f.frame(0, 1, sid, body),
    st.sampled_from([1, 3, 5, 7, 9]),
    blocks,
    st.sampled_from([framed(b""), framed(b"abc"), framed(b"abc")[:-1], b"\x01" + framed(b"abc")[1:]]),
)


@given(
    start=st.booleans(),
    rest=st.lists(frames | calls_of_frames, max_size=12),
    garbage=st.binary(max_size=30),
    cut=st.integers(1, 200),
    reply_bytes=sizes,
)
def test_garbage_never_raises(start: bool, rest: list[bytes], garbage: bytes, cut: int, reply_bytes: int) -> None:
    opening = h2f.PREFACE + h2f.settings([]) + h2f.frame(h2f.SETTINGS, h2f.ACK, 0)
    feed((opening if start else b"") + b"".join(rest) + garbage, cut, reply_bytes)
