"""The HTTP/2 client against frames written by hand: what each answer of a server means, and what goes out."""

from __future__ import annotations

from collections.abc import Iterable

import hpack
import pytest

from registry.failure import Code
from registry.http2 import frames as h2f
from router.h2 import H2Connection
from router.h2_events import ConnectionFailed, Ended, Event, GoAway, Message, PingAcked, Ready
from router.h2_headers import encode_timeout
from router.h2_sender import TURN_BYTES

OK_HEAD = ((":status", "200"), ("content-type", "application/grpc"))
MAX_MESSAGE_BYTES = 1000


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(list(fields)))


def headers(stream_id: int, fields: Iterable[tuple[str, str]], *, end: bool = False) -> bytes:
    flags = h2f.END_HEADERS | (h2f.END_STREAM if end else 0)
    return h2f.frame(h2f.HEADERS, flags, stream_id, block(fields))


def data(stream_id: int, *messages: bytes, end: bool = False) -> bytes:
    payload = b"".join(h2f.PREFIX.pack(0, len(message)) + message for message in messages)
    return h2f.frame(h2f.DATA, h2f.END_STREAM if end else 0, stream_id, payload)


def trailers(stream_id: int, status: str = "0", message: str = "") -> bytes:
    return headers(stream_id, [("grpc-status", status), *([("grpc-message", message)] if message else [])], end=True)


def sent_frames(output: bytes) -> list[tuple[int, int, int, bytes]]:
    frames = []
    while output:
        word, flags, stream_id = h2f.HEAD.unpack_from(output)
        stop = h2f.HEAD_BYTES + (word >> 8)
        frames.append((word & 0xFF, flags, stream_id, output[h2f.HEAD_BYTES : stop]))
        output = output[stop:]
    return frames


def connected(*settings: tuple[int, int]) -> H2Connection:
    connection = H2Connection(b"/s.S/Run", b"host:1", max_message_bytes=MAX_MESSAGE_BYTES)
    assert connection.receive(h2f.settings(settings)) == [Ready()]
    connection.take_output()
    return connection


def with_call(payload: bytes = b"hello", *settings: tuple[int, int]) -> H2Connection:
    connection = connected(*settings)
    assert connection.open_stream(payload, 1.0) == 1
    connection.take_output()
    return connection


def ended(events: list[Event]) -> tuple[int, str, bool]:
    (event,) = events
    assert isinstance(event, Ended)
    return event.status, event.message, event.sent


def test_the_first_bytes_are_preface_settings_and_a_wider_window() -> None:
    output = H2Connection(b"/s.S/Run", b"host:1", max_message_bytes=1).take_output()
    assert output.startswith(h2f.PREFACE)
    settings, update = sent_frames(output.removeprefix(h2f.PREFACE))
    assert (h2f.HEADER_TABLE_SIZE, 0) in h2f.read_settings(settings[3])
    assert (h2f.ENABLE_PUSH, 0) in h2f.read_settings(settings[3])
    assert update[0] == h2f.WINDOW_UPDATE


def test_a_request_is_one_header_block_and_one_data_frame() -> None:
    connection = connected()
    field = h2f.literal(b"x-trace", b"abc")
    first, second = connection.open_stream(b"hello", 1.5, field), connection.open_stream(b"", 200.0)
    decoder = hpack.Decoder()
    head, body, next_head, next_body = sent_frames(connection.take_output())
    assert [head[2], next_head[2]] == [first, second] == [1, 3]
    assert dict(decoder.decode(head[3], raw=True)) == {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/s.S/Run",
        b":authority": b"host:1",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"user-agent": b"scoremesh",
        b"grpc-timeout": b"1500000u",
        b"x-trace": b"abc",
    }
    assert dict(decoder.decode(next_head[3], raw=True))[b"grpc-timeout"] == b"200000m"
    assert body == (h2f.DATA, h2f.END_STREAM, 1, b"\0\0\0\0\5hello")
    assert next_body == (h2f.DATA, h2f.END_STREAM, 3, b"\0\0\0\0\0")


