"""The server's side of HTTP/2 against frames written by hand: what each frame of a client means, and what goes out."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable

import hpack
import pytest

from registry.failure import Code, Failure
from registry.http2 import frames as h2f
from registry.http2.answers import TURN_BYTES
from registry.http2.server_connection import MAX_STREAMS, ServerConnection
from registry.http2.server_events import Cancelled, Event, Request, Unreadable
from registry.http2.server_stream import MAX_HELD_BYTES

LIMIT_BYTES = 100_000
REQUEST_HEAD = b"".join(
    h2f.literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/s.S/Run"),
        (b"content-type", b"application/grpc"),
    )
)
OPENING = h2f.PREFACE + h2f.settings([])
FAILURE = Failure(Code.NOT_FOUND, "no such ä", "NONE")


def message(payload: bytes, *, compressed: int = 0) -> bytes:
    return h2f.PREFIX.pack(compressed, len(payload)) + payload


def headers(stream_id: int, block: bytes = REQUEST_HEAD, *, end: bool = False) -> bytes:
    return h2f.frame(h2f.HEADERS, h2f.END_HEADERS | (h2f.END_STREAM if end else 0), stream_id, block)


def data(stream_id: int, payload: bytes, *, end: bool = True) -> bytes:
    return h2f.frame(h2f.DATA, h2f.END_STREAM if end else 0, stream_id, payload)


def data_frames(stream_id: int, payload: bytes) -> bytes:
    """A payload of any size, in frames."""
    step = h2f.MIN_MAX_FRAME_BYTES
    starts = range(0, max(len(payload), 1), step)
    return b"".join(data(stream_id, payload[at : at + step], end=at + step >= len(payload)) for at in starts)


def call(stream_id: int, payload: bytes = b"hello") -> bytes:
    return headers(stream_id) + data(stream_id, message(payload))


def taken(connection: ServerConnection) -> bytes:
    return b"".join(iter(connection.answers.take_output, b""))


def sent_frames(connection: ServerConnection) -> list[tuple[int, int, int, bytes]]:
    return frames_of(taken(connection))


def frames_of(output: bytes) -> list[tuple[int, int, int, bytes]]:
    frames = []
    while output:
        word, flags, stream_id = h2f.HEAD.unpack_from(output)
        stop = h2f.HEAD_BYTES + (word >> 8)
        frames.append((word & 0xFF, flags, stream_id, output[h2f.HEAD_BYTES : stop]))
        output = output[stop:]
    return frames


def fields(block: bytes) -> dict[bytes, bytes]:
    return dict(hpack.Decoder().decode(block, raw=True))


def connected(*settings: tuple[int, int], limit_bytes: int = LIMIT_BYTES) -> ServerConnection:
    connection = ServerConnection(limit_bytes)
    assert connection.receive(h2f.PREFACE + h2f.settings(settings) + h2f.frame(h2f.SETTINGS, h2f.ACK, 0)) == []
    connection.answers.take_output()
    return connection


def with_call(*settings: tuple[int, int]) -> ServerConnection:
    connection = connected(*settings)
    assert connection.receive(call(1)) == [Request(1, "/s.S/Run", None, b"hello")]
    return connection


def goaway_code(connection: ServerConnection) -> int:
    assert connection.failed
    kind, _, _, payload = sent_frames(connection)[-1]
    assert kind == h2f.GOAWAY
    return h2f.read_word(payload, 4)


# --- the beginning ---


def test_the_first_bytes_are_settings_and_a_wider_window() -> None:
    settings, update = sent_frames(ServerConnection(LIMIT_BYTES))
    pairs = dict(h2f.read_settings(settings[3]))
    assert settings[:3] == (h2f.SETTINGS, 0, 0)
    assert pairs[h2f.HEADER_TABLE_SIZE] == 0
    assert pairs[h2f.MAX_CONCURRENT_STREAMS] == MAX_STREAMS
    assert pairs[h2f.INITIAL_WINDOW_SIZE] > LIMIT_BYTES
    assert (update[0], update[2]) == (h2f.WINDOW_UPDATE, 0)


def test_the_preface_may_be_cut_anywhere() -> None:
    connection = ServerConnection(LIMIT_BYTES)
    for byte in OPENING + call(1)[:-1]:
        assert connection.receive(bytes((byte,))) == []
    assert connection.greeted
    assert connection.receive(call(1)[-1:]) == [Request(1, "/s.S/Run", None, b"hello")]


@pytest.mark.parametrize(
    ("opening", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", h2f.PROTOCOL_ERROR),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", h2f.PROTOCOL_ERROR),  # TLS
        (h2f.PREFACE[:-1] + b"X", h2f.PROTOCOL_ERROR),
        (h2f.PREFACE + h2f.frame(h2f.PING, 0, 0, bytes(8)), h2f.PROTOCOL_ERROR),
        (h2f.PREFACE + h2f.frame(h2f.SETTINGS, h2f.ACK, 0), h2f.PROTOCOL_ERROR),
    ],
)
def test_what_does_not_begin_as_http2_is_refused(opening: bytes, code: int) -> None:
    connection = ServerConnection(LIMIT_BYTES)
    assert connection.receive(opening) == []
    assert goaway_code(connection) == code
    assert not connection.greeted
    assert connection.receive(OPENING + call(1)) == []
    assert connection.answers.take_output() == b""


@pytest.mark.parametrize(
    ("pair", "code"),
    [
        ((h2f.INITIAL_WINDOW_SIZE, 2**31), h2f.FLOW_CONTROL_ERROR),
        ((h2f.MAX_FRAME_SIZE, 16_383), h2f.PROTOCOL_ERROR),
        ((h2f.MAX_FRAME_SIZE, 2**24), h2f.PROTOCOL_ERROR),
        ((h2f.ENABLE_PUSH, 2), h2f.PROTOCOL_ERROR),
    ],
)
def test_impossible_settings(pair: tuple[int, int], code: int) -> None:
    connection = connected()
    connection.receive(h2f.settings([pair]))
    assert goaway_code(connection) == code


def test_settings_are_acknowledged_and_unknown_ones_ignored() -> None:
    connection = connected()
    assert connection.receive(h2f.settings([(0x99, 5), (h2f.MAX_HEADER_LIST_SIZE, 1)])) == []
    assert sent_frames(connection) == [(h2f.SETTINGS, h2f.ACK, 0, b"")]


# --- requests ---


def test_a_deadline_is_read() -> None:
    connection = connected()
    block = REQUEST_HEAD + h2f.literal(b"grpc-timeout", b"1500m")
    assert connection.receive(headers(1, block) + data(1, message(b""))) == [Request(1, "/s.S/Run", 1.5, b"")]


def test_a_request_may_come_in_many_pieces() -> None:
    connection = connected()
    pieces = [data(1, bytes((byte,)), end=False) for byte in message(b"hello")]
    assert connection.receive(headers(1) + data(1, b"", end=False) + b"".join(pieces)) == []
    assert connection.receive(data(1, b"")) == [Request(1, "/s.S/Run", None, b"hello")]


def test_padding_priority_and_continuation_are_taken_off() -> None:
    connection = connected()
    flags = h2f.PADDED | h2f.WITH_PRIORITY
    head = h2f.frame(h2f.HEADERS, flags, 1, b"\x03" + bytes(5) + REQUEST_HEAD[:7] + bytes(3))
    middle = h2f.frame(h2f.CONTINUATION, 0, 1, REQUEST_HEAD[7:9])
    last = h2f.frame(h2f.CONTINUATION, h2f.END_HEADERS, 1, REQUEST_HEAD[9:])
    body = h2f.frame(h2f.DATA, h2f.PADDED | h2f.END_STREAM, 1, b"\x02" + message(b"hello") + bytes(2))
    assert connection.receive(head + middle + last + body) == [Request(1, "/s.S/Run", None, b"hello")]


def test_padding_is_granted_again() -> None:
    """A window that is made for the message alone would run out under padding."""
    connection = connected()
    padded = h2f.frame(h2f.DATA, h2f.PADDED, 1, b"\x08" + message(b"hello")[:3] + bytes(8))
    assert connection.receive(headers(1) + padded) == []
    assert sent_frames(connection) == [(h2f.WINDOW_UPDATE, 0, 1, struct.pack(">I", 9))]


def test_a_message_of_exactly_the_limit() -> None:
    connection = connected()
    payload = bytes(LIMIT_BYTES)
    assert connection.receive(headers(1) + data_frames(1, message(payload))) == [Request(1, "/s.S/Run", None, payload)]


def test_a_message_over_the_limit_is_refused_at_its_prefix() -> None:
    connection = connected()
    (event,) = connection.receive(headers(1) + data(1, h2f.PREFIX.pack(0, LIMIT_BYTES + 1), end=False))
    assert isinstance(event, Unreadable)
    assert (event.failure.code, event.failure.reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert connection.receive(data(1, bytes(100), end=False)) == [], "it's said once"
    connection.answers.fail(1, event.failure)
    head, reset = sent_frames(connection)
    assert head[:3] == (h2f.HEADERS, h2f.END_HEADERS | h2f.END_STREAM, 1)
    assert reset == (h2f.RST_STREAM, 0, 1, bytes(4))
    assert connection.receive(data(1, bytes(100), end=False) + call(3)) == [Request(3, "/s.S/Run", None, b"hello")]
    assert connection.open_streams == [3]


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (headers(1, end=True), "no message"),
        (headers(1) + data(1, b""), "no message"),
        (headers(1) + data(1, b"\0\0\0\0"), "no message"),
        (headers(1) + data(1, message(b"hello")[:-1]), "ends inside"),
        (headers(1) + data(1, message(b"hello") + b"x"), "more than one"),
        (headers(1) + data(1, message(b"") * 2), "more than one"),
        (headers(1) + data(1, message(b"hello")[:-1], end=False) + headers(1, b"", end=True), "ends inside"),
    ],
)
def test_broken_requests(frames: bytes, text: str) -> None:
    connection = connected()
    (event,) = connection.receive(frames)
    assert isinstance(event, Unreadable)
    assert event.failure.code == Code.INTERNAL
    assert text in event.failure.message
    connection.answers.fail(1, event.failure)
    assert connection.open_streams == []
    assert [frame[0] for frame in sent_frames(connection)] == [h2f.HEADERS]


def test_large_requests_together_have_a_limit() -> None:
    """Requests that wait for each other's windows would wait for ever; so one of them is refused."""
    size = 8 * 2**20 - 1000
    connection = connected(limit_bytes=size)
    count = MAX_HELD_BYTES // size
    events: list[Event] = []
    for number in range(count + 1):
        stream_id = 2 * number + 1
        whole = message(bytes(size))[:-5]
        pieces = [data(stream_id, whole[at : at + 16_384], end=False) for at in range(0, len(whole), 16_384)]
        events += connection.receive(headers(stream_id) + b"".join(pieces))  # all but its last bytes
    (event,) = events
    assert isinstance(event, Unreadable)
    assert (event.failure.code, event.failure.reason) == (Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    connection.answers.fail(event.stream_id, event.failure)
    granted = sum(h2f.read_word(payload) for kind, _, sid, payload in sent_frames(connection) if kind == 8 and not sid)
    assert granted >= MAX_HELD_BYTES - 32 * 2**20, "the window of the connection stays open"
    for stream_id in connection.open_streams:
        (done,) = connection.receive(data(stream_id, bytes(5)))
        assert done == Request(stream_id, "/s.S/Run", None, bytes(size))
        connection.answers.respond(stream_id, b"")
    assert (connection.open_streams, connection._streams.held_bytes) == ([], 0)


# --- compression ---


def compressed_call(encoding: bytes, payload: bytes, flag: int = 1) -> bytes:
    block = REQUEST_HEAD + (h2f.literal(b"grpc-encoding", encoding) if encoding else b"")
    return headers(1, block) + data_frames(1, message(payload, compressed=flag))


@pytest.mark.parametrize(("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_requests(encoding: bytes, compress: Callable[[bytes], bytes]) -> None:
    for payload in (b"", b"hello" * 1000, bytes(LIMIT_BYTES)):
        events = connected().receive(compressed_call(encoding, compress(payload)))
        assert events == [Request(1, "/s.S/Run", None, payload)]
    whole = compress(b"hello")
    for damaged in (whole[:-1], whole[:-6], whole + b"x", whole * 2, b"", b"hello", bytes(20)):
        (event,) = connected().receive(compressed_call(encoding, damaged))
        assert isinstance(event, Unreadable)
        assert event.failure.code == Code.INTERNAL


def test_an_uncompressed_message_under_an_encoding() -> None:
    events = connected().receive(compressed_call(b"gzip", b"hello", flag=0))
    assert events == [Request(1, "/s.S/Run", None, b"hello")]


def test_a_bomb_is_refused_and_costs_no_memory() -> None:
    for bomb in (gzip.compress(bytes(LIMIT_BYTES + 1)), gzip.compress(bytes(50_000_000))):
        (event,) = connected().receive(compressed_call(b"gzip", bomb))
        assert isinstance(event, Unreadable)
        assert (event.failure.code, event.failure.reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")


def test_many_small_bombs_count_with_what_they_become() -> None:
    limit_bytes = 4 * 2**20
    connection = connected(limit_bytes=limit_bytes)
    bomb = gzip.compress(bytes(limit_bytes))
    events: list[Event] = []
    for number in range(40):
        block = REQUEST_HEAD + h2f.literal(b"grpc-encoding", b"gzip")
        frames = headers(2 * number + 1, block) + data_frames(2 * number + 1, message(bomb, compressed=1))
        events += connection.receive(frames)
    assert [isinstance(event, Request) for event in events] == [number < 32 for number in range(40)]
    assert connection._streams.held_bytes <= MAX_HELD_BYTES


@pytest.mark.parametrize(("encoding", "code"), [(b"zstd", Code.UNIMPLEMENTED), (b"", Code.INTERNAL)])
def test_a_compression_that_is_not_known(encoding: bytes, code: Code) -> None:
    (event,) = connected().receive(compressed_call(encoding, b"hello"))
    assert isinstance(event, Unreadable)
    assert event.failure.code == code


# --- answers ---


def test_an_answer_is_head_message_and_trailers() -> None:
    connection = with_call()
    connection.answers.respond(1, b"world")
    head, body, trailers = sent_frames(connection)
    assert head[:3] == (h2f.HEADERS, h2f.END_HEADERS, 1)
    assert fields(head[3]) == {b":status": b"200", b"content-type": b"application/grpc"}
    assert body == (h2f.DATA, 0, 1, message(b"world"))
    assert trailers[:3] == (h2f.HEADERS, h2f.END_HEADERS | h2f.END_STREAM, 1)
    assert fields(trailers[3]) == {b"grpc-status": b"0"}
    assert connection.open_streams == []


def test_a_failure_without_a_message_is_trailers_alone() -> None:
    connection = with_call()
    connection.answers.fail(1, FAILURE, (("grpc-status-details-bin", b"\xff\x00"), ("hint", "5")))
    (only,) = sent_frames(connection)
    assert only[:3] == (h2f.HEADERS, h2f.END_HEADERS | h2f.END_STREAM, 1)
    assert fields(only[3]) == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"5",
        b"grpc-message": b"no such %C3%A4",
        b"grpc-status-details-bin": b"/wA",
        b"hint": b"5",
    }


def test_a_stream_of_messages_that_fails() -> None:
    connection = with_call()
    for payload in (b"a", b"", b"c"):
        connection.answers.send(1, payload)
    connection.answers.fail(1, FAILURE)
    kinds = [(frame[0], frame[3]) for frame in sent_frames(connection)]
    assert [kind for kind, _ in kinds] == [h2f.HEADERS, h2f.DATA, h2f.DATA, h2f.DATA, h2f.HEADERS]
    assert [payload for kind, payload in kinds if kind == h2f.DATA] == [message(p) for p in (b"a", b"", b"c")]
    assert b":status" not in fields(kinds[-1][1])


def test_answering_a_call_that_is_over_does_nothing() -> None:
    connection = with_call((h2f.INITIAL_WINDOW_SIZE, 3))
    connection.answers.respond(1, b"world")  # it waits for a window, but it's said
    connection.answers.take_output()
    for _ in range(2):
        connection.answers.respond(1, b"again")
        connection.answers.send(1, b"again")
        connection.answers.end(1)
        connection.answers.fail(1, FAILURE)
        assert connection.answers.take_output() == b""
        connection.receive(h2f.window_update(1, 100))
        assert b"".join(f[3] for f in sent_frames(connection) if f[0] == h2f.DATA) in (message(b"world")[3:], b"")
    assert connection.open_streams == []


def test_no_window_is_exceeded() -> None:
    connection = with_call((h2f.INITIAL_WINDOW_SIZE, 0), (h2f.MAX_FRAME_SIZE, 20_000))
    payload = bytes(range(256)) * 400
    connection.answers.respond(1, payload)
    received = b""
    for grant in (1, 7, 30_000, 1_000_000):
        sent = sent_frames(connection)
        received += b"".join(frame[3] for frame in sent if frame[0] == h2f.DATA)
        connection.receive(h2f.window_update(1, grant))
    assert len(received) == 30_008
    assert list(connection.answers.blocked) == [1]
    connection.receive(h2f.window_update(0, 100_000))
    sent = sent_frames(connection)
    received += b"".join(frame[3] for frame in sent if frame[0] == h2f.DATA)
    assert max(len(frame[3]) for frame in sent) == 20_000
    assert received == message(payload)
    assert (sent[-1][0], connection.open_streams, connection.answers.blocked) == (h2f.HEADERS, [], {})


def test_a_window_that_is_granted_before_the_answer_counts() -> None:
    connection = with_call((h2f.INITIAL_WINDOW_SIZE, 10))
    connection.receive(h2f.window_update(1, 90_000) + h2f.window_update(0, 90_000))
    connection.answers.respond(1, bytes(80_000))
    assert len(taken(connection)) > 80_000
    assert connection.open_streams == []


def test_settings_change_the_windows_of_open_streams() -> None:
    connection = with_call((h2f.INITIAL_WINDOW_SIZE, 100))
    connection.answers.send(1, bytes(200))
    assert [len(frame[3]) for frame in sent_frames(connection) if frame[0] == h2f.DATA] == [100]
    connection.receive(h2f.settings([(h2f.INITIAL_WINDOW_SIZE, 0)]))  # the stream's window is -100 now
    connection.receive(h2f.window_update(1, 100))
    assert [frame for frame in sent_frames(connection) if frame[0] == h2f.DATA] == []
    connection.receive(h2f.settings([(h2f.INITIAL_WINDOW_SIZE, 50)]))
    assert [len(frame[3]) for frame in sent_frames(connection) if frame[0] == h2f.DATA] == [50]
    connection.receive(h2f.window_update(1, 1000))
    assert [len(frame[3]) for frame in sent_frames(connection) if frame[0] == h2f.DATA] == [55]


def test_large_answers_take_turns_and_small_ones_go_first() -> None:
    wide = 10 * TURN_BYTES
    connection = connected((h2f.INITIAL_WINDOW_SIZE, wide))
    for stream_id in (1, 3, 5):
        connection.receive(call(stream_id))
    connection.receive(h2f.window_update(0, wide))
    connection.answers.respond(1, bytes(2 * TURN_BYTES))
    connection.answers.send(3, bytes(2 * TURN_BYTES))
    first = connection.answers.take_output()
    assert TURN_BYTES <= len(first) < 1.01 * TURN_BYTES
    connection.answers.respond(5, b"small")
    second = connection.answers.take_output()
    assert second.index(b"small") < 200, "it waits for nothing but what was taken before"
    kinds = [(kind, stream_id) for kind, _, stream_id, _ in frames_of(first + second)]
    assert [place for place in kinds if place[0] == h2f.DATA][:4] == [(h2f.DATA, 1), (h2f.DATA, 3)] * 2
    connection.answers.end(3)
    taken(connection)
    assert (connection.open_streams, connection.answers.blocked) == ([], {})


def test_a_slow_reader_of_many_messages_costs_no_copies_of_all_of_them() -> None:
    """A byte at a time out of 20 MB; it would take minutes if each grant moved what remains."""
    connection = with_call((h2f.INITIAL_WINDOW_SIZE, 0))
    for _ in range(100):
        connection.answers.send(1, bytes(200_000))
    connection.receive(h2f.window_update(1, 1) * 20_000)
    assert sum(len(frame[3]) for frame in sent_frames(connection) if frame[0] == h2f.DATA) == 20_000


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (h2f.window_update(0, 0), h2f.PROTOCOL_ERROR),
        (h2f.window_update(1, 0), h2f.PROTOCOL_ERROR),
        (h2f.window_update(0, 2**31 - 1), h2f.FLOW_CONTROL_ERROR),
        (h2f.window_update(1, 2**31 - 1), h2f.FLOW_CONTROL_ERROR),
        (h2f.window_update(1, 2**31 - 70_000) + h2f.settings([(4, 2**31 - 1)]), h2f.FLOW_CONTROL_ERROR),
        (h2f.window_update(3, 1), h2f.PROTOCOL_ERROR),
        (h2f.rst_stream(3, 0), h2f.PROTOCOL_ERROR),
        (h2f.rst_stream(0, 0), h2f.PROTOCOL_ERROR),
        (h2f.rst_stream(2, 0), h2f.PROTOCOL_ERROR),
        (data(3, b""), h2f.PROTOCOL_ERROR),
        (data(0, b""), h2f.PROTOCOL_ERROR),
        (data(1, b""), h2f.STREAM_CLOSED),
        (headers(2), h2f.PROTOCOL_ERROR),
        (headers(0), h2f.PROTOCOL_ERROR),
        (headers(3, b"\x80"), h2f.COMPRESSION_ERROR),
        (h2f.frame(h2f.HEADERS, h2f.PADDED | h2f.END_HEADERS, 3, b"\x09abc"), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.HEADERS, h2f.WITH_PRIORITY | h2f.END_HEADERS, 3, b"abc"), h2f.FRAME_SIZE_ERROR),
        (headers(3) + h2f.frame(h2f.DATA, h2f.PADDED, 3, b""), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.PUSH_PROMISE, 0, 3, bytes(9)), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.CONTINUATION, 0, 1, b""), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.HEADERS, 0, 3, b"") + h2f.frame(h2f.CONTINUATION, 0, 5, b""), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.HEADERS, 0, 3, b"") + h2f.frame(h2f.PING, 0, 0, bytes(8)), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.PRIORITY, 0, 0, bytes(5)), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.PRIORITY, 0, 1, bytes(4)), h2f.FRAME_SIZE_ERROR),
        (h2f.frame(h2f.RST_STREAM, 0, 1, bytes(5)), h2f.FRAME_SIZE_ERROR),
        (h2f.frame(h2f.SETTINGS, 0, 0, bytes(5)), h2f.FRAME_SIZE_ERROR),
        (h2f.frame(h2f.SETTINGS, h2f.ACK, 0, bytes(6)), h2f.FRAME_SIZE_ERROR),
        (h2f.frame(h2f.SETTINGS, 0, 1, b""), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.PING, 0, 0, bytes(7)), h2f.FRAME_SIZE_ERROR),
        (h2f.frame(h2f.PING, 0, 1, bytes(8)), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.GOAWAY, 0, 1, bytes(8)), h2f.PROTOCOL_ERROR),
        (h2f.frame(h2f.WINDOW_UPDATE, 0, 0, bytes(3)), h2f.FRAME_SIZE_ERROR),
        (h2f.HEAD.pack(16_385 << 8 | h2f.DATA, 0, 1), h2f.FRAME_SIZE_ERROR),
    ],
)
def test_what_ends_a_connection(frames: bytes, code: int) -> None:
    connection = with_call()
    assert connection.receive(frames + call(7)) == [Cancelled(1)]
    assert goaway_code(connection) == code
    assert connection.open_streams == []


