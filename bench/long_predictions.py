"""Short requests beside a stream of long ones, over sockets: python -m bench.long_predictions

Two scorers with the same models, one of which has no thread for long predictions; one at a time is asked: one-row
requests one after another, alone, and beside a caller who asks for predictions of about 20 ms, one each 40 ms.
Latencies are wall time, as callers see them: on a shared machine look at the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.batching import inside, train

_SERVICE = "/scoremesh.scoring.v1.ScoringService"
_ROWS = {"trees": 5000, "pipeline": 12_000}
_EACH_S = 0.04
_RUN_S = 4.0
_LIMIT = 16 << 20


def _pipeline() -> tuple[Any, Any]:
    """A spec of 20 numbers and 10 text columns and the frame that it was fitted on, and LightGBM behind it."""
    from bench.transforms import wide
    from ops.convert_columns import to_spec

    _name, pipeline, frame = wide()
    return (to_spec(pipeline[0]), pipeline[-1].booster_), frame


async def _serve(directory: Path, *, inline: bool) -> None:
    from registry.front import Method
    from registry.process import prepare
    from registry.server import listen
    from registry.transforms import decode_spec
    from scorer import cost_curve

    prepare()
    if inline:
        cost_curve.LONG_US = float("inf")
    async with inside(directory) as made:
        await made.add("short", "50.txt")
        await made.add("trees", "200.txt")
        await made.add("pipeline", "pipeline.txt", decode_spec((directory / "spec.json").read_bytes()))
        front = listen("127.0.0.1:0", tls=None, front="http2", max_message_bytes=_LIMIT)
        await front.start([Method(f"{_SERVICE}/Score", made.service.score)])
        print(front.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await front.stop()


class Server:
    """A scorer in a process of its own. `lane`: whether long predictions leave the event loop's thread."""

    def __init__(self, directory: Path, *, lane: bool) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bench.long_predictions",
                "--serve",
                str(directory),
                *([] if lane else ["--inline"]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - it's a pipe
        self.port = int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Caller:
    """Serialized requests, and what they take."""

    def __init__(self, port: int, directory: Path) -> None:
        import grpc.aio

        options = [("grpc.max_send_message_length", _LIMIT), ("grpc.max_receive_message_length", _LIMIT)]
        self._channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", [*options, ("grpc.use_local_subchannel_pool", 1)])
            for _ in range(2)
        ]
        self._short, self._long = (channel.unary_unary(f"{_SERVICE}/Score") for channel in self._channels)
        self._rows = np.load(directory / "rows.npy")

    def one_row(self) -> bytes:
        from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest

        return ScoreRequest(tenant="bench", model="short", row_count=1, dense_double=self._rows[0]).SerializeToString()

    async def long(self, payload: bytes, until: float) -> list[float]:
        """One each 40 ms; microseconds of each prediction, as the server says."""
        from scoremesh.scoring.v1.scoring_pb2 import ScoreResponse

        taken = []
        while time.perf_counter() < until:
            began = time.perf_counter()
            answer = ScoreResponse.FromString(await self._long(payload, timeout=30))
            taken.append(float(answer.timing.score_us))
            await asyncio.sleep(max(0.0, began + _EACH_S - time.perf_counter()))
        return taken

    async def short(self, until: float) -> list[float]:
        """One after another; microseconds of each."""
        payload, taken = self.one_row(), []
        while time.perf_counter() < until:
            began = time.perf_counter()
            await self._short(payload, timeout=30)
            taken.append((time.perf_counter() - began) * 1e6)
            await asyncio.sleep(0.0005)
        return taken

    async def aclose(self) -> None:
        for channel in self._channels:
            await channel.close()


async def _measure(port: int, directory: Path, payload: bytes | None) -> tuple[list[float], list[float]]:
    """Microseconds of the short requests, and of the long predictions."""
    caller = Caller(port, directory)
    try:
        until = time.perf_counter() + _RUN_S
        if payload is None:
            return await caller.short(until), []
        short, long = await asyncio.gather(caller.short(until), caller.long(payload, until))
        return short, long
    finally:
        await caller.aclose()


def _payloads(directory: Path, frame: Any, spec: Any) -> dict[str, bytes]:
    from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, StringColumn

    rows = np.load(directory / "rows.npy")
    count = _ROWS["trees"]
    dense = np.resize(rows, (count, rows.shape[1]))
    trees = ScoreRequest(tenant="bench", model="trees", row_count=count, dense_double=dense.ravel())
    count = _ROWS["pipeline"]
    part = frame.sample(count, replace=True, random_state=1)
    columns = []
    for name in spec.string_columns:
        values, codes = np.unique(part[name].to_numpy(), return_inverse=True)
        columns.append(StringColumn(name=name, dictionary=values.tolist(), codes=codes.tolist()))
    numbers = part[list(spec.features)].to_numpy(np.float64)
    pipeline = ScoreRequest(
        tenant="bench", model="pipeline", row_count=count, dense_double=numbers.ravel(), string_columns=columns
    )
    return {"trees": trees.SerializeToString(), "pipeline": pipeline.SerializeToString()}


def _line(name: str, where: str, short: Sequence[float], long: Sequence[float]) -> str:
    p50, p99 = np.percentile(short, (50, 99))
    long_ms = f"{np.median(long) / 1e3:.0f}" if long else ""
    return f"| {name} | {where} | {p50 / 1e3:.2f} | {p99 / 1e3:.2f} | {max(short) / 1e3:.1f} | {long_ms} |"


def compare(directory: Path, rounds: int) -> None:
    """Print percentiles over all rounds."""
    import msgspec

    (spec, booster), frame = _pipeline()
    booster.save_model(directory / "pipeline.txt")
    (directory / "spec.json").write_bytes(msgspec.json.encode(spec))
    payloads: dict[str, bytes | None] = {"alone": None, **_payloads(directory, frame, spec)}
    servers = {"on the loop": Server(directory, lane=False), "on its thread": Server(directory, lane=True)}
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for _ in range(rounds):
        for name, payload in payloads.items():
            for where, server in servers.items():
                short, long = asyncio.run(_measure(server.port, directory, payload))
                held = found.setdefault((name, where), ([], []))
                held[0].extend(short)
                held[1].extend(long)
    print("| short requests | long ones | p50 ms | p99 ms | max ms | a long one ms |\n|---|---|---:|---:|---:|---:|")
    for (name, where), (short, long) in found.items():
        print(_line(name if name == "alone" else f"beside {name}", where, short, long))
    for server in servers.values():
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.serve is not None:
        asyncio.run(_serve(args.serve, inline=args.inline))
        return
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as name:
        train(Path(name))
        compare(Path(name), args.rounds)


if __name__ == "__main__":
    main()
