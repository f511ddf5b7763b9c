"""`python -m scorer`: a supervisor and its workers; with `--workers 0`, or as a worker, one scorer process."""

from __future__ import annotations

import os
import sys

from registry.errors import ScoreMeshError
from registry.process import end_with, on_stop_signals, prepare, run, until_stopped
from scorer.config import ScorerConfig, of_worker, parse
from scorer.supervisor import Supervisor


async def serve(config: ScorerConfig) -> None:
    """Serve until a signal; prints the address on standard output when calls are taken."""
    from scorer.server import Scorer  # a supervisor has no use for engines and servers, which take much memory

    stop = on_stop_signals()
    scorer = Scorer(config)
    async with scorer.running() as follower:
        print(f"scorer {scorer.member.id} listening on {scorer.member.address}", flush=True)  # noqa: T201 - for whoever started it
        await until_stopped(stop, follower)


def supervise(arguments: list[str], config: ScorerConfig) -> None:
    """Run workers until a signal."""
    supervisor = Supervisor(arguments, config)
    run(supervisor.run())
    sys.exit(supervisor.status)


def main() -> None:
    """Run; a port that is taken or settings that can't be ends with a message and status 1."""
    arguments = sys.argv[1:]
    config = parse(arguments)
    if "MALLOC_ARENA_MAX" not in os.environ:
        # glibc reads it only at the start of a process; with it freed models give their memory back.
        os.environ["MALLOC_ARENA_MAX"] = "2"
        os.execv(sys.executable, [sys.executable, "-m", "scorer", *arguments])  # noqa: S606 - this very program again
    prepare()
    try:
        if config.workers and config.worker < 0:
            supervise(arguments, config)
        else:
            run(serve(of_worker(config, config.worker) if config.worker >= 0 else config))
    except (OSError, ScoreMeshError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    end_with(main)
