"""The method Rebuild: progress while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from registry.ledger import Ledger
from registry.rebuild import Failure, Rebuilt, rebuild
from registry.service.names import parse_model, parse_tenant
from scoremesh.registry.v1 import registry_pb2 as pb


class Rebuilds:
    """See the module."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def run(self, request: pb.RebuildRequest) -> AsyncIterator[pb.RebuildResponse]:
        """Ends where it is when its caller leaves; whoever runs it again goes on."""
        _check_scope(request.name)
        progress: asyncio.Queue[Rebuilt | None] = asyncio.Queue()
        task = asyncio.create_task(rebuild(self._ledger, request.name, progress.put_nowait))
        task.add_done_callback(lambda _: progress.put_nowait(None))
        told = 0
        try:
            while (seen := await progress.get()) is not None:
                for message in _messages(seen, told):
                    yield message
                told = len(seen.failures)
            result = await task
            for message in _messages(result, told):
                yield message
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _messages(seen: Rebuilt, told: int) -> list[pb.RebuildResponse]:
    """One message for each failure after those that were told of, then the counts."""
    return [*(_response(seen, failure) for failure in seen.failures[told:]), _response(seen)]


def _response(seen: Rebuilt, failure: Failure | None = None) -> pb.RebuildResponse:
    name, why = failure if failure is not None else ("", "")
    is_model = "/models/" in name
    return pb.RebuildResponse(
        models=seen.models,
        written=seen.written,
        removed=seen.removed,
        failed=seen.failed,
        model=name if is_model else "",
        failure=why if is_model or not name else f"{name}: {why}",
        elapsed_s=seen.elapsed_s,
    )


def _check_scope(name: str) -> None:
    if "/models" in name:
        parse_model("name", name)
    elif name:
        parse_tenant("name", name)
