"""A load without pause over many models, popular ones and hardly asked for ones: one process, one connection.

Which model each request asks for is drawn once, by Zipf's law, from a seed, so that every server gets the same
sequence; `--skip` goes on where another run ended. Reads requests and models' names from a JSON file; writes the
latencies, where our servers say the model was, and the time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

from registry.http2.frames import literal
from router.channel import Channel
from scoremesh.scoring.v1.scoring_pb2 import ScoreResponse

TIMEOUT_S = 30.0
_KINDS = ("not told", "memory", "disk", "object storage")


def sequence(models: int, zipf: float, count: int, skip: int, seed: int = 5) -> np.ndarray:
    """Numbers of models, `count` of them after `skip`. The model of rank r comes in proportion to r to the -zipf."""
    random = np.random.default_rng(seed)
    ranking = random.permutation(models)
    weights = np.arange(1, models + 1, dtype=np.float64) ** -zipf
    cumulated = np.cumsum(weights)
    drawn = random.random(skip + count)[skip:] * cumulated[-1]
    return np.asarray(ranking[np.searchsorted(cumulated, drawn, side="right")])


class Slot:
    """One request in flight after the other."""

    def __init__(self, load: ManyLoad) -> None:
        self._load = load
        self._begun = 0.0
        self._answer = b""

    def begin(self) -> None:
        """Send the next one, if there is one left."""
        self._answer, self._begun = b"", time.perf_counter()
        self._load.send(self)

    def on_message(self, payload: bytes) -> None:
        self._answer = payload

    def on_end(self, status: int, message: str, sent: bool) -> None:
        self._load.note(time.perf_counter() - self._begun, status, message, self._answer)
        self.begin()


class ManyLoad:
    """See the module. `finished`: when all are answered."""

    def __init__(self, channel: Channel, requests: list[bytes], headers: list[bytes], chosen: list[int]) -> None:
        self._channel, self._requests, self._headers = channel, requests, headers
        self._left, self._waiting = iter(chosen), len(chosen)
        self.latency_s: list[float] = []
        self.answers: list[bytes] = []
        self.failures: Counter[str] = Counter()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, slot: Slot) -> None:
        """Make a call for a slot."""
        number = next(self._left, None)
        if number is not None:
            self._channel.call(self._requests[number], TIMEOUT_S, slot, self._headers[number])

    def note(self, latency_s: float, status: int, message: str, answer: bytes) -> None:
        """A call is over."""
        if status or not answer:
            self.failures[f"{status} {message}"[:120]] += 1
        else:
            self.latency_s.append(latency_s)
            self.answers.append(answer)
        self._waiting -= 1
        if not self._waiting:
            self.finished.set_result(None)


async def run(args: argparse.Namespace) -> None:
    """Send all, and write the figures."""
    given = json.loads(args.models.read_text())
    requests = [base64.b64decode(text) for text in given["requests"]]
    header = args.metadata.encode()
    headers = [literal(header, name.encode()) if header else b"" for name in given["names"]]
    chosen = sequence(len(requests), args.zipf, args.requests, args.skip).tolist()
    channel = Channel(f"127.0.0.1:{args.port}", args.path.encode())
    try:
        load = ManyLoad(channel, requests, headers, chosen)
        begin, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(args.streams):
            Slot(load).begin()
        await load.finished
        took_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu_s
    finally:
        await channel.aclose()
    kinds = Counter(_KINDS[ScoreResponse.FromString(each).residency] for each in load.answers) if args.tells else {}
    latency_ms = np.array(load.latency_s or [float("nan")]) * 1000
    p50, p99 = np.percentile(latency_ms, [50, 99], method="inverted_cdf")
    figures = {"requests": len(chosen), "requests_per_s": len(load.latency_s) / took_s, "p50_ms": p50, "p99_ms": p99}
    busy = {"generator_share": cpu_s / took_s}
    args.out.write_text(json.dumps({**figures, **busy, "failures": load.failures, "where": kinds}))


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "streams", "requests", "skip"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("models", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--metadata", default="", help="the header that names a request's model")
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--tells", action="store_true", help="answers are ScoreResponses")
    gc.disable()
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
