"""Reads whole lists of the registry, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ops.registry_link import Target, with_stub
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

PAGE_SIZE = 500


_Method = Callable[[Any], Awaitable[Any]]


def list_all(
    target: Target, method_of: Callable[[RegistryServiceStub], _Method], request: Any, field: str
) -> list[Any]:
    """Every entry of a list. `method_of`: a stub's method that lists. `request`: for the first page; it is changed.
    `field`: what has the entries. Raises what `with_stub` raises.
    """

    async def work(stub: RegistryServiceStub) -> list[Any]:
        return [entry async for entry in _all_pages(method_of(stub), request, field)]

    return with_stub(target, work)


async def _all_pages(method: _Method, request: Any, field: str) -> AsyncIterator[Any]:
    request.page_size = PAGE_SIZE
    while True:
        page = await method(request)
        for entry in getattr(page, field):
            yield entry
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
