"""Runs a bulk rollout as a process of its own, to be killed: arguments store URL, etcd, cluster, bulk id. Prints a line
for each step.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

from registry.etcd import Etcd
from registry.keys import Keys
from registry.rollout.bulk import Bulk, BulkRequest
from registry.rollout.bulk_plan import Selection
from registry.store_urls import open_store
from tests.integration.publishing import open_ledger


async def run(store_url: str, endpoint: str, cluster: str, bulk_id: str) -> None:
    etcd = Etcd([endpoint])
    bulk = Bulk(open_ledger(open_store(store_url), etcd, Keys(cluster)))
    request = BulkRequest(Selection(application="leads"), bulk_id=bulk_id)
    async with aclosing(bulk.run(request)) as steps:
        async for step in steps:
            sys.stdout.write(f"{step.done}\n")
            sys.stdout.flush()
    await etcd.aclose()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
