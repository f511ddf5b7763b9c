"""Header blocks of requests in all the ways in which clients encode them, and the blocks of failures."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import unquote

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from registry.http2 import request_head
from registry.http2.field_scan import scan
from registry.http2.frames import indexed_name, literal
from registry.http2.request_head import BlockError, RequestHead, RequestHeadDecoder, parse_timeout, trailers_block

PLAIN = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/s.S/Run"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
HEAD = RequestHead("/s.S/Run", "identity", 200)


def literals(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def tableless() -> RequestHeadDecoder:
    decoder = RequestHeadDecoder()
    decoder.on_table_forbidden()
    assert decoder.decode(b"\x20" + literals(PLAIN)) == (HEAD, None)
    return decoder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The blocks that were really read, not looked up."""
    blocks: list[bytes] = []

    def counting(block: bytes) -> dict[bytes, bytes] | None:
        blocks.append(block)
        return scan(block)

    monkeypatch.setattr(request_head, "scan", counting)
    return blocks


def test_a_client_that_uses_the_table_until_it_hears_of_our_settings() -> None:
    encoder, decoder = hpack.Encoder(), RequestHeadDecoder()
    fields = [*PLAIN, (b"grpc-timeout", b"50m"), (b"x-key", b"abc")]
    first, second = encoder.encode(fields), encoder.encode(fields)
    assert len(second) < len(first) / 2, "the second block refers to the table"
    for block in (first, second):
        assert decoder.decode(block) == (HEAD, 0.05)
    encoder.header_table_size = 0
    decoder.on_table_forbidden()
    for timeout, seconds in ((b"50m", 0.05), (b"3S", 3.0), (b"50m", 0.05)):
        block = encoder.encode([*PLAIN, (b"grpc-timeout", timeout), (b"x-key", b"abc")])
        assert decoder.decode(block) == (HEAD, seconds)


def test_a_table_that_is_only_flushed_is_still_used() -> None:
    """A client that doesn't know of our SETTINGS may shrink its table to 0 and grow it again in the same block."""
    decoder = RequestHeadDecoder()
    remembered = b"\x40\x05x-key\x03abc"
    assert decoder.decode(b"\x20\x3f\xe1\x1f" + literals(PLAIN) + remembered) == (HEAD, None)
    assert decoder.decode(literals(PLAIN) + b"\xbe") == (HEAD, None)  # index 62: the first of the table
    assert decoder.decode(b"\x20" + literals(PLAIN)) == (HEAD, None)  # 0 by its own choice: it may grow again
    assert decoder.decode(b"\x3f\xe1\x1f" + literals(PLAIN) + remembered) == (HEAD, None)
    decoder.on_table_forbidden()
    assert decoder.decode(b"\x20" + literals(PLAIN)) == (HEAD, None)
    with pytest.raises(BlockError):
        decoder.decode(b"\x3f\xe1\x1f" + literals(PLAIN))


@pytest.mark.parametrize("first", [b"\x00", b"\x10", b"\x40"])
def test_blocks_that_differ_in_their_deadline_are_decoded_once(decoded: list[bytes], first: bytes) -> None:
    decoder = tableless()
    decoded.clear()
    for milliseconds in range(1, 200):
        timeout = first + literal(b"grpc-timeout", b"%dm" % milliseconds)[1:]
        block = literals(PLAIN) + timeout + literal(b"x-key", b"abc")
        head, timeout_s = decoder.decode(block)
        assert (head, timeout_s) == (HEAD, milliseconds * 1e-3)
    assert len(decoded) == 1


def test_a_huffman_coded_deadline() -> None:
    decoder, encoder = tableless(), hpack.Encoder()
    encoder.header_table_size = 0
    encoder.encode([])
    for timeout, seconds in ((b"1000m", 1.0), (b"2000m", 2.0), (b"1000m", 1.0)):
        fields = [*PLAIN, (b"grpc-timeout", timeout)]
        assert decoder.decode(encoder.encode(fields, huffman=True)) == (HEAD, seconds)
        assert decoder.decode(encoder.encode(fields, huffman=False)) == (HEAD, seconds)
    coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(b"5S")
    field = b"\x00\x0cgrpc-timeout" + bytes((0x80 | len(coded),)) + coded
    assert decoder.decode(literals(PLAIN) + field) == (HEAD, 5.0)