@pytest.mark.parametrize(
    "frames",
    [
        h2f.frame(h2f.PRIORITY, 0, 9, bytes(5)),
        h2f.frame(0x77, 0xFF, 9, b"unknown"),
        h2f.goaway(0, 0),
        h2f.frame(h2f.PING, h2f.ACK, 0, bytes(8)),
        headers(1, b""),
        call(3)[: -(9 + 10)] + h2f.rst_stream(3, 8),
    ],
)
def test_what_changes_nothing(frames: bytes) -> None:
    connection = with_call()
    assert connection.receive(frames) == []
    connection.answers.respond(1, b"")
    assert [frame[2] for frame in sent_frames(connection)] == [1, 1, 1]


def test_a_ping_is_answered() -> None:
    connection = connected()
    assert connection.receive(h2f.frame(h2f.PING, 0, 0, b"12345678")) == []
    assert sent_frames(connection) == [(h2f.PING, h2f.ACK, 0, b"12345678")]


def test_our_own_ping() -> None:
    connection = connected()
    connection.ping()
    assert sent_frames(connection) == [(h2f.PING, 0, 0, bytes(8))]


# --- what isn't gRPC ---


@pytest.mark.parametrize("ends", [True, False])
def test_another_content_type(ends: bool) -> None:
    connection = connected()
    block = REQUEST_HEAD.replace(b"application/grpc", b"application/json")
    assert connection.receive(headers(1, block, end=ends)) == []
    sent = sent_frames(connection)
    assert sent[0][:3] == (h2f.HEADERS, h2f.END_HEADERS | h2f.END_STREAM, 1)
    assert fields(sent[0][3]) == {b":status": b"415"}
    assert sent[1:] == ([] if ends else [(h2f.RST_STREAM, 0, 1, bytes(4))])
    assert connection.open_streams == []


