"""Reads lists of the registry page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

PAGE_SIZE = 500


async def all_pages(method: Callable[[Any], Awaitable[Any]], request: Any, field: str) -> AsyncIterator[Any]:
    """Every entry of a list. `request`: for the first page; it is changed. `field`: what has the entries."""
    request.page_size = PAGE_SIZE
    while True:
        page = await method(request)
        for entry in getattr(page, field):
            yield entry
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
