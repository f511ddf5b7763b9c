"""Several writes in one transaction of etcd: all are made, or none. Pure: builds the request, sends nothing.

Each write holds a condition on its own key, so that one that somebody else has changed meanwhile is never overwritten,
and so that a request that is sent twice is applied once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from scoremesh.etcd.v1 import etcd_pb2 as pb

# etcd refuses more operations than 128 in a transaction (--max-txn-ops) and requests over 1.5 MB (--max-request-bytes).
MAX_WRITES = 120
MAX_BYTES = 1 << 20


class Write(NamedTuple):
    """Write a key (delete it, where `value` is None) if its last write is still the expected one; 0: if there is no
    such key.
    """

    key: bytes
    value: bytes | None
    expected_mod_revision: int


def batch_request(writes: Sequence[Write]) -> pb.TxnRequest:
    """The transaction that makes all these writes."""
    compare = [unchanged(write.key, write.expected_mod_revision) for write in writes]
    return pb.TxnRequest(compare=compare, success=[_step(write) for write in writes])


def batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    """Cut into transactions that etcd takes. A write that is too large by itself is alone in its batch."""
    batch: list[Write] = []
    size = 0
    for write in writes:
        bytes_more = 2 * len(write.key) + len(write.value or b"")
        if batch and (len(batch) == MAX_WRITES or size + bytes_more > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += bytes_more
    if batch:
        yield batch


def unchanged(key: bytes, expected_mod_revision: int) -> pb.Compare:
    """The condition that a key's last write is still the expected one; 0: that there is no such key."""
    return pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=key, mod_revision=expected_mod_revision)


def _step(write: Write) -> pb.RequestOp:
    if write.value is None:
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=write.key))
    return pb.RequestOp(request_put=pb.PutRequest(key=write.key, value=write.value))