def test_metadata_has_a_limit() -> None:
    with pytest.raises(ValueError, match="metadata"):
        connected().open_stream(b"", 1.0, b"x" * 9000)


@pytest.mark.parametrize(
    ("timeout_s", "value"),
    [(0.0, b"1u"), (-1.0, b"1u"), (0.05, b"50000u"), (100.0, b"100000m"), (1e5, b"100000S"), (1e12, b"99999999S")],
)
def test_timeouts_fit_in_eight_digits(timeout_s: float, value: bytes) -> None:
    assert encode_timeout(timeout_s) == h2f.literal(b"grpc-timeout", value)


def test_messages_come_in_order_and_then_the_status() -> None:
    connection = with_call()
    answer = headers(1, OK_HEAD) + data(1, b"a") + data(1, b"b", b"", b"c") + trailers(1)
    expected = [Message(1, b"a"), Message(1, b"b"), Message(1, b""), Message(1, b"c"), Ended(1, 0, "", True)]
    assert connection.receive(answer) == expected
    assert connection.open_streams == 0


def test_bytes_may_be_cut_anywhere() -> None:
    connection = with_call()
    answer = headers(1, OK_HEAD) + data(1, b"a") + data(1, b"bb", b"c") + trailers(1)
    events = [event for at in range(len(answer)) for event in connection.receive(answer[at : at + 1])]
    assert events == [Message(1, b"a"), Message(1, b"bb"), Message(1, b"c"), Ended(1, 0, "", True)]


def test_padding_priority_and_continuation_are_understood() -> None:
    connection = with_call()
    head = block(OK_HEAD)
    padded = bytes([3]) + b"\0" * 5 + head[:2] + b"\0\0\0"
    answer = h2f.frame(h2f.HEADERS, h2f.PADDED | h2f.WITH_PRIORITY, 1, padded)
    answer += h2f.frame(h2f.CONTINUATION, 0, 1, head[2:4]) + h2f.frame(h2f.CONTINUATION, h2f.END_HEADERS, 1, head[4:])
    answer += h2f.frame(h2f.DATA, h2f.PADDED, 1, b"\2\0\0\0\0\1xpp") + h2f.frame(99, 0, 7, b"unknown")
    assert connection.receive(answer + trailers(1)) == [Message(1, b"x"), Ended(1, 0, "", True)]


def test_a_status_message_is_percent_decoded() -> None:
    events = with_call().receive(
        headers(1, [*OK_HEAD, ("grpc-status", "5"), ("grpc-message", "n%C3%A9 %e2%98%83 +")], end=True)
    )
    assert events == [Ended(1, 5, "né ☃ +", True)]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (OK_HEAD, Code.UNKNOWN),
        ([(":status", "404"), ("content-type", "text/html")], Code.UNIMPLEMENTED),
        ([(":status", "503")], Code.UNAVAILABLE),
        ([(":status", "401")], Code.UNAUTHENTICATED),
        ([(":status", "418")], Code.UNKNOWN),
        ([*OK_HEAD, ("grpc-status", "x")], Code.UNKNOWN),
        ([*OK_HEAD, ("grpc-status", "8")], 8),
    ],
)
def test_a_head_alone_gives_a_status(fields: list[tuple[str, str]], status: int) -> None:
    assert ended(with_call().receive(headers(1, fields, end=True)))[0] == status


def test_an_answer_that_is_not_grpc_is_reset() -> None:
    connection = with_call()
    assert (
        ended(connection.receive(headers(1, [(":status", "502"), ("content-type", "text/html")])))[0]
        == Code.UNAVAILABLE
    )
    assert sent_frames(connection.take_output())[0][0] == h2f.RST_STREAM
    assert connection.receive(data(1, b"<html>", end=True)) == []


