"""A process that publishes many files, to be killed: says "ready", then a line for each file.

python -m tests.chaos.bulk_publishing STORE_URL ETCD CLUSTER DIRECTORY
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

from registry.bulk_publish import Done, publish_item, publish_many, read_items
from registry.etcd import Etcd
from registry.keys import Keys
from registry.process import end_with
from registry.store_urls import open_store
from tests.integration.publishing import publisher, rewriting_admit


def say(done: Done) -> None:
    tell(f"{done.outcome.value} {done.item.ref} {done.version} {done.why}")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def run(store_url: str, etcd_endpoint: str, cluster: str, directory: str) -> None:
    etcd = Etcd([etcd_endpoint])
    try:
        mine = publisher(open_store(store_url), etcd, Keys(cluster), rewriting_admit)
        tell("ready")
        summary = await publish_many(partial(publish_item, mine), read_items(Path(directory)), 6, say)
        assert summary.failed == 0, summary.failures
    finally:
        await etcd.aclose()


if __name__ == "__main__":
    end_with(lambda: asyncio.run(run(*sys.argv[1:])))
