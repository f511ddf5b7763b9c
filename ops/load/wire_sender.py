"""Sends requests by our own HTTP/2 client and notes what becomes of them.

Contract: `send` never waits. Each request is noted once. A connection that is lost is made anew by the channel;
requests on it end with UNAVAILABLE, as a caller without retries would see them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError

from ops.load.headers import Headers
from ops.load.outcomes import Notes
from ops.load.payloads import PATHS, Requests
from ops.load.spec import LoadSpec, Target
from registry.etcd import TlsFiles
from registry.failure import Code
from router.channel import Channel
from router.server import link_tls
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchResponse, ScoreResponse

Clock = Callable[[], float]
LEAST_S = 0.001  # what a request is given that leaves when its time is over


class WireSender:
    """See the module. `clock`: seconds since the begin."""

    def __init__(self, spec: LoadSpec, notes: Notes, clock: Clock) -> None:
        self.notes, self.clock = notes, clock
        self._deadline_s = spec.deadline_s
        self._requests = Requests(spec)
        self._headers = Headers(spec.headers, spec.models)
        self._receiver = {Target.SCORE: _Score, Target.BATCH: _Batch, Target.OIP: _Answered}[spec.target]
        path, tls = PATHS[spec.target], link_tls(_files(spec))
        addresses = [address for address in spec.addresses for _ in range(spec.connections)]
        self._channels = [Channel(address, path, ssl=tls) for address in addresses]
        self._turn = 0
        self.unfinished = 0

    def connect(self) -> None:
        """Begin to connect, before the first request is due."""
        for channel in self._channels:
            channel.connect()

    def send(self, first: int, end: int, now: float) -> None:
        """Send the requests at these places in one call."""
        notes = self.notes
        if self._receiver is _Batch:
            places = range(first, end)
            payload = self._requests.many([(notes.model[place], notes.rows[place]) for place in places])
            for place in places:
                notes.sent_s[place] = now
        else:
            payload = self._requests.one(notes.model[first], notes.rows[first])
            notes.sent_s[first] = now
        left_s = notes.due_s[first] + self._deadline_s - now
        self.unfinished += 1
        self._turn = (self._turn + 1) % len(self._channels)
        headers = self._headers.of(notes.model[first])
        self._channels[self._turn].call(payload, max(left_s, LEAST_S), self._receiver(self, first, end), headers)

    async def aclose(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.aclose()


def _files(spec: LoadSpec) -> TlsFiles | None:
    if spec.tls is None:
        return None
    cert, key = (Path(each) if each else None for each in (spec.tls.cert, spec.tls.key))
    return TlsFiles(Path(spec.tls.ca), cert, key)


class _Answered:
    """A call of a server that says nothing but the answer."""

    __slots__ = ("_end", "_first", "_message", "_sender")

    def __init__(self, sender: WireSender, first: int, end: int) -> None:
        self._sender, self._first, self._end, self._message = sender, first, end, b""

    def on_message(self, payload: bytes) -> None:
        """The one message of the answer."""
        self._message = payload

    def on_end(self, status: int, message: str, sent: bool) -> None:
        """The call is over; OK without a message is no answer."""
        sender = self._sender
        sender.unfinished -= 1
        now = sender.clock()
        if status == 0 and self._message:
            self._read(self._message, now)
        else:
            self._fail(status or Code.INTERNAL, message or "OK without an answer", now)

    def _read(self, message: bytes, now: float) -> None:
        self._sender.notes.answer(self._first, 0, now)

    def _fail(self, status: int, why: str, now: float) -> None:
        for place in range(self._first, self._end):
            self._sender.notes.fail(place, status, why, now)


class _Score(_Answered):
    """A Score call."""

    __slots__ = ()

    def _read(self, message: bytes, now: float) -> None:
        try:
            residency = ScoreResponse.FromString(message).residency
        except DecodeError:
            self._fail(Code.INTERNAL, "the answer is no ScoreResponse", now)
        else:
            self._sender.notes.answer(self._first, residency, now)


class _Batch(_Answered):
    """A ScoreBatch call."""

    __slots__ = ()

    def _read(self, message: bytes, now: float) -> None:
        notes = self._sender.notes
        left = {*range(self._first, self._end)}
        try:
            answer = ScoreBatchResponse.FromString(message)
        except DecodeError:
            answer = ScoreBatchResponse()
        for result in answer.results:
            place = self._first + result.index
            if place not in left:
                continue
            left.discard(place)
            if result.code:
                notes.fail(place, result.code, f"{result.reason}: {result.message}", now)
            else:
                notes.answer(place, result.response.residency, now)
        for place in left:
            notes.fail(place, Code.INTERNAL, "the answer of the batch doesn't have it", now)
