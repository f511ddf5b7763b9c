"""What a call costs the client: CPU microseconds of the client's process, for router.channel and for grpc.aio.

    python bench/channel_cost.py [--rounds 3] [--seconds 1.0] [--uvloop]

One server process (pygrpc-native, echo) serves all. Each figure comes from a client process of its own: it warms up,
then makes calls with N in flight for the given time, and reads its own CPU clock (user and system) around them. Clients
of different kinds take turns, so that noise of the machine falls on all of them; the table shows the median of the
rounds.

Clients: `callbacks` makes the next call from the `on_end` of the last one; `awaited` makes it from a task that waits
for the answer; the next two are grpc.aio's multi-callables from tasks; `bytes` sends and gets the bare payload over a
plain asyncio connection, one for each call in flight: what the loop and the kernel take before any protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

STREAM, UNARY = "/bench.Echo/Stream", "/bench.Echo/Unary"
CLIENTS = ("callbacks", "awaited", "aio unary_stream", "aio unary_unary", "bytes")
IN_FLIGHT = (1, 32, 256)
PAYLOAD_BYTES = (100, 2048)
Runner = Callable[[float], Awaitable[int]]


def check(right: bool) -> None:
    if not right:
        raise SystemExit("a wrong answer")


def serve() -> None:
    from pygrpc_native import EVENT_CALL, NativeGrpcFront

    front = NativeGrpcFront("127.0.0.1:0", [(STREAM, True), (UNARY, False)])
    front.start()
    echo = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=asyncio.run, args=(echo_bytes(echo),), daemon=True).start()
    print(front.bound_port, echo.getsockname()[1], flush=True)
    while (events := front.recv_batch(256)) is not None:
        for kind, call_id, method, payload, _ in events:
            if kind != EVENT_CALL or payload is None:
                continue
            if method == 0:
                front.stream_send(call_id, payload)
                front.stream_end(call_id)
            else:
                front.respond(call_id, payload)


async def echo_bytes(listening: socket.socket) -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    server = await asyncio.get_running_loop().create_server(Echo, sock=listening)
    await server.serve_forever()


class Bytes(asyncio.Protocol):
    """Sends the payload again when all of it came back."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def run(self, until: float) -> asyncio.Future[None]:
        self.calls, self.missing, self.until = 0, len(self.payload), until
        self.finished = asyncio.get_running_loop().create_future()
        self.transport.write(self.payload)
        return self.finished

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        self.calls += 1
        if time.monotonic() < self.until:
            self.missing = len(self.payload)
            self.transport.write(self.payload)
        else:
            self.finished.set_result(None)


