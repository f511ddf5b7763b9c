"""A TCP proxy on this machine that does to connections what networks do: delay, silence, half-open, reset mid-message.

It forwards bytes and knows no protocol, so it stands between any client and any server. `up` and `down` are what is
done to the bytes that go to the target and to those that come from it, and may be changed at any time; every
connection obeys from its next bytes on. All that it owns ends with `aclose`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf

_CHUNK_BYTES = 1 << 16


@dataclass
class Faults:
    """Of one direction. `delay_s`: before each chunk is passed on. `dropping`: swallow what comes, as a route that
    leads nowhere does; the connection stays open (half-open, where only one direction has it). `reset_after`: bytes of
    each connection until it's reset, in the middle of whatever it says; `resets` counts, and at most `most_resets`
    connections suffer it.
    """

    delay_s: float = 0.0
    dropping: bool = False
    reset_after: float = inf
    most_resets: float = inf
    resets: int = field(default=0, init=False)

    def cut_at(self, passed: int, size: int) -> int | None:
        """How many of the next `size` bytes may pass before the connection is reset; None: all of them."""
        if self.resets >= self.most_resets or passed + size <= self.reset_after:
            return None
        return max(0, int(self.reset_after) - passed)


class FaultProxy:
    """See the module. `listen`: on which address, port 0 for a free one; a server that advertises 127.0.0.2 and listens
    on 127.0.0.1 can have a proxy between on the same port. `refusing`: new connections are reset at once. `accepted`:
    connections until now.
    """

    def __init__(self, target: str, listen: str = "127.0.0.1:0") -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._listen = listen
        self._tasks: set[asyncio.Task[None]] = set()
        self.up, self.down = Faults(), Faults()
        self.refusing = False
        self.accepted = 0

    async def start(self) -> None:
        host, _, port = self._listen.rpartition(":")
        self._server = await asyncio.start_server(self._accept, host, int(port))

    @property
    def address(self) -> str:
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    async def heal(self) -> None:
        """End all faults, and the connections that had them: what was swallowed comes no more."""
        self.up, self.down, self.refusing = Faults(), Faults(), False
        await self.reset_all()

    async def reset_all(self) -> None:
        """Reset every connection."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        self._server.close()
        await self.reset_all()
        await self._server.wait_closed()
        for _ in range(3):  # the loop tells transports in later turns that they are closed
            await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: _reset(writer))  # also when it was cancelled before it began

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            return
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            return
        pumps = {
            asyncio.create_task(_pump(reader, back, self.up)),
            asyncio.create_task(_pump(there, writer, self.down)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:  # Nothing may be left over if we are cancelled here once more.
            for end in (writer, back):
                _reset(end)
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, faults: Faults) -> None:
    passed = 0
    try:
        while data := await source.read(_CHUNK_BYTES):
            if faults.delay_s:
                await asyncio.sleep(faults.delay_s)
            if faults.dropping:
                continue
            cut_at = faults.cut_at(passed, len(data))
            sink.write(data[:cut_at])
            await sink.drain()
            if cut_at is not None:
                faults.resets += 1
                return
            passed += len(data)
    except OSError:
        return


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, what is unsent thrown away."""
    found = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(target: str, listen: str = "127.0.0.1:0") -> AsyncIterator[FaultProxy]:
    """A proxy before `target` (host:port)."""
    proxy = FaultProxy(target, listen)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.aclose()
