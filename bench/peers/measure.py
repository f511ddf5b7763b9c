"""The measurement: rounds in which the servers take turns.

A turn: the answers are checked against lightgbm's own; two patterns of load without pause (32 in flight on one
connection, 256 on eight), of which the better one counts; then arrivals at a fixed rate, half of what this server just
did; then at a rate that is the same for all and that all can do; and the answers are checked again. CPU time is that of
all processes of the server, idle time of theirs included.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc

from bench.models import BenchModel
from bench.peers.loads import Fixed, Saturated, fixed, saturate
from bench.peers.processes import cpu_between_s, cpu_s, is_running, rss_mib
from bench.peers.protocols import JSON
from bench.peers.servers import Served

SHAPES = ((1, 32), (8, 32))
COMMON_RATE = 50.0
_FIRST_REQUESTS = 300
_IDLE_S = 1.0


class Turn(NamedTuple):
    """One turn of one server. CPU in microseconds a request. `idle_share`: of the core that it takes doing nothing.
    `best`: of `SHAPES`, by requests a second; `common`: at the rate that is the same for all.
    """

    server: str
    round: int
    best: Saturated
    shape: tuple[int, int]
    cpu_us: float
    half: Fixed
    common: Fixed
    idle_share: float
    rss_mib: float


class Bench:
    """Turns of servers with one model. `run_s`: of a run without pause; `fixed_s`: of one at a rate."""

    def __init__(self, models: Sequence[BenchModel], directory: Path, run_s: float, fixed_s: float) -> None:
        self._models, self._directory = models, directory
        self._run_s, self._fixed_s = run_s, fixed_s
        self._rates: dict[tuple[str, tuple[int, int]], float] = {}

    def rounds(self, servers: Sequence[Served], count: int, say: Callable[[str], None]) -> Iterator[Turn]:
        """`count` rounds; the first server of a round changes."""
        for number in range(count):
            shift = number % len(servers)
            for served in (*servers[shift:], *servers[:shift]):
                say(f"round {number + 1} of {count}: {served.name}")
                yield self._turn(served, number)

    def _turn(self, served: Served, number: int) -> Turn:
        model = self._models[number % len(self._models)]
        check(served, self._models)
        idle = self._idle_share(served)
        runs = [(*self._saturate(served, model, shape), shape) for shape in SHAPES]
        best, cpu_us, shape = max(runs, key=lambda run: run[0].requests_per_s)
        half = self._fixed(served, model, best.requests_per_s / 2)
        level = self._fixed(served, model, COMMON_RATE)
        check(served, self._models)
        return Turn(served.name, number, best, shape, cpu_us, half, level, idle, rss_mib(served.roots))

    def _saturate(self, served: Served, model: BenchModel, shape: tuple[int, int]) -> tuple[Saturated, float]:
        key = (served.name, shape)
        least = 2 * shape[0] * shape[1]
        if key not in self._rates:
            first = saturate(served.port, served.speech, model, *shape, max(_FIRST_REQUESTS, least), self._directory)
            self._rates[key] = first.requests_per_s
        requests = max(int(self._rates[key] * self._run_s), least)
        before = cpu_s(served.roots)
        result = saturate(served.port, served.speech, model, *shape, requests, self._directory)
        used_s = cpu_between_s(before, cpu_s(served.roots))
        self._rates[key] = result.requests_per_s
        return result, used_s * 1e6 / result.requests

    def _fixed(self, served: Served, model: BenchModel, rate: float) -> Fixed:
        return fixed(served.port, served.speech, model, rate, self._fixed_s, self._fixed_s / 4, self._directory)

    def _idle_share(self, served: Served) -> float:
        before, begin = cpu_s(served.roots), time.monotonic()
        time.sleep(_IDLE_S)
        return cpu_between_s(before, cpu_s(served.roots)) / (time.monotonic() - begin)


def check(served: Served, models: Sequence[BenchModel]) -> None:
    """Ask for every model once.

    Raises:
        RuntimeError: an answer isn't lightgbm's, to the last bit.
        grpc.RpcError, OSError: there was none.
    """
    for model, answer in zip(models, ask(served, models), strict=True):
        got = served.speech.positive(answer)
        if got != model.expected[1]:
            raise RuntimeError(f"{served.name} scored {model.ref} as {got}, not {model.expected[1]}")


def ask(served: Served, models: Sequence[BenchModel]) -> Iterator[bytes]:
    """The answer for each model's row."""
    if served.speech is JSON:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        for model in models:
            headers = {"content-type": "application/json"}
            connection.request("POST", served.speech.path, served.speech.request(model), headers)
            yield connection.getresponse().read()
        connection.close()
        return
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = channel.unary_unary(served.speech.path)
        for model in models:
            metadata = [(served.metadata, model.ref.model)] if served.metadata else None
            yield call(served.speech.request(model), timeout=20.0, metadata=metadata)


def wait_until_right(served: Served, models: Sequence[BenchModel], timeout_s: float) -> None:
    """Ask until the answers are right.

    Raises:
        RuntimeError: a wrong answer, none in time, or the server has ended.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            return check(served, models)
        except (grpc.RpcError, OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() > until or not is_running(served.roots[0]):
                raise RuntimeError(f"{served.name} doesn't answer: {error}") from error
            time.sleep(0.3)
