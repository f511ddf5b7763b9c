"""What the bytes of a client meant. Pure."""

from __future__ import annotations

from typing import NamedTuple

from registry.failure import Failure


class Request(NamedTuple):
    """A call came. `timeout_s`: what is left of its deadline, None without one."""

    stream_id: int
    path: str
    timeout_s: float | None
    payload: bytes


class Cancelled(NamedTuple):
    """The peer gave a call up, after its request had come."""

    stream_id: int


class Unreadable(NamedTuple):
    """A call came whose request can't be read; it's to be failed with this, at once."""

    stream_id: int
    failure: Failure


Event = Request | Cancelled | Unreadable
