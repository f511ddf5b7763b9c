"""Sends requests by our Python client, as a product service would: what its callers see, retries included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

from client import AsyncClient, ScoreError
from ops.load.outcomes import Notes
from ops.load.payloads import RowPool
from ops.load.spec import LoadSpec, Tls
from ops.load.wire_sender import LEAST_S


class ClientSender:
    """As `ops.load.wire_sender.WireSender`."""

    def __init__(self, spec: LoadSpec, notes: Notes, clock: Callable[[], float]) -> None:
        self._spec, self._notes, self._clock = spec, notes, clock
        self._rows: RowPool[np.ndarray] = RowPool(spec.seed, lambda rows: rows)
        secure = None if spec.tls is None else _credentials(spec.tls)
        name = spec.addresses[0].rpartition(":")[0] if secure is not None and len(spec.addresses) > 1 else None
        addresses = spec.addresses[0] if len(spec.addresses) == 1 else spec.addresses
        self._clients = [AsyncClient(addresses, credentials=secure, server_name=name) for _ in range(spec.connections)]
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def unfinished(self) -> int:
        """Requests that wait for an answer."""
        return len(self._tasks)

    def connect(self) -> None:
        """The channels connect by themselves."""

    def send(self, first: int, end: int, now: float) -> None:
        """Send one request."""
        task = asyncio.get_running_loop().create_task(self._ask(first, now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, place: int, now: float) -> None:
        notes = self._notes
        notes.sent_s[place] = now
        model = self._spec.models[notes.model[place]]
        rows = self._rows.take(notes.rows[place], model.features)
        left_s = max(notes.due_s[place] + self._spec.deadline_s - now, LEAST_S)
        client = self._clients[place % len(self._clients)]
        try:
            scores = await client.score(model.tenant, model.model, rows, timeout_s=left_s)
        except ScoreError as error:
            notes.fail(place, error.code.value[0], f"{error.reason}: {error.message}", self._clock())
        else:
            notes.answer(place, scores.residency, self._clock())

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    ca, key, cert = (Path(each).read_bytes() if each else None for each in (tls.ca, tls.key, tls.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)
