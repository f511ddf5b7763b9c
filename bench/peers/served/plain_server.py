"""The server that one would write first: grpc.aio, all models in memory, `Booster.predict`."""

import argparse
import asyncio
import signal

import grpc

from bench.peers.served.answers import answer
from bench.peers.served.files import load, read_index
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, ScoreResponse
from scoremesh.scoring.v1.scoring_pb2_grpc import ScoringServiceServicer, add_ScoringServiceServicer_to_server


class Service(ScoringServiceServicer):
    """ScoringService.Score."""

    def __init__(self, index: dict[str, str]) -> None:
        self._boosters = {name: load(path) for name, path in index.items()}

    async def Score(self, request: ScoreRequest, context: grpc.aio.ServicerContext) -> ScoreResponse:  # noqa: N802
        booster = self._boosters.get(request.model)
        if booster is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such model")
        return answer(booster, request)


async def serve(index: str, port: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server()
    add_ScoringServiceServicer_to_server(Service(read_index(index)), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await stop.wait()
    await server.stop(1.0)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    asyncio.run(serve(args.index, args.port))


if __name__ == "__main__":
    main()
