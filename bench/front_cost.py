"""What an echo call costs the server: CPU microseconds of its process, for each front, under h2load.

    python bench/front_cost.py [--rounds 5] [--seconds 1.0] [--fronts http2,native,aio] [--uvloop] [--profile FILE]

Each server is a process of its own that serves one unary method which answers with its own request. h2load makes calls
with N in flight on one connection. The servers take turns, so that noise of the machine falls on all of them; each
figure is the change of the process's own CPU clock (user and system time of all threads) over one run, divided by its
calls. The table shows the median of the rounds and, as noise only ever adds, the least.

`--uvloop` adds the front http2 on uvloop. `--profile` runs the front http2 under cProfile instead, 32 calls in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATH = "/bench.Echo/Unary"
IN_FLIGHT = (1, 32, 256)
PAYLOAD_BYTES = (100, 2048)
FIRST_RUN_CALLS = 400
MIN_RUN_CALLS = 400


async def serve(name: str) -> None:
    from registry.front import Method
    from registry.server import listen

    front = listen("127.0.0.1:0", front=name)
    await front.start([Method(PATH, lambda call: call.respond(call.payload))])
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(front.port, flush=True)
    await stopped.wait()
    await front.stop()


def run_server(name: str, profile: str) -> None:
    front, _, loop = name.partition("+")
    if loop == "uvloop":
        import uvloop

        uvloop.run(serve(front))
    elif profile:
        profiler = cProfile.Profile()
        profiler.runcall(asyncio.run, serve(front))
        profiler.dump_stats(profile)
    else:
        asyncio.run(serve(front))


class Server:
    """A server process."""

    def __init__(self, name: str, profile: str = "") -> None:
        argv = [sys.executable, "-m", "bench.front_cost", "--serve", name, "--profile", profile]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None  # noqa: S101 - it's a pipe
        self.port = int(self._process.stdout.readline())
        self.rates: dict[tuple[int, int], float] = {}

    def cpu_s(self) -> float:
        """User and system time of all threads; the clock's number is MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED."""
        return time.clock_gettime(~self._process.pid << 3 | 2)

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=20)


def load(port: int, body: Path, payload_bytes: int, in_flight: int, calls: int) -> float:
    """Seconds that the calls took. Raises SystemExit if one of them had no answer."""
    argv = ["h2load", f"http://127.0.0.1:{port}{PATH}", "-n", str(calls), "-c", "1", "-m", str(in_flight)]
    headers = ("content-type: application/grpc", "te: trailers", "grpc-timeout: 10S")
    argv += ["-d", str(body), *(word for header in headers for word in ("-H", header))]
    output = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    data, seconds = re.search(r"\((\d+)\) data", output), re.search(r"finished in ([\d.]+)(m?s)", output)
    if data is None or seconds is None or int(data[1]) != calls * (payload_bytes + 5):
        raise SystemExit(f"not every call was answered:\n{output}")
    return float(seconds[1]) / (1000 if seconds[2] == "ms" else 1)


def measure(server: Server, body: Path, payload_bytes: int, in_flight: int, run_s: float) -> float:
    """CPU microseconds a call."""
    cell = (payload_bytes, in_flight)
    if cell not in server.rates:
        first = FIRST_RUN_CALLS + in_flight
        server.rates[cell] = first / load(server.port, body, payload_bytes, in_flight, first)
    calls = max(int(server.rates[cell] * run_s), MIN_RUN_CALLS)
    before = server.cpu_s()
    took_s = load(server.port, body, payload_bytes, in_flight, calls)
    server.rates[cell] = calls / took_s
    return (server.cpu_s() - before) / calls * 1e6


def compare(names: list[str], rounds: int, run_s: float) -> None:
    servers = {name: Server(name) for name in names}
    costs: dict[tuple[str, int, int], list[float]] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(rounds):
                for payload_bytes in PAYLOAD_BYTES:
                    body = Path(folder) / f"{payload_bytes}.bin"
                    body.write_bytes(b"\0" + payload_bytes.to_bytes(4, "big") + bytes(payload_bytes))
                    for in_flight in IN_FLIGHT:
                        turn = number % len(names)
                        for name in names[turn:] + names[:turn]:
                            cost = measure(servers[name], body, payload_bytes, in_flight, run_s)
                            costs.setdefault((name, payload_bytes, in_flight), []).append(cost)
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
    finally:
        for server in servers.values():
            server.stop()
    report(names, costs)


def report(names: list[str], costs: dict[tuple[str, int, int], list[float]]) -> None:
    print("CPU us of the server a call: median (least); ratio of the medians to the first")
    print(f"{'bytes':>6} {'in flight':>9}  " + "  ".join(f"{name:>24}" for name in names))
    for payload_bytes in PAYLOAD_BYTES:
        for in_flight in IN_FLIGHT:
            cells = [costs[name, payload_bytes, in_flight] for name in names]
            first = statistics.median(cells[0])
            texts = [f"{statistics.median(c):6.1f} ({min(c):5.1f}) {statistics.median(c) / first:5.2f}x" for c in cells]
            print(f"{payload_bytes:>6} {in_flight:>9}  " + "  ".join(f"{text:>24}" for text in texts))


def run_profile(target: str, run_s: float) -> None:
    server = Server("http2", target)
    try:
        with tempfile.TemporaryDirectory() as folder:
            body = Path(folder) / "body.bin"
            body.write_bytes(b"\0" + (100).to_bytes(4, "big") + bytes(100))
            measure(server, body, 100, 32, run_s)
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--fronts", default="http2,native,aio")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--profile", default="")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        run_server(args.serve, args.profile)
    elif shutil.which("h2load") is None:
        raise SystemExit("h2load is missing: apt-get install nghttp2-client")
    elif args.profile:
        run_profile(args.profile, args.seconds)
    else:
        compare(args.fronts.split(",") + (["http2+uvloop"] if args.uvloop else []), args.rounds, args.seconds)


if __name__ == "__main__":
    main()
