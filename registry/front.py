"""What a server is to the code behind it: calls as objects that are answered by a method, not by a coroutine.

A front (`registry.front_http2`, `front_native`, `front_aio`; `registry.server` chooses) receives gRPC calls as raw
bytes and hands each to its method's handler, on the event loop's thread. The handler returns at once; whoever
finishes the call later answers it through the `Call`. So a request costs no task, no future and no lock, and one loop
turn can answer many.

Invariants:
* every call is finished exactly once; finishing it again is ignored, since an answer may cross with a cancellation;
* after the caller has gone or its deadline has passed, `on_cancel` is called once and the call counts as finished;
* a handler that raises fails its own call, with `registry.status.failure_of`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from registry.errors import DrainingError
from registry.failure import Failure
from registry.http2.server_stream import too_large
from registry.status import failure_of


class Call(Protocol):
    """One call that waits for an answer."""

    payload: bytes
    deadline: float  # on the event loop's clock, seconds; infinite when the caller gave none
    on_cancel: Callable[[], None] | None

    def respond(self, payload: bytes) -> None:
        """Finish a unary call with its message, or send one message of a stream."""

    def end(self) -> None:
        """Finish a stream with status OK."""

    def fail(self, failure: Failure) -> None:
        """Finish with a failure."""


Handler = Callable[[Call], None]


class Method(NamedTuple):
    """One method that a front serves: full path, who handles it, and whether it answers with a stream."""

    path: str
    handler: Handler
    streaming: bool = False


class Front(Protocol):
    """A gRPC server of raw methods."""

    @property
    def port(self) -> int:
        """The bound port."""

    async def start(self, methods: Sequence[Method]) -> None:
        """Take calls."""

    def refuse_new(self, message: str) -> None:
        """From now on fail each new call with UNAVAILABLE, reason DRAINING; the running ones go on."""

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no call is running; False when the time was over first."""

    async def quiet(self, quiet_s: float, timeout_s: float) -> bool:
        """Wait until no call has come for `quiet_s`; False when the time was over first."""

    async def stop(self) -> None:
        """Close all connections, in the middle of calls too."""


class Gate:
    """Counts running calls and refuses new ones once closed. The part that all fronts share; pure."""

    def __init__(self, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self.running = 0
        self.entered = 0
        self.closed = False
        self._refusal: Failure | None = None
        self._on_idle: Callable[[], None] | None = None

    def close(self, message: str) -> None:
        """Refuse new calls with this message."""
        self.closed = True
        self._refusal = failure_of(DrainingError(message))

    def refusal(self, payload_bytes: int) -> Failure | None:
        """Why a call may not come in, or None."""
        if payload_bytes > self.max_message_bytes:
            return too_large(payload_bytes, self.max_message_bytes)
        return self._refusal

    def enter(self) -> None:
        """A call begins."""
        self.running += 1
        self.entered += 1

    def leave(self) -> None:
        """A call has finished."""
        self.running -= 1
        if self.running == 0 and self._on_idle is not None:
            self._on_idle()

    def when_idle(self, callback: Callable[[], None] | None) -> None:
        """Call this whenever the last running call finishes."""
        self._on_idle = callback


def run_handler(handler: Handler, call: Call) -> None:
    """Call the handler; what it raises becomes the call's failure."""
    try:
        handler(call)
    except Exception as error:
        call.fail(failure_of(error))


async def wait_idle(gate: Gate, timeout_s: float) -> bool:
    """Wait until no call is running; False when the time was over first."""
    idle = asyncio.Event()
    gate.when_idle(idle.set)
    try:
        if gate.running:
            await asyncio.wait_for(idle.wait(), timeout_s)
    except TimeoutError:
        return False
    finally:
        gate.when_idle(None)
    return True


async def wait_quiet(gate: Gate, quiet_s: float, timeout_s: float) -> bool:
    """Wait until no call has come for `quiet_s`; False when the time was over first."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while loop.time() < until:
        entered = gate.entered
        await asyncio.sleep(min(quiet_s, timeout_s))
        if gate.entered == entered:
            return True
    return False
