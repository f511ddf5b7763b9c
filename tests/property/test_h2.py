"""The HTTP/2 client against an independent implementation (the package h2, as the server), and against garbage."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from hypothesis import given
from hypothesis import strategies as st

from registry.http2 import frames as h2f
from router.h2 import H2Connection
from router.h2_events import ConnectionFailed, Ended, Event, Message

MAX_MESSAGE_BYTES = 1_000_000
sizes = st.integers(0, 300) | st.integers(0, 70_000)


def message(size: int, seed: int) -> bytes:
    return bytes((seed + at) & 0xFF for at in range(251)) * (size // 251) + b"e" * (size % 251)


def framed(payload: bytes) -> bytes:
    return struct.pack(">BI", 0, len(payload)) + payload


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


class Oracle:
    """A server that raises where the client breaks HTTP/2, a window or a frame size; answers each whole request."""

    def __init__(self, answers: list[bytes], window: int, max_frame: int, fragment: int, pad: int | None) -> None:
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        codes = h2.settings.SettingCodes
        self.connection.initiate_connection()
        self.connection.update_settings({codes.INITIAL_WINDOW_SIZE: window, codes.MAX_FRAME_SIZE: max_frame})
        self.answers = answers
        self.fragment = fragment
        self.pad = pad
        self.requests: dict[int, bytearray] = {}
        self.whole: dict[int, bytes] = {}
        self.received: list[tuple[int, int]] = []
        self.reset: set[int] = set()

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                assert event.stream_id is not None
                self.requests[event.stream_id] = bytearray()
            elif isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                assert event.data is not None
                self.requests[event.stream_id] += event.data
                self.received.append((event.stream_id, event.flow_controlled_length or 0))
            elif isinstance(event, h2.events.StreamEnded):
                assert event.stream_id is not None
                self.whole[event.stream_id] = bytes(self.requests[event.stream_id])
                self.answer(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                assert event.stream_id is not None
                self.reset.add(event.stream_id)

    def refuse(self, stream_id: int) -> None:
        self.reset.add(stream_id)
        self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)

    def answer(self, stream_id: int) -> None:
        self.connection.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        for fragment in pieces(b"".join(map(framed, self.answers)), self.fragment):
            self.connection.send_data(stream_id, fragment, pad_length=self.pad)
        self.connection.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

    def grant(self) -> None:
        """Let the client send again as much as it has sent."""
        received, self.received = self.received, []
        for stream_id, size in received:
            if size:
                self.connection.increment_flow_control_window(size)
                if stream_id not in self.whole and stream_id not in self.reset:
                    self.connection.increment_flow_control_window(size, stream_id)


def exchange(client: H2Connection, oracle: Oracle, cut: int) -> list[Event]:
    """Carry bytes both ways, in pieces of `cut` bytes, until both fall silent."""
    events: list[Event] = []
    while True:
        to_server = client.take_output()
        for piece in pieces(to_server, cut):
            oracle.receive(piece)
        oracle.grant()
        to_client = oracle.connection.data_to_send()
        for piece in pieces(to_client, cut):
            events += client.receive(piece)
        if not to_server and not to_client:
            return events


@given(
    requests=st.lists(sizes, min_size=1, max_size=5),
    answers=st.lists(sizes, max_size=5),
    window=st.integers(1, 100) | st.integers(1000, 200_000),
    later_window=st.none() | st.integers(1, 200_000),
    max_frame=st.integers(16_384, 100_000),
    fragment=st.integers(1, 16_000) | st.integers(500, 16_000),
    pad=st.none() | st.integers(0, 255),
    cut=st.integers(1, 50) | st.integers(1000, 100_000),
)
def test_all_messages_arrive_whole_and_no_window_is_exceeded(
    requests: list[int],
    answers: list[int],
    window: int,
    later_window: int | None,
    max_frame: int,
    fragment: int,
    pad: int | None,
    cut: int,
) -> None:
    # Tiny pieces of large messages only make the test slow.
    total = sum(requests) + len(requests) * sum(answers)
    window, fragment, cut = max(window, total // 300), max(fragment, total // 300), max(cut, total // 1000, 1)
    payloads = [message(size, seed) for seed, size in enumerate(requests)]
    expected = [message(size, seed) for seed, size in enumerate(answers)]
    oracle = Oracle(expected, window, max_frame, fragment, pad)
    client = H2Connection(b"/s.S/Run", b"host:1", max_message_bytes=MAX_MESSAGE_BYTES)
    client.receive(oracle.connection.data_to_send())
    oracle.receive(client.take_output())  # the oracle applies an acknowledged frame size only to the bytes fed later
    stream_ids = [client.open_stream(payload, 1.0) for payload in payloads]
    if later_window is not None:
        oracle.receive(client.take_output())
        later = max(later_window, total // 300, 1)
        oracle.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: later})
    events = exchange(client, oracle, cut)
    assert oracle.whole == {stream_id: framed(payload) for stream_id, payload in zip(stream_ids, payloads, strict=True)}
    for stream_id in stream_ids:
        mine = [event for event in events if isinstance(event, Message | Ended) and event.stream_id == stream_id]
        assert mine == [*(Message(stream_id, payload) for payload in expected), Ended(stream_id, 0, "", True)]
    assert client.open_streams == 0


@given(cancelled=st.sets(st.integers(0, 5)), refused=st.sets(st.integers(0, 5)), size=sizes, cut=st.integers(1, 5000))
def test_resets_of_either_side_leave_the_other_calls_alone(
    cancelled: set[int], refused: set[int], size: int, cut: int
) -> None:
    oracle = Oracle([b"answer"], 1000, 16_384, 16_000, None)
    client = H2Connection(b"/s.S/Run", b"host:1", max_message_bytes=MAX_MESSAGE_BYTES)
    client.receive(oracle.connection.data_to_send())
    stream_ids = [client.open_stream(message(size + 1000, seed), 1.0) for seed in range(6)]
    oracle.receive(client.take_output())
    for number in refused:
        oracle.refuse(stream_ids[number])
    for number in cancelled:
        client.cancel(stream_ids[number])
    events = exchange(client, oracle, cut)
    for number, stream_id in enumerate(stream_ids):
        mine = [event for event in events if isinstance(event, Message | Ended) and event.stream_id == stream_id]
        if number in cancelled:
            assert mine == []
        elif number in refused:
            assert [(event.status, event.sent) for event in mine if isinstance(event, Ended)] == [(14, False)]
        else:
            assert mine == [Message(stream_id, b"answer"), Ended(stream_id, 0, "", True)]


def transcript() -> bytes:
    """What a server sends for three calls."""
    oracle = Oracle([b"first", b"", b"x" * 3000], 65_535, 16_384, 700, 3)
    client = H2Connection(b"/s.S/Run", b"host:1", max_message_bytes=MAX_MESSAGE_BYTES)
    for _ in range(3):
        client.open_stream(b"request", 1.0)
    oracle.receive(client.take_output())
    oracle.connection.ping(b"12345678")
    oracle.connection.close_connection()
    return bytes(oracle.connection.data_to_send())


def check_events(events: list[Event]) -> None:
    """Nothing after the failure, and nothing of a call after its end."""
    over: set[int] = set()
    for at, event in enumerate(events):
        if isinstance(event, Message | Ended):
            assert event.stream_id not in over
            if isinstance(event, Ended):
                over.add(event.stream_id)
        if isinstance(event, ConnectionFailed):
            assert at == len(events) - 1
            assert over == {1, 3, 5}


def feed(data: bytes, cut: int) -> list[Event]:
    client = H2Connection(b"/s.S/Run", b"host:1", max_message_bytes=MAX_MESSAGE_BYTES)
    for size in (7, 70_000, 0):
        client.open_stream(bytes(size), 1.0)
    events = [event for piece in pieces(data, cut) for event in client.receive(piece)]
    return events + client.lose("the end")


mutations = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from("rid"), st.binary(min_size=1, max_size=9)), max_size=6
)


@given(changes=mutations, cut=st.integers(1, 6000))
def test_a_damaged_answer_never_raises(changes: list[tuple[int, str, bytes]], cut: int) -> None:
    data = bytearray(transcript())
    for anywhere, how, new in changes:
        at = anywhere % (len(data) + 1)
        data[at : at + (0 if how == "i" else len(new))] = b"" if how == "d" else new
    check_events(feed(bytes(data), cut))


frames = st.builds(
    h2f.frame,
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]) | st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 7]),
    st.binary(max_size=40) | st.sampled_from([bytes(4), bytes(8), b"\x88\x00", h2f.PREFIX.pack(0, 3) + b"abc"]),
)


@given(start=st.booleans(), rest=st.lists(frames, max_size=12), garbage=st.binary(max_size=30), cut=st.integers(1, 200))
def test_garbage_never_raises(start: bool, rest: list[bytes], garbage: bytes, cut: int) -> None:
    check_events(feed((h2f.settings([]) if start else b"") + b"".join(rest) + garbage, cut))
