"""A server that answers every Score call at once with the same bytes: what a generator can do when nothing holds it.

`python -m ops.load.null_server` says its port on standard output and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

from ops.load.payloads import PATHS
from ops.load.spec import Target
from registry.front import Call, Method
from registry.process import end_with, prepare, run
from registry.server import listen
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_HIT, ScoreResponse

_ANSWER = ScoreResponse(model_version="1", residency=RESIDENCY_HIT, served_by="nobody").SerializeToString()


def _answer(call: Call) -> None:
    call.respond(_ANSWER)


async def serve() -> None:
    """See the module."""
    front = listen("127.0.0.1:0")
    await front.start([Method(PATHS[Target.SCORE].decode(), _answer)])
    sys.stdout.write(f"{front.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await front.stop()


def main() -> None:
    """Run."""
    prepare()
    run(serve())


if __name__ == "__main__":
    end_with(main)