# --- cancelling, floods, limits ---


def test_a_reset_cancels_once() -> None:
    connection = with_call()
    assert connection.receive(h2f.rst_stream(1, 8) * 2) == [Cancelled(1)]
    connection.answers.respond(1, b"late")
    assert connection.answers.take_output() == b""


def test_a_reset_before_the_request_is_whole_or_after_its_answer_is_silent() -> None:
    connection = connected((h2f.INITIAL_WINDOW_SIZE, 3))
    assert connection.receive(headers(1) + data(1, b"\0", end=False) + h2f.rst_stream(1, 8)) == []
    assert len(connection.receive(call(3))) == 1
    connection.answers.respond(3, b"answer")
    assert connection.receive(h2f.rst_stream(3, 8)) == []
    assert (connection.open_streams, connection.answers.blocked) == ([], {})


def test_rapid_resets_end_the_connection() -> None:
    connection = connected()
    flood = b"".join(call(2 * number + 1) + h2f.rst_stream(2 * number + 1, 8) for number in range(3000))
    connection.receive(flood)
    assert goaway_code(connection) == h2f.ENHANCE_YOUR_CALM


def test_resets_over_a_long_time_are_forgiven() -> None:
    connection = connected()
    for number in range(20_000):
        connection.receive(call(2 * number + 1) + h2f.rst_stream(2 * number + 1, 8))
        if number % 1000 == 0:
            connection.calm_down()
    assert not connection.failed


