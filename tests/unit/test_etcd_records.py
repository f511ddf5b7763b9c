from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.etcd_records import prefix_end


@given(st.binary(min_size=1, max_size=4), st.binary(max_size=6))
def test_the_range_of_a_prefix_holds_exactly_its_keys(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert (prefix <= key and (end == b"\0" or key < end)) == key.startswith(prefix)
