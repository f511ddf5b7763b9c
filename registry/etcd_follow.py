"""Follows what lies under a prefix of etcd: the loop of all who hold a part of it in memory.

Contract: `apply` gets the events of a watch in their order, in the event loop; after a refusal by etcd, or a failure
that `apply` raises as one of ours, the watch is begun anew, with growing pauses until the next event. It ends with its
task and never by itself: while etcd is dead, what was applied stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing

from registry.errors import ScoreMeshError
from registry.etcd import Etcd
from registry.etcd_backoff import Backoff
from registry.etcd_records import Changed, Listed

_log = logging.getLogger(__name__)


async def follow(
    etcd: Etcd,
    prefix: bytes,
    apply: Callable[[Listed | Changed], None],
    what: str,
    *,
    on_heard: Callable[[], None] | None = None,
) -> None:
    """See the module. `what`: said in the log; `on_heard`: called at every sign of life of etcd."""
    backoff = Backoff()
    while True:
        try:
            async with aclosing(etcd.watch(prefix, on_heard=on_heard)) as events:
                async for event in events:
                    apply(event)
                    backoff.reset()
        except ScoreMeshError as error:
            _log.error("can't follow %s: %s", what, error)
        await backoff.pause()
