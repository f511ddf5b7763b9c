"""Tries models in throw-away processes, one after another: `python -m scorer.probe`, started by `registry.probing`.

Contract: reads requests from standard input and writes replies to standard output, in the form of
`registry.probe_wire`; ends when its standard input does. This process has the engines loaded and never looks at a
model: it forks a child for each (`scorer.throwaway`), which shuts itself in (`scorer.sandbox`) and says so before it is
given a byte of the request. The child is ended when it has answered too much or for too long, and in any case before
the reply. What it wrote is passed on unread.

Invariants: one thread, as only that one is there after a fork; so the libraries' own threads are switched off by the
environment that `registry.probing` gives. A child finds nothing of an earlier request in its memory, since this process
never has any of it. The working folder is one that is deleted already: nothing is there, nothing can be put there.
While a child is at work, the end of standard input ends it at once.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from registry.errors import ScoreMeshError
from registry.probe_wire import (
    ENDED,
    HEAD,
    MOST_REASON,
    MOST_TOLD_BYTES,
    Hello,
    Order,
    Refused,
    frame,
    most_answer_bytes,
    most_artifact_bytes,
)
from registry.process import end_with, prepare
from scorer.admission import admit
from scorer.sandbox import Limits, enter
from scorer.throwaway import Throwaway, mapping, skip
from scorer.warm_up import warm_up

_REQUESTS, _REPLIES = 0, 1
_START_S = 30.0

_LOG = logging.getLogger(__name__)

# Does its work on the model and writes frames to the first file; runs inside the sandbox. The second is a memfd.
Work = Callable[[bytes, Order, int, int], None]


class Head(NamedTuple):
    """Of a request; see `registry.probe_wire`."""

    order_bytes: int
    data_bytes: int
    cpu_s: float
    timeout_s: float


def try_model(data: bytes, order: Order, answer: int, memory: int) -> None:
    """The `Work` of this program."""
    try:
        found = frame(admit(data, order, lambda rewritten: _write(answer, frame(rewritten)), memory))
    except ScoreMeshError as error:
        found = _refusal(error.message)
    if len(found) > MOST_TOLD_BYTES:
        found = _refusal(f"names, categories and golden rows take {len(found)} bytes, at most {MOST_TOLD_BYTES} may be")
    _write(answer, found)


def _refusal(why: str) -> bytes:
    return frame(Refused(why[: MOST_REASON + 1]))  # one more shows that there was more


def serve(work: Work) -> None:
    """Answer requests with `work` until there are no more."""
    _hide_folder()
    requests, replies = os.dup(_REQUESTS), os.dup(_REPLIES)
    os.dup2(2, _REPLIES)  # whatever a library prints is no reply
    _settle()
    told = _missing()
    _write(replies, frame(Hello(tuple(told))))
    while len(head := _read(requests, HEAD.size)) == HEAD.size:
        _attend(Head(*HEAD.unpack(head)), work, requests, replies, told)


def _hide_folder() -> None:
    folder = tempfile.mkdtemp(prefix="scoremesh-probe-")
    os.chdir(folder)
    os.rmdir(folder)  # noqa: PTH106 -- a path that is gone is of no use


def _settle() -> None:
    """Load what the children will want, so that they share it, and keep the collector from copying it."""
    warm_up()
    gc.collect()
    gc.freeze()
    gc.disable()


def _missing() -> list[str]:
    """What the sandbox lacks here, as found by a child that enters it and does nothing else."""
    parent = os.getpid()
    child = Throwaway(lambda _, telling: _enter(Limits(), [telling], parent, telling), time.monotonic() + _START_S)
    try:
        return _lines(child.first_words())
    finally:
        child.end()


def _enter(limits: Limits, keep: list[int], parent: int, telling: int) -> None:
    """Shut this process in, and tell what of that could not be had; read by `_lines`."""
    _write(telling, ("\n".join(enter(limits, keep, parent)) + "\n").encode())  # a line even where all holds


def _lines(first_words: bytes) -> list[str]:
    return [line for line in first_words.decode().split("\n") if line]


def _attend(head: Head, work: Work, requests: int, replies: int, told: list[str]) -> None:
    """Take one request and answer it. `told`: what is known to be missing; gets what is new."""
    child = Throwaway(partial(_try, head, work, os.getpid()), time.monotonic() + head.timeout_s)
    with mapping(most_answer_bytes(head.data_bytes) + 1) as answer:
        try:
            _warn_once(_lines(child.first_words()), told)
            skip(requests, child.give(requests, head.order_bytes + head.data_bytes))
            ending, length = child.hear(answer, requests)
        finally:
            exit_code = child.end()
        _write(replies, ENDED.pack(ending, exit_code, length))
        _write(replies, answer[:length])


def _warn_once(missing: list[str], told: list[str]) -> None:
    for what in missing:
        if what not in told:
            told.append(what)
            _LOG.warning("a model was tried without a part of the sandbox that could be had before: %s", what)


def _try(head: Head, work: Work, parent: int, taking: int, telling: int) -> None:
    """What the child does; the request is only read inside the sandbox."""
    memory = os.memfd_create("scratch")  # inside none can be made
    limits = Limits(cpu_s=math.ceil(head.cpu_s), file_bytes=2 * most_artifact_bytes(head.data_bytes))
    _enter(limits, [taking, telling, memory], parent, telling)
    try:
        with open(taking, "rb") as request:
            order, data = request.read(head.order_bytes), request.read(head.data_bytes)
        work(data, msgspec.json.decode(order, type=Order), telling, memory)
    except MemoryError:
        _write(telling, _refusal(f"the model wants more than {limits.address_space_bytes >> 30} GiB of memory"))


def _read(source: int, size: int) -> bytes:
    """`size` bytes, or fewer at the end."""
    data = b""
    while len(data) < size and (piece := os.read(source, size - len(data))):
        data += piece
    return data


def _write(target: int, data: bytes | memoryview) -> None:
    with memoryview(data) as rest:
        written = 0
        while written < len(rest):
            written += os.write(target, rest[written:])


def main() -> None:
    """Run until standard input ends."""
    prepare()
    serve(try_model)


if __name__ == "__main__":
    end_with(main)
