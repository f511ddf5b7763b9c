"""Sends requests by our Python client, as a product service would: what its callers see, retries included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from client import AsyncClient, ScoreError
from ops.load.outcomes import Outcomes
from ops.load.payloads import Requests
from ops.load.spec import LoadSpec


class ClientSender:
    """As `ops.load.wire_sender.WireSender`."""

    def __init__(self, spec: LoadSpec, outcomes: Outcomes, clock: Callable[[], float]) -> None:
        self._spec, self._outcomes, self._clock = spec, outcomes, clock
        self._requests = Requests(spec)
        self._clients = [AsyncClient(spec.addresses) for _ in range(spec.connections)]
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def unfinished(self) -> int:
        """Requests that wait for an answer."""
        return len(self._tasks)

    def connect(self) -> None:
        """The channels connect by themselves."""

    def send(self, places: Sequence[int], now: float) -> None:
        """Send one request."""
        task = asyncio.get_running_loop().create_task(self._ask(places[0], now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, place: int, now: float) -> None:
        outcomes, spec = self._outcomes, self._spec
        outcomes.sent_s[place] = now
        model = spec.models[int(outcomes.model[place])]
        rows = self._requests.rows(int(outcomes.model[place]), int(outcomes.rows[place]))
        left_s = outcomes.due_s[place] + spec.deadline_s - now
        client = self._clients[place % len(self._clients)]
        try:
            scores = await client.score(model.tenant, model.model, rows, timeout_s=left_s)
            outcomes.status[place], outcomes.residency[place] = 0, scores.residency
        except ScoreError as error:
            outcomes.status[place] = error.code.value[0]
        outcomes.done_s[place] = self._clock()

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()
