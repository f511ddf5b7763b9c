"""The life of a server process: signals, logging, the settings of the interpreter that the hot path wants."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib.util
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "SCOREMESH_PARENT_PID"


def prepare() -> None:
    """Set up logging to standard error and the interpreter; die with the parent where one is named.

    The switch interval: a thread that waits for the GIL behind Python code waits this long, 5 ms by default. The
    collector: what a server builds at its start lives as long as itself; young garbage is collected rarely, since the
    hot path makes no cycles.
    """
    level = os.environ.get("SCOREMESH_LOG", "INFO").upper()
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname).1s %(name)s %(message)s")
    sys.setswitchinterval(1e-4)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    _die_with_parent()


def run(main: Coroutine[None, None, None]) -> None:
    """Run a server until it ends, on uvloop where it's installed: it takes a fifth off a lone request's CPU time."""
    factory = asyncio.new_event_loop
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def end_with(main: Callable[[], None]) -> NoReturn:
    """Run `main` and end the process with its status at once, without the interpreter's own end.

    A native thread that still holds a Python object (obstore's, after an object that is missing) takes the GIL to drop
    it, and a thread that does so while the interpreter ends takes the process with it: 18 of 120 `scoremesh describe`
    of an unknown model ended with SIGABRT or SIGSEGV on a busy machine, their work done and printed.
    """
    status = 1
    try:
        main()
        status = 0
    except SystemExit as leave:
        status = _status(leave.code)
    except BaseException:
        traceback.print_exc()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def _status(code: object) -> int:
    """What the interpreter itself makes of `sys.exit(code)`."""
    if code is None or isinstance(code, int):
        return int(code or 0) & 0xFF
    print(code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


async def until_stopped(stop: asyncio.Event, *essential: asyncio.Task[None]) -> None:
    """Wait until `stop` is set. When a task ends without which the server is of no use, its error is raised: a process
    that looks alive and isn't is worse than one that ends and says why.
    """
    waiter = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({waiter, *essential}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
    for task in essential:
        if task.done():
            task.result()


def _die_with_parent() -> None:
    """Ask the kernel for a SIGKILL when the parent ends, so that nothing survives a killed local cluster."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the kernel was asked
        os._exit(1)


def on_stop_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; a second one kills the process as usual."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return asked