def test_interim_heads_are_skipped() -> None:
    answer = headers(1, [(":status", "103")]) + headers(1, OK_HEAD) + trailers(1)
    assert with_call().receive(answer) == [Ended(1, 0, "", True)]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (data(1, b"x"), Code.INTERNAL),
        (headers(1, OK_HEAD) + data(1, end=True), Code.INTERNAL),
        (headers(1, OK_HEAD) + headers(1, [("grpc-status", "0")]), Code.INTERNAL),
        (headers(1, OK_HEAD) + h2f.frame(h2f.DATA, 0, 1, b"\0\0\0\0\5abc") + trailers(1), Code.INTERNAL),
        (headers(1, OK_HEAD) + h2f.frame(h2f.DATA, 0, 1, b"\1\0\0\0\3abc"), Code.INTERNAL),
        (headers(1, OK_HEAD) + h2f.frame(h2f.DATA, 0, 1, b"\0\0\0\x03\xe9"), Code.RESOURCE_EXHAUSTED),
        (h2f.window_update(1, 0), Code.INTERNAL),
    ],
)
def test_a_bad_answer_ends_its_call_alone(answer: bytes, status: int) -> None:
    connection = with_call()
    other = connection.open_stream(b"", 1.0)
    assert ended(connection.receive(answer))[0] == status
    assert connection.receive(headers(other, OK_HEAD) + trailers(other)) == [Ended(other, 0, "", True)]


@pytest.mark.parametrize(
    ("code", "status", "sent"),
    [
        (h2f.REFUSED_STREAM, Code.UNAVAILABLE, False),
        (h2f.CANCEL, Code.CANCELLED, True),
        (h2f.ENHANCE_YOUR_CALM, Code.RESOURCE_EXHAUSTED, True),
        (h2f.INADEQUATE_SECURITY, Code.PERMISSION_DENIED, True),
        (h2f.NO_ERROR, Code.INTERNAL, True),
        (12345, Code.INTERNAL, True),
    ],
)
def test_resets_are_mapped(code: int, status: int, sent: bool) -> None:
    result = ended(with_call().receive(h2f.rst_stream(1, code)))
    assert (result[0], result[2]) == (status, sent)


def test_a_cancelled_call_gets_nothing_more() -> None:
    connection = with_call()
    connection.cancel(1)
    connection.cancel(1)
    assert sent_frames(connection.take_output()) == [(h2f.RST_STREAM, 0, 1, h2f.CANCEL.to_bytes(4, "big"))]
    assert connection.receive(headers(1, OK_HEAD) + data(1, b"x") + trailers(1)) == []


def test_goaway_ends_what_the_peer_has_not_read() -> None:
    connection = with_call()
    unread = connection.open_stream(b"", 1.0)
    connection.receive(h2f.goaway(h2f.MAX_STREAM_ID, h2f.NO_ERROR))
    events = connection.receive(h2f.goaway(1, h2f.NO_ERROR))
    assert events == [Ended(unread, Code.UNAVAILABLE, "the server is going away", False), GoAway(1)]
    assert not connection.can_open
    assert connection.draining
    assert connection.receive(headers(1, OK_HEAD) + trailers(1)) == [Ended(1, 0, "", True)]


def test_the_peer_limits_how_many_streams_are_open() -> None:
    connection = connected((h2f.MAX_CONCURRENT_STREAMS, 1))
    assert connection.can_open
    connection.open_stream(b"", 1.0)
    assert not connection.can_open
    connection.receive(trailers(1))
    assert connection.can_open
    assert not connection.draining


def test_a_connection_drains_when_its_ids_are_used_up() -> None:
    connection = connected()
    connection._next_id = h2f.MAX_STREAM_ID
    assert connection.open_stream(b"", 1.0) == h2f.MAX_STREAM_ID
    assert connection.draining
    assert not connection.can_open


