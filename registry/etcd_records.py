"""What the etcd client gives and takes: plain values, without gRPC. Pure.

Revisions are etcd's: one counter for the whole store, one more for each write. A key's `mod_revision` is the revision
of its last write; 0 stands for "there is no such key".
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class TlsFiles(NamedTuple):
    """PEM files: whom to trust, and (for a cluster that asks for client certificates) who we are."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None


class KeyValue(NamedTuple):
    """One key as it was after the write at `mod_revision`."""

    key: bytes
    value: bytes
    mod_revision: int


class Listing(NamedTuple):
    """All keys under a prefix, ascending, as they were at one revision."""

    revision: int
    kvs: tuple[KeyValue, ...]


class Swap(NamedTuple):
    """Outcome of a compare-and-swap. `revision`: of the write, or of the look that found another value. `current`: what
    is there when it did not succeed (None: there is no such key).
    """

    succeeded: bool
    revision: int
    current: KeyValue | None


class EtcdStatus(NamedTuple):
    """How one node is, as it says itself."""

    endpoint: str
    version: str
    has_leader: bool
    database_bytes: int


class Put(NamedTuple):
    """A key was written."""

    kv: KeyValue


class Deleted(NamedTuple):
    """A key was deleted, or its lease ended, at `mod_revision`."""

    key: bytes
    mod_revision: int


class Listed(NamedTuple):
    """The whole state of a watched prefix. What was known before is void."""

    revision: int
    kvs: tuple[KeyValue, ...]


class Changed(NamedTuple):
    """What happened next, in the order of the revisions; `revision` is that of the last event."""

    revision: int
    events: tuple[Put | Deleted, ...]


class Gap(NamedTuple):
    """Any change up to `revision` may have gone unseen; from there on nothing is missing."""

    revision: int


def prefix_end(prefix: bytes) -> bytes:
    r"""The first key behind all that begin with `prefix`; b"\0", which means "no end" to etcd, when there is none."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"