async def measure_bytes(port: int, payload: bytes, in_flight: int, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    slots = [(await loop.create_connection(lambda: Bytes(payload), "127.0.0.1", port))[1] for _ in range(in_flight)]

    async def run(until: float) -> int:
        await asyncio.gather(*(slot.run(until) for slot in slots))
        return sum(slot.calls for slot in slots)

    cost = await cpu_us_per_call(run, seconds)
    for slot in slots:
        slot.transport.close()
    return cost


class Loop:
    """A slot that calls again from its own `on_end`."""

    def __init__(self, channel: object, payload: bytes) -> None:
        self.channel, self.payload = channel, payload
        self.calls = 0
        self.until = 0.0
        self.finished: asyncio.Future[None] | None = None

    def run(self, until: float) -> asyncio.Future[None]:
        self.until, self.finished = until, asyncio.get_running_loop().create_future()
        self.channel.call(self.payload, 5.0, self)
        return self.finished

    def on_message(self, payload: bytes) -> None:
        check(len(payload) == len(self.payload))

    def on_end(self, status: int, message: str, sent: bool) -> None:
        check(status == 0)
        self.calls += 1
        if time.monotonic() < self.until:
            self.channel.call(self.payload, 5.0, self)
        else:
            self.finished.set_result(None)


class Once:
    """A receiver that a task waits for."""

    def __init__(self) -> None:
        self.finished = asyncio.get_running_loop().create_future()

    def on_message(self, payload: bytes) -> None:
        self.answer = payload

    def on_end(self, status: int, message: str, sent: bool) -> None:
        check(status == 0)
        self.finished.set_result(None)


async def with_tasks(one_call: Callable[[], Awaitable[None]], in_flight: int, until: float) -> int:
    async def slot() -> int:
        calls = 0
        while time.monotonic() < until:
            await one_call()
            calls += 1
        return calls

    return sum(await asyncio.gather(*(slot() for _ in range(in_flight))))


async def measure_channel(port: int, awaited: bool, payload: bytes, in_flight: int, seconds: float) -> float:
    from router.channel import Channel

    channel = Channel(f"127.0.0.1:{port}", STREAM.encode())

    async def one_call() -> None:
        once = Once()
        channel.call(payload, 5.0, once)
        await once.finished

    async def run(until: float) -> int:
        if awaited:
            return await with_tasks(one_call, in_flight, until)
        loops = [Loop(channel, payload) for _ in range(in_flight)]
        await asyncio.gather(*(loop.run(until) for loop in loops))
        return sum(loop.calls for loop in loops)

    cost = await cpu_us_per_call(run, seconds)
    await channel.aclose()
    return cost


async def measure_aio(port: int, streaming: bool, payload: bytes, in_flight: int, seconds: float) -> float:
    import grpc.aio

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream, unary = channel.unary_stream(STREAM), channel.unary_unary(UNARY)

        async def one_call() -> None:
            if streaming:
                async for answer in stream(payload, timeout=5.0):
                    check(len(answer) == len(payload))
            else:
                check(len(await unary(payload, timeout=5.0)) == len(payload))

        return await cpu_us_per_call(lambda until: with_tasks(one_call, in_flight, until), seconds)


async def cpu_us_per_call(run: Runner, seconds: float) -> float:
    await run(time.monotonic() + 0.2)
    before = time.process_time()
    calls = await run(time.monotonic() + seconds)
    return (time.process_time() - before) / calls * 1e6


def measure(port: int, client: str, payload_bytes: int, in_flight: int, seconds: float, uvloop: bool) -> float:
    payload = b"x" * payload_bytes
    if client == "bytes":
        work = measure_bytes(port, payload, in_flight, seconds)
    elif client.startswith("aio"):
        work = measure_aio(port, client == "aio unary_stream", payload, in_flight, seconds)
    else:
        work = measure_channel(port, client == "awaited", payload, in_flight, seconds)
    if uvloop:
        import uvloop as faster

        return faster.run(work)
    return asyncio.run(work)


def compare(rounds: int, seconds: float, uvloop: bool) -> None:
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        grpc_port, bytes_port = server.stdout.readline().split()
        cells = list(itertools.product(PAYLOAD_BYTES, IN_FLIGHT, CLIENTS))
        costs: dict[tuple[int, int, str], list[float]] = {cell: [] for cell in cells}
        for _, (size, in_flight, client) in itertools.product(range(rounds), cells):
            port = bytes_port if client == "bytes" else grpc_port
            args = ["--client", client, "--port", port, "--bytes", size, "--in-flight", in_flight, "--seconds", seconds]
            command = [sys.executable, __file__, *map(str, args), *(["--uvloop"] if uvloop else [])]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60)
            costs[size, in_flight, client].append(float(answer.stdout))
        show(costs)
    finally:
        server.kill()
        server.wait()


def show(costs: dict[tuple[int, int, str], list[float]]) -> None:
    print(f"{'bytes':>6} {'in flight':>9}  " + "".join(f"{client:>24}" for client in CLIENTS))
    for size, in_flight in itertools.product(PAYLOAD_BYTES, IN_FLIGHT):
        us = [statistics.median(costs[size, in_flight, client]) for client in CLIENTS]
        row = "".join(f"{cost:>15.1f} us {cost / us[0]:>5.1f}x" for cost in us)
        print(f"{size:>6} {in_flight:>9}  {row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--uvloop", action="store_true")
    inner = parser.add_argument_group("used by the script itself")
    inner.add_argument("--serve", action="store_true")
    inner.add_argument("--client", choices=CLIENTS)
    inner.add_argument("--port", type=int)
    inner.add_argument("--bytes", type=int)
    inner.add_argument("--in-flight", type=int)
    args = parser.parse_args()
    if args.serve:
        serve()
    elif args.client:
        print(measure(args.port, args.client, args.bytes, args.in_flight, args.seconds, args.uvloop))
    else:
        compare(args.rounds, args.seconds, args.uvloop)


if __name__ == "__main__":
    main()
