"""A load whose requests differ in their headers: each carries a trace of its own (W3C traceparent).

h2load sends the same headers in every request, byte for byte, which lets a server that remembers header blocks look
faster than callers with tracing will find it. Used by `bench.load` as a process; writes h2load's log format: start in
microseconds since the epoch, a status, and the latency in microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import time
from pathlib import Path

from registry.http2.frames import literal
from router.channel import Channel

TIMEOUT_S = 10.0


class Slot:
    """One request in flight after the other."""

    def __init__(self, load: TracedLoad) -> None:
        self._load = load
        self._begun_ns = 0
        self._bytes = 0

    def begin(self) -> None:
        """Send the next request, if there is one left to send."""
        self._bytes = 0
        self._begun_ns = time.time_ns()
        self._load.send(self)

    def on_message(self, payload: bytes) -> None:
        self._bytes += len(payload)

    def on_end(self, status: int, message: str, sent: bool) -> None:
        self._load.note(self._begun_ns, status, message, self._bytes)
        self.begin()


class TracedLoad:
    """`requests` calls of one method with one payload. `finished` gives the log."""

    def __init__(self, channel: Channel, payload: bytes, model_key: str, requests: int) -> None:
        self._channel = channel
        self._payload = payload
        self._key = literal(b"x-model-key", model_key.encode())
        self._left = self._waiting = requests
        self._random = random.Random()
        self._log: list[str] = []
        self.finished: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    def send(self, slot: Slot) -> None:
        """Make a call for a slot."""
        if self._left:
            self._left -= 1
            trace = f"00-{self._random.getrandbits(128):032x}-{self._random.getrandbits(64):016x}-01"
            metadata = self._key + literal(b"traceparent", trace.encode())
            self._channel.call(self._payload, TIMEOUT_S, slot, metadata)

    def note(self, begun_ns: int, status: int, message: str, answer_bytes: int) -> None:
        """A call is over."""
        self._waiting -= 1
        self._log.append(f"{begun_ns // 1000}\t{status}\t{(time.time_ns() - begun_ns) // 1000}")
        if (status or not answer_bytes) and not self.finished.done():
            self.finished.set_exception(RuntimeError(f"a call ended with status {status}: {message}"))
        if not self._waiting and not self.finished.done():
            self.finished.set_result(self._log)


async def run(args: argparse.Namespace) -> None:
    """Send all, and write the log."""
    channel = Channel(f"127.0.0.1:{args.port}", args.path.encode())
    try:
        load = TracedLoad(channel, args.body.read_bytes()[5:], args.model_key, args.requests)
        for _ in range(args.streams):
            Slot(load).begin()
        args.log.write_text("\n".join(await load.finished) + "\n")
    finally:
        await channel.aclose()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True, help="of the method")
    parser.add_argument("--body", type=Path, required=True, help="the request behind its length prefix")
    parser.add_argument("--model-key", required=True)
    parser.add_argument("--streams", type=int, required=True, help="requests in flight")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    gc.disable()
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
