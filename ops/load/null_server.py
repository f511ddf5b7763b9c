"""A server that answers every call at once with the same bytes: what a generator can do when nothing holds it.

`python -m ops.load.null_server TARGET BATCH` says its port on standard output and serves until its standard input ends.
It reads nothing of a request: an answer to a batch has BATCH results, in order.
"""

from __future__ import annotations

import asyncio
import sys

from ops.load.payloads import PATHS
from ops.load.spec import Target
from registry.front import Call, Method
from registry.process import end_with, prepare, run
from registry.server import listen
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_HIT, ScoreBatchResponse, ScoreResponse, ScoreResult
from scorer.wire import field

_SCORED = ScoreResponse(model_version="1", residency=RESIDENCY_HIT, served_by="nobody")


def answer_of(target: Target, batch: int) -> bytes:
    """What it says to a call."""
    if target is Target.BATCH:
        results = [ScoreResult(index=index, response=_SCORED) for index in range(batch)]
        return ScoreBatchResponse(results=results).SerializeToString()
    if target is Target.OIP:
        return field(1, b"nobody")  # The `model_name` of a ModelInferResponse.
    return _SCORED.SerializeToString()


async def serve(target: Target, batch: int) -> None:
    """See the module."""
    answer = answer_of(target, batch)

    def respond(call: Call) -> None:
        call.respond(answer)

    front = listen("127.0.0.1:0")
    path = PATHS[Target.SCORE if target is Target.CLIENT else target]
    await front.start([Method(path.decode(), respond)])
    sys.stdout.write(f"{front.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await front.stop()


def main() -> None:
    """Run."""
    prepare()
    target, batch = sys.argv[1:]
    run(serve(Target(target), int(batch)))


if __name__ == "__main__":
    end_with(main)