def test_pings_are_answered_and_acks_told() -> None:
    connection = connected()
    assert connection.receive(h2f.frame(h2f.PING, 0, 0, b"12345678")) == []
    assert sent_frames(connection.take_output()) == [(h2f.PING, h2f.ACK, 0, b"12345678")]
    connection.ping()
    ((_, _, _, payload),) = sent_frames(connection.take_output())
    assert connection.receive(h2f.frame(h2f.PING, h2f.ACK, 0, b"somebody")) == []
    assert connection.receive(h2f.frame(h2f.PING, h2f.ACK, 0, payload)) == [PingAcked()]


def test_a_request_waits_for_the_window_of_its_stream_but_not_for_others() -> None:
    connection = connected((h2f.INITIAL_WINDOW_SIZE, 10))
    big, small = connection.open_stream(b"x" * 20, 1.0), connection.open_stream(b"abc", 1.0)
    sizes = [
        (stream_id, len(payload))
        for kind, _, stream_id, payload in sent_frames(connection.take_output())
        if kind == h2f.DATA
    ]
    assert sizes == [(small, 8), (big, 10)]
    assert not connection.is_sent(big)
    connection.receive(h2f.settings([(h2f.INITIAL_WINDOW_SIZE, 0)]))  # the window of the stream is now -10
    connection.receive(h2f.window_update(big, 10))
    assert [frame for frame in sent_frames(connection.take_output()) if frame[0] == h2f.DATA] == []
    connection.receive(h2f.window_update(big, 15))
    assert sent_frames(connection.take_output())[-1] == (h2f.DATA, h2f.END_STREAM, big, b"x" * 15)
    assert connection.is_sent(big)


def test_large_requests_take_turns_and_small_ones_go_first() -> None:
    connection = connected((h2f.INITIAL_WINDOW_SIZE, 10 * TURN_BYTES))
    connection.receive(h2f.window_update(0, 10 * TURN_BYTES))
    large = [connection.open_stream(bytes(2 * TURN_BYTES), 1.0) for _ in range(2)]
    first = connection.take_output()
    assert TURN_BYTES <= len(first) < 1.01 * TURN_BYTES
    small = connection.open_stream(b"small", 1.0)
    second = connection.take_output()
    assert second.index(b"small") < 200, "it waits for nothing but what was taken before"
    assert connection.is_sent(small)
    frames = sent_frames(first + second)
    assert [stream_id for kind, _, stream_id, _ in frames if kind == h2f.DATA and stream_id != small][:4] == large * 2
    connection.cancel(large[0])
    rest = sent_frames(b"".join(iter(connection.take_output, b"")))
    assert {stream_id for kind, _, stream_id, _ in rest if kind == h2f.DATA} == {large[1]}
    assert rest[-1][1] == h2f.END_STREAM


def test_a_peer_may_answer_before_it_has_read_the_request() -> None:
    connection = with_call(b"x" * 100_000)
    assert not connection.is_sent(1)
    assert connection.receive(trailers(1, "8", "too large")) == [Ended(1, 8, "too large", True)]
    assert sent_frames(connection.take_output()) == [(h2f.RST_STREAM, 0, 1, bytes(4))]
    connection.receive(h2f.window_update(0, 1_000_000))
    assert connection.take_output() == b""


