"""A front on `pygrpc_native`, whose HTTP/2 and gRPC work runs in Rust outside the GIL.

It uses the package's event interface instead of its `aio.server`: one thread waits for events and hands them to the
event loop in batches, so that a call costs neither a task nor a coroutine. Insecure ports only; it reserves the
trailer `grpc-retry-pushback-ms`, so a retry hint travels in the details alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import TYPE_CHECKING

from pygrpc_native import EVENT_CALL, STREAM_CLOSED, STREAM_FULL, NativeGrpcFront

from registry.failure import Failure
from registry.front import Gate, Method, run_handler, wait_idle, wait_quiet
from registry.status import trailers

if TYPE_CHECKING:
    from pygrpc_native._native import DetailedEvent

_EVENTS_PER_TURN = 256
_FULL_PAUSE_S = 0.005


class _NativeCall:
    """A unary call. The front's own id is its key in `_open`, from which it leaves when it's finished."""

    __slots__ = ("_front", "_id", "deadline", "on_cancel", "payload")

    def __init__(self, front: NativeFront, call_id: int, payload: bytes, deadline: float) -> None:
        self._front = front
        self._id = call_id
        self.payload = payload
        self.deadline = deadline
        self.on_cancel: Callable[[], None] | None = None

    def respond(self, payload: bytes) -> None:
        if self._front.finish(self._id):
            self._front.native.respond(self._id, payload)

    def end(self) -> None:
        raise RuntimeError("a unary call ends with its response")

    def fail(self, failure: Failure) -> None:
        if self._front.finish(self._id):
            self._front.native.fail(self._id, failure.code, failure.message, trailing_metadata=[trailers(failure)[0]])


class _NativeStream(_NativeCall):
    """A call that answers with a stream. What the caller is too slow to take is kept here and sent by a task, which
    only then exists; the messages of one call are bounded by the items of its request.
    """

    __slots__ = ("_backlog", "_ended")

    def __init__(self, front: NativeFront, call_id: int, payload: bytes, deadline: float) -> None:
        super().__init__(front, call_id, payload, deadline)
        self._backlog: deque[bytes] = deque()
        self._ended = False

    def respond(self, payload: bytes) -> None:
        if self._backlog:
            self._backlog.append(payload)
        elif self._front.native.stream_try_send(self._id, payload) == STREAM_FULL:
            self._backlog.append(payload)
            self._front.spawn(self._send_backlog())

    def end(self) -> None:
        self._ended = True
        if not self._backlog and self._front.finish(self._id):
            self._front.native.stream_end(self._id)

    async def _send_backlog(self) -> None:
        # Looks again and again, since a blocking send would hold a thread for each slow reader.
        while self._backlog:
            outcome = self._front.native.stream_try_send(self._id, self._backlog[0])
            if outcome == STREAM_FULL:
                await asyncio.sleep(_FULL_PAUSE_S)
                continue
            if outcome == STREAM_CLOSED:  # the caller has gone; the front tells it by a cancellation too
                self._backlog.clear()
                return
            self._backlog.popleft()
        if self._ended:
            self.end()


class NativeFront:
    """See `registry.front.Front`."""

    def __init__(self, address: str, gate: Gate, *, reuse_port: bool = False) -> None:
        try:
            self.native = NativeGrpcFront(
                address,
                [],
                io_threads=1,
                call_details=True,
                delay_stream_headers=True,
                keepalive_permit_without_calls=False,
                reuse_port=reuse_port,
            )
        except OSError as error:
            raise OSError(f"can't listen on {address}: {error}") from error
        self._gate = gate
        self._open: dict[int, _NativeCall] = {}
        self._events: deque[list[DetailedEvent]] = deque()
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self.native.bound_port)

    async def start(self, methods: Sequence[Method]) -> None:
        self._loop = asyncio.get_running_loop()
        self.native.add_methods([(method.path, method.streaming) for method in methods])
        self._table = [(method.handler, _NativeStream if method.streaming else _NativeCall) for method in methods]
        self.native.start()
        threading.Thread(target=self._receive, name="front-receive", daemon=True).start()

    def _receive(self) -> None:
        # A second wake-up of the loop before it has run would be a wasted system call.
        while (events := self.native.recv_batch_details(_EVENTS_PER_TURN)) is not None:
            self._events.append(events)
            if not self._scheduled:
                self._scheduled = True
                try:
                    self._loop.call_soon_threadsafe(self._dispatch)
                except RuntimeError:  # the loop was closed without stop()
                    return

    def _dispatch(self) -> None:
        self._scheduled = False
        now = self._loop.time()
        while self._events:
            for kind, call_id, method_id, payload, _key, details in self._events.popleft():
                if kind != EVENT_CALL or payload is None or details is None:
                    self._cancel(call_id)
                    continue
                left_s = details[2]
                self._admit(call_id, method_id, payload, inf if left_s is None else now + left_s)

    def _admit(self, call_id: int, method_id: int, payload: bytes, deadline: float) -> None:
        handler, kind = self._table[method_id]
        call = self._open[call_id] = kind(self, call_id, payload, deadline)
        self._gate.enter()
        refusal = self._gate.refusal(len(payload))
        if refusal is not None:
            call.fail(refusal)
        else:
            run_handler(handler, call)

    def _cancel(self, call_id: int) -> None:
        call = self._open.get(call_id)
        if call is not None:
            on_cancel = call.on_cancel
            self.finish(call_id)
            if on_cancel is not None:
                on_cancel()

    def finish(self, call_id: int) -> bool:
        """Count a call as finished; False when it was already."""
        call = self._open.pop(call_id, None)
        if call is None:
            return False
        call.on_cancel = None  # it refers to whoever has the call: a cycle that would keep the request's bytes
        self._gate.leave()
        return True

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` until it ends or the front stops."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def refuse_new(self, message: str) -> None:
        self._gate.close(message)

    async def idle(self, timeout_s: float) -> bool:
        return await wait_idle(self._gate, timeout_s)

    async def quiet(self, quiet_s: float, timeout_s: float) -> bool:
        return await wait_quiet(self._gate, quiet_s, timeout_s)

    async def stop(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.native.close)
        for call_id in list(self._open):
            self._cancel(call_id)
        await asyncio.gather(*self._tasks, return_exceptions=True)
