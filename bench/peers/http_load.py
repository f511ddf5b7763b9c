"""Load at a fixed rate over HTTP/1.1, for the servers that speak no gRPC: Poisson arrivals that don't wait for answers.

A request is on a connection alone; when all are busy another one is opened. Latency counts from when a request was due.
Writes the fields of `bench.peers.loads.Fixed`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
from collections import Counter
from pathlib import Path

import numpy as np

LATEST_S = 5.0


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with at most one request on it."""

    def __init__(self, load: HttpLoad) -> None:
        self._load, self._data, self._due = load, b"", 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - TCP
        self._transport = transport

    def send(self, request: bytes, due: float) -> None:
        """Send one that was due then."""
        self._due, self._data = due, b""
        assert self._transport is not None  # noqa: S101 - it is connected
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """An answer is whole when its content-length is there."""
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._load.note(self, self._due, head.split(b" ", 2)[1].decode())


class HttpLoad:
    """See the module."""

    def __init__(self, port: int, request: bytes, due_s: np.ndarray) -> None:
        self._port, self._request, self._due_s = port, request, due_s
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self.done: list[tuple[float, float, str]] = []
        self.late_s = 0.0

    async def run(self, connections: int) -> None:
        """Send all; wait for the answers."""
        for _ in range(connections):
            self._idle.append(await self._connect())
        begin = self._loop.time()
        for due in self._due_s:
            await self._until(begin + due)
            self.late_s = max(self.late_s, self._loop.time() - begin - due)
            connection = self._idle.pop() if self._idle else await self._connect()
            connection.send(self._request, begin + due)
        until = self._loop.time() + LATEST_S
        while len(self.done) < len(self._due_s) and self._loop.time() < until:
            await asyncio.sleep(0.01)

    async def _until(self, moment: float) -> None:
        left_s = moment - self._loop.time()
        if left_s > 0:
            await asyncio.sleep(left_s)

    async def _connect(self) -> Connection:
        _, connection = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        return connection

    def note(self, connection: Connection, due: float, status: str) -> None:
        """A request was answered."""
        self.done.append((due, self._loop.time() - due, status))
        self._idle.append(connection)


async def run(args: argparse.Namespace) -> None:
    """Run, and write the figures."""
    random = np.random.default_rng(1)
    total_s = args.warm_up_s + args.seconds
    due_s = np.sort(random.random(random.poisson(args.rate * total_s))) * total_s
    body = args.body.read_bytes()
    lines = [f"POST {args.path} HTTP/1.1", "host: a", "content-type: application/json", f"content-length: {len(body)}"]
    load = HttpLoad(args.port, "\r\n".join([*lines, "", ""]).encode() + body, due_s)
    begin = asyncio.get_running_loop().time()
    await load.run(8)
    measured = [(latency, status) for due, latency, status in load.done if due - begin >= args.warm_up_s]
    latencies_ms = np.array([latency for latency, _ in measured]) * 1000
    p50, p99 = np.percentile(latencies_ms, [50, 99], method="inverted_cdf")
    errors = Counter(status for _, status in measured if status != "200")
    if len(load.done) < len(due_s):
        errors["UNFINISHED"] = len(due_s) - len(load.done)
    limited = f"a request left {load.late_s * 1000:.1f} ms late" if load.late_s * 1000 > max(50, p99) else ""
    figures = {"rate": len(measured) / args.seconds, "requests": len(measured), "p50_ms": p50, "p99_ms": p99}
    args.out.write_text(json.dumps({**figures, "errors": errors, "limited": limited}))


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"port": int, "path": str, "rate": float, "seconds": float, "warm-up-s": float}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("body", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    gc.disable()
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