def test_received_bytes_are_granted_anew_in_large_steps() -> None:
    connection = with_call()
    connection.receive(headers(1, OK_HEAD))
    frame = data(1, *[b"x" * 995] * 16)
    grants: dict[int, int] = {0: 0, 1: 0}
    count = 3000
    for _ in range(count):
        connection.receive(frame)
    updates = sent_frames(connection.take_output())
    for kind, _, stream_id, payload in updates:
        assert kind == h2f.WINDOW_UPDATE
        grants[stream_id] += h2f.read_word(payload)
    received = count * 16_000
    assert received - 8 * 2**20 <= grants[1] <= received
    assert received - 32 * 2**20 <= grants[0] <= received
    assert len(updates) < 10


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        h2f.frame(h2f.DATA, 0, 0, b"x"),
        h2f.frame(h2f.DATA, 0, 9, b"x"),
        h2f.frame(h2f.DATA, 0, 2, b"x"),
        headers(1, OK_HEAD) + h2f.frame(h2f.DATA, h2f.PADDED, 1, b"\5abc"),
        headers(1, OK_HEAD) + h2f.frame(h2f.DATA, h2f.PADDED, 1),
        h2f.frame(h2f.HEADERS, h2f.END_HEADERS, 1, b"\xff\xff\xff"),
        h2f.frame(h2f.HEADERS, h2f.END_HEADERS | h2f.WITH_PRIORITY, 1, b"abc"),
        h2f.frame(h2f.HEADERS, h2f.END_HEADERS, 9, block(OK_HEAD)),
        h2f.frame(h2f.HEADERS, 0, 1, b"") + h2f.frame(h2f.PING, 0, 0, bytes(8)),
        h2f.frame(h2f.HEADERS, 0, 1, b"") + h2f.frame(h2f.CONTINUATION, 0, 1, bytes(16_000)) * 5,
        h2f.frame(h2f.CONTINUATION, h2f.END_HEADERS, 1, b""),
        h2f.frame(h2f.PUSH_PROMISE, h2f.END_HEADERS, 1, bytes(4)),
        h2f.frame(h2f.SETTINGS, 0, 1),
        h2f.frame(h2f.SETTINGS, 0, 0, b"abc"),
        h2f.frame(h2f.SETTINGS, h2f.ACK, 0, bytes(6)),
        h2f.settings([(h2f.MAX_FRAME_SIZE, 1)]),
        h2f.settings([(h2f.INITIAL_WINDOW_SIZE, 2**31)]),
        h2f.settings([(h2f.ENABLE_PUSH, 1)]),
        h2f.frame(h2f.PING, 0, 0, b"short"),
        h2f.frame(h2f.GOAWAY, 0, 0, b"short"),
        h2f.frame(h2f.RST_STREAM, 0, 1, b"short"),
        h2f.rst_stream(9, 0),
        h2f.window_update(0, 0),
        h2f.window_update(0, 2**31 - 1),
        h2f.window_update(9, 1),
        h2f.HEAD.pack(20_000 << 8 | h2f.DATA, 0, 1),
    ],
)
def test_a_peer_that_breaks_the_protocol_loses_the_connection(answer: bytes) -> None:
    connection = with_call()
    last, failed = connection.receive(answer)
    assert isinstance(last, Ended)
    assert (last.status, last.sent) == (Code.UNAVAILABLE, True)
    assert isinstance(failed, ConnectionFailed)
    assert sent_frames(connection.take_output())[-1][0] == h2f.GOAWAY
    assert connection.receive(headers(1, OK_HEAD)) == []
    assert connection.lose("again") == []
    assert not connection.can_open


@pytest.mark.parametrize("first", [h2f.frame(h2f.PING, 0, 0, bytes(8)), h2f.frame(h2f.SETTINGS, h2f.ACK, 0)])
def test_the_first_frame_must_be_settings(first: bytes) -> None:
    connection = H2Connection(b"/s.S/Run", b"host:1", max_message_bytes=1)
    (failed,) = connection.receive(first)
    assert isinstance(failed, ConnectionFailed)


def test_a_lost_transport_tells_which_requests_were_not_sent() -> None:
    connection = with_call()
    waiting = connection.open_stream(b"x" * 100_000, 1.0)
    first, second, failed = connection.lose("gone")
    assert first == Ended(1, Code.UNAVAILABLE, "connection failed: gone", True)
    assert second == Ended(waiting, Code.UNAVAILABLE, "connection failed: gone", False)
    assert failed == ConnectionFailed("gone")