@pytest.mark.parametrize("frame", [h2f.settings([]), h2f.settings([(4, 100), (4, 200)]), h2f.settings([(4, 5)] * 900)])
def test_a_settings_flood_ends_the_connection(frame: bytes) -> None:
    connection = connected()
    connection.receive(b"".join(call(2 * number + 1) for number in range(MAX_STREAMS)))
    connection.receive(frame * 1000)
    assert goaway_code(connection) == h2f.ENHANCE_YOUR_CALM


def test_a_window_update_flood_looks_at_waiting_streams_once() -> None:
    """20,000 grants while 1,000 answers wait; it would take half a minute if each grant looked at all of them."""
    connection = connected((h2f.INITIAL_WINDOW_SIZE, 0))
    connection.receive(b"".join(call(2 * number + 1) for number in range(MAX_STREAMS)))
    for stream_id in connection.open_streams:
        connection.answers.respond(stream_id, b"answer")
    connection.receive(h2f.window_update(0, 1) * 20_000)
    assert len(connection.answers.blocked) == MAX_STREAMS


@pytest.mark.parametrize("piece", [b"", b"x", bytes(10_000)])
def test_a_continuation_flood_ends_the_connection(piece: bytes) -> None:
    connection = connected()
    flood = h2f.frame(h2f.HEADERS, 0, 1, b"") + h2f.frame(h2f.CONTINUATION, 0, 1, piece) * 100
    assert connection.receive(flood) == []
    assert goaway_code(connection) == h2f.ENHANCE_YOUR_CALM


