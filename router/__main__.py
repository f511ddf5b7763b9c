"""`python -m router`: one router process, or with `--workers N` a supervisor and N of them on one port."""

from __future__ import annotations

import sys

from registry.process import end_with, on_stop_signals, prepare, run, until_stopped
from router.config import RouterConfig, parse


async def serve(config: RouterConfig) -> None:
    """Serve until a signal; prints the address on standard output when calls are taken."""
    from router.server import Router  # a supervisor has no use for it

    stop = on_stop_signals()
    router = Router(config)
    async with router.running() as follower:
        host = config.listen.rpartition(":")[0]
        print(f"router listening on {host}:{router.front.port}", flush=True)  # noqa: T201 - for whoever started it
        await until_stopped(stop, follower)


def supervise(arguments: list[str], config: RouterConfig) -> None:
    """Run workers until a signal."""
    from router.supervisor import Supervisor

    supervisor = Supervisor(arguments, config)
    run(supervisor.run())
    sys.exit(supervisor.status)


def main() -> None:
    """Run; a port that is taken ends with a message and status 1."""
    arguments = sys.argv[1:]
    config = parse(arguments)
    prepare()
    try:
        if config.workers > 1 and config.worker < 0:
            supervise(arguments, config)
        else:
            run(serve(config))
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    end_with(main)
