"""Sends requests by our own HTTP/2 client and notes what becomes of them: about 15 us of CPU each.

Contract: `send` never waits. Each request is noted once in `Outcomes`. A connection that is lost is made anew by the
channel; requests on it end with UNAVAILABLE, as a caller without retries would see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from ops.load.outcomes import Outcomes
from ops.load.payloads import PATHS, Requests
from ops.load.spec import LoadSpec, Target
from registry.failure import Code
from router.channel import Channel
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchResponse, ScoreResponse

Clock = Callable[[], float]


class WireSender:
    """See the module. `clock`: seconds since the begin."""

    def __init__(self, spec: LoadSpec, outcomes: Outcomes, clock: Clock) -> None:
        self._outcomes, self._clock, self._deadline_s = outcomes, clock, spec.deadline_s
        self._requests = Requests(spec)
        self._asked: list[tuple[int, int]] = list(zip(outcomes.model.tolist(), outcomes.rows.tolist(), strict=True))
        self._due_s: list[float] = outcomes.due_s.tolist()
        self._receiver = {Target.SCORE: _Score, Target.BATCH: _Batch, Target.OIP: _Answered}[spec.target]
        path = PATHS[spec.target]
        self._channels = [Channel(address, path) for address in spec.addresses for _ in range(spec.connections)]
        self._turn = 0
        self.unfinished = 0

    def connect(self) -> None:
        """Begin to connect, before the first request is due."""
        for channel in self._channels:
            channel.connect()

    def send(self, places: Sequence[int], now: float) -> None:
        """Send the requests at these places in one call."""
        first = places[0]
        items = self._asked[first : first + len(places)]
        payload = self._requests.many(items) if self._receiver is _Batch else self._requests.one(*items[0])
        self._outcomes.sent_s[first : first + len(places)] = now
        left_s = self._due_s[first] + self._deadline_s - now
        self._turn += 1
        self.unfinished += 1
        channel = self._channels[self._turn % len(self._channels)]
        channel.call(payload, left_s, self._receiver(self, places))

    def note(self, place: int, status: int, residency: int) -> None:
        """What became of one."""
        self._outcomes.status[place] = status
        self._outcomes.residency[place] = residency
        self._outcomes.done_s[place] = self._clock()

    async def aclose(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.aclose()


class _Answered:
    """A call of a server that says nothing but the answer."""

    __slots__ = ("_message", "_places", "_sender")

    def __init__(self, sender: WireSender, places: Sequence[int]) -> None:
        self._sender, self._places, self._message = sender, places, b""

    def on_message(self, payload: bytes) -> None:
        """The one message of the answer."""
        self._message = payload

    def on_end(self, status: int, message: str, sent: bool) -> None:
        """The call is over; OK without a message is no answer."""
        self._sender.unfinished -= 1
        if status == 0 and not self._message:
            status = Code.INTERNAL
        if status == 0:
            self._read(self._message)
            return
        for place in self._places:
            self._sender.note(place, status, 0)

    def _read(self, message: bytes) -> None:
        self._sender.note(self._places[0], 0, 0)


class _Score(_Answered):
    """A Score call."""

    __slots__ = ()

    def _read(self, message: bytes) -> None:
        try:
            residency = ScoreResponse.FromString(message).residency
        except DecodeError:
            self._sender.note(self._places[0], Code.INTERNAL, 0)
        else:
            self._sender.note(self._places[0], 0, residency)


class _Batch(_Answered):
    """A ScoreBatch call."""

    __slots__ = ()

    def _read(self, message: bytes) -> None:
        left = {*self._places}
        try:
            answer = ScoreBatchResponse.FromString(message)
        except DecodeError:
            answer = ScoreBatchResponse()
        for result in answer.results:
            place = self._places[0] + result.index
            if place in left:
                left.discard(place)
                self._sender.note(place, result.code, result.response.residency)
        for place in left:
            self._sender.note(place, Code.INTERNAL, 0)
