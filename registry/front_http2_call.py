"""A call as the front `registry.front_http2` hands it to a handler. See `registry.front.Call`.

Invariant: `on_cancel` is called at most once, and an exception of it harms no other call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from registry.failure import Failure
from registry.status import trailers

if TYPE_CHECKING:
    from registry.front_http2_peer import Peer

_log = logging.getLogger(__name__)


class Call:
    """A unary call."""

    __slots__ = ("_id", "_peer", "deadline", "on_cancel", "payload")

    def __init__(self, peer: Peer, stream_id: int, payload: bytes, deadline: float) -> None:
        self._peer = peer
        self._id = stream_id
        self.payload = payload
        self.deadline = deadline
        self.on_cancel: Callable[[], None] | None = None

    def respond(self, payload: bytes) -> None:
        peer = self._peer
        if peer.finish(self._id):
            self.on_cancel = None  # it refers to whoever has the call: a cycle that would keep the request's bytes
            peer.answers.respond(self._id, payload)
            peer.flush_soon()

    def end(self) -> None:
        raise RuntimeError("a unary call ends with its response")

    def fail(self, failure: Failure) -> None:
        peer = self._peer
        if peer.finish(self._id):
            self.on_cancel = None
            peer.answers.fail(self._id, failure, trailers(failure))
            peer.flush_soon()

    def give_up(self, failure: Failure) -> None:
        """Fail the call and tell its handler that nobody waits any more."""
        on_cancel = self.on_cancel
        self.fail(failure)
        self.on_cancel = on_cancel
        self.cancel()

    def cancel(self) -> None:
        """Tell the handler, after the call was finished by others."""
        on_cancel, self.on_cancel = self.on_cancel, None
        if on_cancel is not None:
            try:
                on_cancel()
            except Exception:
                _log.exception("the end of a cancelled call failed")


class StreamCall(Call):
    """A call that answers with a stream."""

    __slots__ = ()

    def respond(self, payload: bytes) -> None:
        self._peer.answers.send(self._id, payload)
        self._peer.flush_soon()

    def end(self) -> None:
        if self._peer.finish(self._id):
            self.on_cancel = None
            self._peer.answers.end(self._id)
            self._peer.flush_soon()