def test_remembered_blocks_are_bounded(decoded: list[bytes]) -> None:
    decoder = tableless()
    blocks = [literals(PLAIN) + literal(b"x-trace", b"%d" % number) for number in range(5000)]
    for block in (*blocks, literals(PLAIN) + literal(b"x-large", bytes(2000))):
        assert decoder.decode(block) == (HEAD, None)
    assert len(decoder._remembered) <= request_head._MAX_REMEMBERED
    decoded.clear()
    assert decoder.decode(blocks[-1]) == (HEAD, None)
    assert decoded == []


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # an index without end
        b"\xbe",  # an entry of a table that is empty
        b"\x00",
        b"\x00\x05ab",
        b"\x00\x01a\x7f\xff\xff\xff\xff\x0f",  # a value longer than its block
        literals(PLAIN) + b"\x20",  # a table size after a field
        b"\x3f\xe2\x1f",  # a table of 4097 bytes
        literals(PLAIN) + b"\x00\x0cgrpc-timeout",
        literals(PLAIN) + b"\x00\x0cgrpc-timeout\x09",
        literals(PLAIN) + b"\x00\x0cgrpc-timeout\x01",
    ],
)
def test_blocks_that_break_hpack_end_the_connection(block: bytes) -> None:
    for decoder in (RequestHeadDecoder(), tableless()):
        with pytest.raises(BlockError):
            decoder.decode(block)


def test_a_field_that_does_not_count_is_looked_into_only_while_it_may_go_into_a_table() -> None:
    block = literals(PLAIN) + b"\x00\x81\xff\x00"  # no Huffman code
    with pytest.raises(BlockError):
        RequestHeadDecoder().decode(block)
    assert tableless().decode(block) == (HEAD, None)


def test_too_many_fields() -> None:
    block = literals(PLAIN) + literal(b"x", bytes(1000)) * 20
    with pytest.raises(BlockError, match="too many"):
        RequestHeadDecoder().decode(block)
    decoder = tableless()
    assert decoder.decode(block)[0].http_status == 431
    assert decoder.decode(literals(PLAIN)) == (HEAD, None), "without a table the next block isn't harmed"


@pytest.mark.parametrize(
    ("name", "value", "http_status"),
    [
        (b"content-type", b"application/grpc+proto", 200),
        (b"content-type", b"application/grpc;charset=utf-8", 200),
        (b"content-type", b"application/grpc-web", 415),
        (b"content-type", b"application/json", 415),
        (b":method", b"GET", 405),
    ],
)
def test_what_is_not_grpc(name: bytes, value: bytes, http_status: int) -> None:
    fields = {**dict(PLAIN), name: value}
    assert RequestHeadDecoder().decode(literals(fields.items()))[0].http_status == http_status


def test_a_path_need_not_be_text() -> None:
    head = RequestHeadDecoder().decode(literals([*PLAIN, (b":path", b"/\xff\xfe")]))[0]
    assert head.path == "/��"
    assert RequestHeadDecoder().decode(b"")[0] == RequestHead("", "identity", 415)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"40m", 0.04),
        (b"50u", 5e-5),
        (b"60n", 6e-8),
        (b"0n", 0.0),
        (b"99999999S", 99999999.0),
        *[(text, None) for text in (b"", b"S", b"5", b"-5S", b"+5S", b"5x", b"5.0S", b"1_0S", b"123456789S", b" 5S")],
    ],
)
def test_timeouts(text: bytes, seconds: float | None) -> None:
    assert parse_timeout(text) == (None if seconds is None else pytest.approx(seconds))


def fields_of(block: bytes) -> dict[bytes, bytes]:
    return dict(hpack.Decoder(max_header_list_size=1 << 20).decode(block, raw=True))


@pytest.mark.parametrize("text", ["simple, with space", "äöü\n100 %", "\x00\x7f~", "😀", "\ud800"])
def test_a_message_is_percent_encoded(text: str) -> None:
    fields = fields_of(trailers_block(8, text, ()))
    raw = fields[b"grpc-message"]
    assert fields[b"grpc-status"] == b"8"
    assert all(0x20 <= byte < 0x7F for byte in raw)
    assert unquote(raw.decode()) == text.encode(errors="replace").decode()


def test_binary_metadata_is_base64_without_padding() -> None:
    fields = fields_of(trailers_block(5, "", [("detail-bin", b"\x00\xff\x01\x02"), ("note", "text")]))
    assert fields == {b"grpc-status": b"5", b"detail-bin": b"AP8BAg", b"note": b"text"}
    assert base64.b64decode(fields[b"detail-bin"] + b"==") == b"\x00\xff\x01\x02"


def test_trailers_never_outgrow_what_clients_take() -> None:
    block = trailers_block(13, "ä%" * 5000, [("large-bin", bytes(6000)), ("small", "here")])
    fields = fields_of(block)
    assert len(block) <= 8192
    assert set(fields) == {b"grpc-status", b"grpc-message", b"small"}
    assert ("ä%" * 5000).startswith(unquote(fields[b"grpc-message"].decode(), errors="strict"))


def test_a_refusal_is_a_status_alone() -> None:
    assert fields_of(request_head.http_refusal_block(415)) == {b":status": b"415"}
    assert fields_of(indexed_name(8, b"431")) == {b":status": b"431"}
