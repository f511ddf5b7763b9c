"""The load: h2load, which speaks HTTP/2 and counts HTTP statuses, made to measure gRPC calls.

A gRPC call that fails has HTTP status 200, too, but no message. So a run is accepted only if the DATA bytes that came
back are as many as that many answers have. Latencies and the throughput come from h2load's log of every request.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.models import BenchModel

HOW_TO_GET = "h2load is missing: apt-get install nghttp2-client"
PATH = "/scoremesh.scoring.v1.ScoringService/Score"
TIMEOUT_S = 60


class Cell(NamedTuple):
    """A pattern of load: `processes` of h2load with one connection each, `streams` requests in flight on each. Several
    processes ask for a different model each, so that all scorers have work; one process asks for one model. `traced`:
    by `bench.traced_load` instead of h2load, with different headers in each request.
    """

    name: str
    processes: int
    streams: int
    traced: bool = False


class LoadResult(NamedTuple):
    """Of one run. Latencies in microseconds, as h2load saw them."""

    requests: int
    requests_per_s: float
    mean_us: float
    p50_us: float
    p99_us: float
    max_us: float


class BadRunError(Exception):
    """Requests failed; the run says nothing about speed."""


def is_installed() -> bool:
    """Whether there is an h2load."""
    return shutil.which("h2load") is not None


def run(
    port: int, cell: Cell, models: Sequence[BenchModel], requests: int, log_dir: Path, pin: Sequence[str]
) -> LoadResult:
    """Send `requests` and wait for the answers. `models`: one for each process. `pin`: command prefix for the load.

    Raises:
        BadRunError: not every request was answered with a message.
    """
    each = max(requests // cell.processes, 1)
    logs = [log_dir / f"h2load-{number}.tsv" for number in range(cell.processes)]
    running = []
    try:
        for model, log in zip(models, logs, strict=True):
            log.unlink(missing_ok=True)
            argv = [*pin, *(_traced if cell.traced else _h2load)(port, cell, model, each, log)]
            running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        for process in running:
            output = process.communicate(timeout=TIMEOUT_S)[0]
            if process.returncode:
                raise BadRunError(output[-800:])
            if not cell.traced:
                _check(output, each)
    finally:
        for process in running:
            process.kill()
            process.communicate()
    return summary(logs)


def _traced(port: int, cell: Cell, model: BenchModel, requests: int, log: Path) -> list[str]:
    options = {
        "--port": port,
        "--path": PATH,
        "--body": model.body,
        "--model-key": model.ref,
        "--streams": cell.streams,
        "--requests": requests,
        "--log": log,
    }
    return [sys.executable, "-m", "bench.traced_load", *(str(word) for option in options.items() for word in option)]


def _h2load(port: int, cell: Cell, model: BenchModel, requests: int, log: Path) -> list[str]:
    headers = ["content-type: application/grpc", "te: trailers", "grpc-timeout: 10S", f"x-model-key: {model.ref}"]
    return [
        *("h2load", f"http://127.0.0.1:{port}{PATH}", "-n", str(requests), "-c", "1", "-m", str(cell.streams)),
        *("-d", str(model.body), "--log-file", str(log)),
        *(word for header in headers for word in ("-H", header)),
    ]


def _check(output: str, requests: int) -> None:
    succeeded = re.search(r"(\d+) succeeded", output)
    data = re.search(r"\((\d+)\) data", output)
    if succeeded is None or data is None or int(succeeded[1]) != requests:
        raise BadRunError(output[-800:])
    # The shortest answer has a version, a member's id and two doubles; a failed call has no DATA at all.
    if int(data[1]) < 60 * requests:
        raise BadRunError(f"only {data[1]} bytes of answers came for {requests} requests: some calls failed")


def summary(logs: Sequence[Path]) -> LoadResult:
    """Figures of h2load's logs of every request."""
    table = np.concatenate([np.loadtxt(log, dtype=np.int64, ndmin=2) for log in logs])
    begun, latency = table[:, 0], table[:, 2]
    seconds = float((begun + latency).max() - begun.min()) / 1e6
    p50, p99 = np.percentile(latency, [50, 99])
    rate = len(table) / max(seconds, 1e-6)
    return LoadResult(len(table), rate, float(latency.mean()), float(p50), float(p99), float(latency.max()))
