"""The load on one server: h2load at saturation, `scoremesh load` at a fixed rate; for JSON our own generator at a rate.

h2load sends the next request when an answer has come (closed loop), which gives the most that a server can do; what
arrives at a rate doesn't wait for answers (open loop), which gives latencies as callers would see them.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.fleet import pins
from bench.load import BadRunError, summary
from bench.models import BenchModel
from bench.peers.protocols import JSON, TENSOR, Speech, row_of

TIMEOUT_S = 120
LEAST_ANSWER_BYTES = 16


class Fixed(NamedTuple):
    """What came of a load at a fixed rate. `limited`: why the generator was the limit, "" where it wasn't."""

    rate: float
    requests: int
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    limited: str


class Saturated(NamedTuple):
    """What came of a load without pause. `requests_per_s`: of all that were answered well."""

    requests: int
    requests_per_s: float
    p50_us: float
    p99_us: float


def saturate(
    port: int, speech: Speech, model: BenchModel, connections: int, streams: int, requests: int, directory: Path
) -> Saturated:
    """Send `requests`, `streams` in flight on each connection (JSON: one on each, and so many more connections).

    Raises:
        BadRunError: not every request was answered well.
    """
    body, log = directory / "body", directory / "h2load.tsv"
    message = speech.request(model)
    body.write_bytes(message if speech is JSON else b"\0" + struct.pack(">I", len(message)) + message)
    log.unlink(missing_ok=True)
    done = _run([*pins()[1], *_h2load(port, speech, model, (connections, streams), requests, body, log)])
    _check(done, requests)
    result = summary([log])
    return Saturated(result.requests, result.requests_per_s, result.p50_us, result.p99_us)


def _h2load(
    port: int, speech: Speech, model: BenchModel, shape: tuple[int, int], requests: int, body: Path, log: Path
) -> list[str]:
    connections, streams = shape
    if speech is JSON:
        words, headers = ["--h1", "-c", str(connections * streams)], ["content-type: application/json"]
    else:
        words = ["-c", str(connections), "-m", str(streams)]
        headers = ["content-type: application/grpc", "te: trailers", "grpc-timeout: 30S", f"x-model-key: {model.ref}"]
    return [
        *("h2load", f"http://127.0.0.1:{port}{speech.path}", "-n", str(requests), *words),
        *("-d", str(body), "--log-file", str(log)),
        *(word for header in headers for word in ("-H", header)),
    ]


def _check(output: str, requests: int) -> None:
    """A gRPC call that failed has status 200, too, but no message."""
    succeeded = re.search(r"(\d+) succeeded", output)
    data = re.search(r"\((\d+)\) data", output)
    if succeeded is None or data is None or int(succeeded[1]) != requests:
        raise BadRunError(output[-800:])
    if int(data[1]) < LEAST_ANSWER_BYTES * requests:
        raise BadRunError(f"only {data[1]} bytes of answers came for {requests} requests: some calls failed")


def fixed(
    port: int, speech: Speech, model: BenchModel, rate: float, seconds: float, warm_up_s: float, directory: Path
) -> Fixed:
    """Send at a rate, Poisson arrivals, one process, one connection."""
    out = directory / "load.json"
    features = len(row_of(model))
    if speech.target is None:
        body = directory / "body"
        body.write_bytes(speech.request(model))
        options = {"--port": port, "--path": speech.path, "--body": body, "--rate": rate, "--out": out}
        argv = ["-m", "bench.peers.http_load", *_words({**options, "--seconds": seconds, "--warm-up-s": warm_up_s})]
        _run([*pins()[1], sys.executable, *argv])
        return Fixed(**json.loads(out.read_text()))
    tenant = f"{model.ref.tenant}/" if speech.target.value == "score" else ""
    options = {
        "--target": speech.target.value,
        "--router": f"127.0.0.1:{port}",
        "--model": f"{tenant}{model.ref.model}:{features}",
        "--rate": f"{rate:.1f}",
        "--duration-s": seconds,
        "--warm-up-s": warm_up_s,
        "--oip-tensor": TENSOR,
        "--oip-datatype": "FP64",
        "--json": out,
    }
    _run([*pins()[1], sys.executable, "-m", "ops", "load", *_words(options)])
    return read_report(out)


def _words(options: dict[str, object]) -> list[str]:
    return [str(word) for option in options.items() for word in option]


def read_report(path: Path) -> Fixed:
    """What `scoremesh load --json` wrote."""
    report = json.loads(path.read_text())
    group = report["groups"][0]
    quantiles = group["all"]["quantiles_ms"] or [float("nan")] * 5
    return Fixed(
        group["rate"], group["requests"], quantiles[0], quantiles[3], group["errors"], report["limited_by_generator"]
    )


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode:
        raise BadRunError((done.stdout + done.stderr)[-800:])
    return done.stdout
