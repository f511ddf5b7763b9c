"""The scan of a header block against a complete HPACK decoder."""

from __future__ import annotations

from hpack import Decoder, Encoder, HPACKError
from hypothesis import example, given
from hypothesis import strategies as st

from registry.http2.field_scan import WANTED, scan

tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20).map(str.encode)
values = st.binary(max_size=200)
wanted = st.tuples(
    st.sampled_from(WANTED), st.sampled_from([b"POST", b"GET", b"/a.B/C", b"application/grpc", b"99m", b""])
)
fields = st.lists(wanted | st.tuples(tokens, values), max_size=12)


def encode(pairs: list[tuple[bytes, bytes]], *, huffman: bool) -> bytes:
    """A block of a peer with a table of size 0."""
    encoder = Encoder()
    encoder.header_table_size = 0
    encoder.encode([])  # takes the table-size update away
    return encoder.encode(pairs, huffman=huffman)


def decode(block: bytes) -> dict[bytes, bytes]:
    decoder = Decoder()
    decoder.header_table_size = 0
    return {name: value for name, value in decoder.decode(block, raw=True) if name in WANTED}


@given(fields, st.booleans())
def test_a_scan_finds_what_a_whole_decoding_finds(pairs: list[tuple[bytes, bytes]], huffman: bool) -> None:
    block = encode(pairs, huffman=huffman)
    found = scan(block)
    assert found in (None, decode(block))
    if all(len(value) < 120 for _name, value in pairs):
        assert found is not None


@given(
    st.binary(max_size=80) | fields.map(lambda pairs: encode(pairs, huffman=True)),
    st.integers(0, 80),
    st.integers(0, 255),
)
@example(b"\xbe", 0, 0xBE)
def test_a_damaged_block_is_left_to_the_whole_decoder_or_read_alike(block: bytes, at: int, byte: int) -> None:
    damaged = block[:at] + bytes([byte]) + block[at + 1 :]
    found = scan(damaged)
    if found is None:
        return
    try:
        whole = decode(damaged)
    except (HPACKError, UnicodeDecodeError):
        return  # a field that isn't wanted is broken; the scan never looks inside it
    assert found == whole


def test_a_long_value_that_is_not_wanted_is_skipped() -> None:
    block = encode([(b"authorization", b"x" * 200), (b":path", b"/a.B/C")], huffman=False)
    assert scan(block) == {b":path": b"/a.B/C"}


def test_a_table_size_update_is_left_to_the_whole_decoder() -> None:
    assert scan(b"\x20" + encode([(b":path", b"/a.B/C")], huffman=False)) is None
