"""Ray Serve with a gRPC proxy and one replica. `--multiplexed N`: models come and go, N in memory, and a request names
its model by Ray's header; else all are in memory.
"""

import argparse
import logging
import signal
from typing import NamedTuple

import lightgbm
import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions

from bench.peers.served.answers import answer
from bench.peers.served.files import load, read_index
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, ScoreResponse

_TRIES = 5
_SERVICER = "scoremesh.scoring.v1.scoring_pb2_grpc.add_ScoringServiceServicer_to_server"


class AllInMemory:
    """Method Score of ScoringService."""

    def __init__(self, index: str) -> None:
        self._boosters = {name: load(path) for name, path in read_index(index).items()}

    async def Score(self, request: ScoreRequest) -> ScoreResponse:  # noqa: N802 - as in the proto
        return answer(self._boosters[request.model], request)


class Loaded(NamedTuple):
    """Ray calls `__del__` of a model that it puts out, and Python does again: a bare Booster would be freed twice."""

    booster: lightgbm.Booster


def multiplexed(most: int) -> type:
    """A deployment that has at most so many models in memory."""

    class Multiplexed:
        def __init__(self, index: str) -> None:
            self._paths = read_index(index)

        @serve.multiplexed(max_num_models_per_replica=most)
        async def model(self, name: str) -> Loaded:
            return Loaded(load(self._paths[name]))

        async def Score(self, request: ScoreRequest) -> ScoreResponse:  # noqa: N802 - as in the proto
            return answer((await self.model(serve.get_multiplexed_model_id())).booster, request)

    return Multiplexed


def _begin(directory: str) -> None:
    """Start Ray; it gives its own processes 30 s, which is too little on a busy machine."""
    # Two "CPUs" of Ray's bookkeeping, so that a replica always has a place; the kernel gives the whole one core.
    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "object_store_memory": 80 * 2**20}
    for left in reversed(range(_TRIES)):
        try:
            ray.init(_temp_dir=directory, **options)
        except Exception:
            if not left:
                raise
            ray.shutdown()
        else:
            return


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--multiplexed", type=int, default=0)
    args = parser.parse_args()
    _begin(args.directory)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host="127.0.0.1", port=args.http_port),
        grpc_options=gRPCOptions(port=args.port, grpc_servicer_functions=[_SERVICER]),
        logging_config={"enable_access_log": False},
    )
    deployment = multiplexed(args.multiplexed) if args.multiplexed else AllInMemory
    options = {"num_replicas": 1, "max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 1}}
    serve.run(serve.deployment(deployment, **options).bind(args.index), name="score")
    logging.getLogger(__name__).warning("ready")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
