"""The Python client for product services: `Client` for threads, `AsyncClient` for asyncio. See docs/clients.md."""

from client.client import AsyncClient, Client
from client.codec import ScoreItem
from client.errors import ScoreError
from client.scores import Contributions, Output, OutputKind, Residency, Scores, Timing

__all__ = [
    "AsyncClient",
    "Client",
    "Contributions",
    "Output",
    "OutputKind",
    "Residency",
    "ScoreError",
    "ScoreItem",
    "Scores",
    "Timing",
]
