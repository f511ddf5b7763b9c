"""`python -m registry`: one registry process.

It runs on asyncio's own event loop. uvloop, which routers and scorers run on, forks as C's `fork` does, and gRPC's fork
handlers then crash some of the children before they become the program that tries models; asyncio forks by `vfork`,
which knows no handlers.
"""

from __future__ import annotations

import asyncio
import sys

from registry.config import RegistryConfig, parse
from registry.deployment import Deployment
from registry.errors import ScoreMeshError
from registry.process import end_with, on_stop_signals, prepare, until_stopped


async def serve(config: RegistryConfig) -> None:
    """Serve until a signal; prints the address on standard output when calls are taken."""
    stop = on_stop_signals()
    settings = config._asdict()
    listen = settings.pop("listen")
    async with Deployment(**settings) as deployment, deployment.guarding(), deployment.serving(listen) as port:
        host = listen.rpartition(":")[0]
        print(f"registry listening on {host}:{port}", flush=True)  # noqa: T201 - for whoever started it
        await until_stopped(stop)


def main() -> None:
    """Run; a port that is taken or settings that can't be ends with a message and status 1."""
    config = parse()
    prepare()
    try:
        asyncio.run(serve(config))
    except (OSError, ScoreMeshError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    end_with(main)
