"""`python -m router`: one router process."""

from __future__ import annotations

import sys

from registry.process import end_with, on_stop_signals, prepare, run, until_stopped
from router.config import RouterConfig, parse
from router.server import Router


async def serve(config: RouterConfig) -> None:
    """Serve until a signal; prints the address on standard output when calls are taken."""
    stop = on_stop_signals()
    router = Router(config)
    async with router.running() as follower:
        host = config.listen.rpartition(":")[0]
        print(f"router listening on {host}:{router.front.port}", flush=True)  # noqa: T201 - for whoever started it
        await until_stopped(stop, follower)


def main() -> None:
    """Run; a port that is taken ends with a message and status 1."""
    prepare()
    try:
        run(serve(parse()))
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    end_with(main)
