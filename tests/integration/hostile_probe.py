"""Stands in for `scorer.probe`: its throw-away processes run the Python code that is offered as a model, which does
what a file could that has taken over an engine.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import struct
import time
from typing import Any

import msgspec

from registry.manifest import GoldenRows
from registry.model import ModelSchema, OutputKind, OutputSchema
from registry.probe_wire import Findings, Order, Refused, Rewritten, frame
from registry.process import end_with, prepare
from scorer.probe import serve

_MODULES: tuple[Any, ...] = (os, re, signal, socket, time, ctypes, struct, msgspec)
_STRUCTS: tuple[Any, ...] = (Refused, Rewritten, Findings, ModelSchema, OutputKind, OutputSchema, GoldenRows)
_NAMES = {one.__name__: one for one in (*_MODULES, *_STRUCTS, frame)}


def run(data: bytes, order: Order, answer: int, memory: int) -> None:
    """Run the code; `say` writes to the answer. An error is told as a refusal."""

    def say(what: bytes) -> None:
        os.write(answer, what)

    try:
        exec(data, {**_NAMES, "say": say, "order": order, "memory": memory})  # noqa: S102 - that is what it is for
    except BaseException as error:
        say(frame(Refused(f"tried and failed: {error!r}")))


def main() -> None:
    prepare()
    serve(run)


if __name__ == "__main__":
    end_with(main)
