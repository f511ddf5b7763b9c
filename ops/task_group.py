"""Tasks that belong together, with one error instead of a group of them where the error is ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from registry.errors import ScoreMeshError


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """An `asyncio.TaskGroup`: the first failure, in a task or in the context, ends all. A ScoreMeshError is raised
    alone; anything else is a bug and comes as a group.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except* ScoreMeshError as failures:
        raise failures.exceptions[0] from None