def test_streams_over_the_limit_are_refused() -> None:
    connection = connected()
    assert len(connection.receive(b"".join(call(2 * number + 1) for number in range(MAX_STREAMS)))) == MAX_STREAMS
    over = 2 * MAX_STREAMS + 1
    assert connection.receive(call(over)) == []
    assert sent_frames(connection) == [(h2f.RST_STREAM, 0, over, struct.pack(">I", h2f.REFUSED_STREAM))]
    connection.answers.respond(1, b"")
    assert len(connection.receive(call(over + 2))) == 1
    flood = b"".join(headers(over + 4 + 2 * number) for number in range(3000))
    connection.receive(flood)
    assert goaway_code(connection) == h2f.ENHANCE_YOUR_CALM


def test_going_away_lets_running_calls_end_and_refuses_new_ones() -> None:
    connection = with_call()
    connection.go_away()
    connection.go_away()
    assert sent_frames(connection) == [(h2f.GOAWAY, 0, 0, struct.pack(">II", 1, h2f.NO_ERROR))]
    assert connection.receive(call(3) + headers(5, end=True)) == []
    refused = struct.pack(">I", h2f.REFUSED_STREAM)
    assert sent_frames(connection) == [(h2f.RST_STREAM, 0, 3, refused), (h2f.RST_STREAM, 0, 5, refused)]
    connection.answers.respond(1, b"")
    assert len(sent_frames(connection)) == 3
    connection.receive(b"\xff" * 9)
    assert h2f.read_word(sent_frames(connection)[-1][3]) == 1, "the last stream of a later GOAWAY isn't higher"


def test_the_window_of_the_connection_is_granted_again() -> None:
    connection = connected(limit_bytes=2**20)
    body = message(bytes(2**20))
    granted = 0
    for number in range(100):
        stream_id = 2 * number + 1
        connection.receive(headers(stream_id) + data_frames(stream_id, body))
        connection.answers.respond(stream_id, b"")
        sent = sent_frames(connection)
        granted += sum(
            h2f.read_word(payload) for kind, _, sid, payload in sent if kind == h2f.WINDOW_UPDATE and not sid
        )
    assert granted >= 64 * 2**20
