"""The beat of a worker's event loop, by which its supervisor knows that it runs."""

from __future__ import annotations

import asyncio

from scorer.in_flight import InFlight

BEAT_S = 0.25


class Heartbeat:
    """Beats each quarter of a second from now on, as long as the running event loop does, until `close`."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._loop = asyncio.get_running_loop()
        self._beat()

    def _beat(self) -> None:
        self._in_flight.beat()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def close(self) -> None:
        """Beat no more."""
        self._timer.cancel()
