"""All servers of a comparison, running at the same time on one core: ours and those of others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import envoy, fleet
from bench.fleet import pins
from bench.models import BenchModel
from bench.peers import venvs
from bench.peers.measure import wait_until_right
from bench.peers.processes import confine
from bench.peers.protocols import SCORE
from bench.peers.servers import STARTERS, Served, Site

OURS = "scoremesh: router + scorer"
NAMES = {
    fleet.OURS: OURS,
    fleet.PLAIN: "grpc.aio router + our scorer",
    fleet.ENVOY: "Envoy + our scorer",
    fleet.DIRECT: "our scorer alone",
}
START_TIMEOUT_S = 240.0


@contextlib.contextmanager
def running(
    directory: Path, models: Sequence[BenchModel], only: Sequence[str], say: Callable[[str], None]
) -> Iterator[list[Served]]:
    """Start them, and wait until each answers right. `only`: names of environments; () for all. What can't be had is
    said and left out.
    """
    wanted = [name for name in NAMES if name != fleet.ENVOY or envoy.binary() is not None]
    if len(wanted) < len(NAMES):
        say(envoy.HOW_TO_GET)
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(fleet.running(directory, models, wanted, scorers=1))
        servers = [
            Served(NAMES[target.name], SCORE, target.port, [*([target.pid] if target.pid else []), *own.scorer_pids])
            for target in own.targets
        ]
        site = Site(stack, directory, models)
        for name, starter in STARTERS:
            if name and only and name not in only:
                continue
            missing = venvs.ensure(name, say) if name else ""
            if missing:
                say(f"{name} is left out: {missing}")
                continue
            servers += started(starter(site), models, say)
        yield servers


def started(served: Served, models: Sequence[BenchModel], say: Callable[[str], None]) -> list[Served]:
    """A server in a list when it answers right; an empty one, and a word on why, when it doesn't come up."""
    say(f"waiting for {served.name}")
    try:
        wait_until_right(served, models, START_TIMEOUT_S)
    except RuntimeError as error:
        say(f"{served.name} is left out: {error}")
        return []
    if pins()[0]:
        confine(served.roots, int(pins()[0][-1]))
    return [served]
