"""Stands in for `scorer.probe`: its reply never ends, and it doesn't mind that nobody wants it any more."""

from __future__ import annotations

import os

from registry.probe_wire import BY_ITSELF, ENDED, HEAD, Hello, frame
from registry.process import end_with, prepare


def main() -> None:
    prepare()
    os.write(1, frame(Hello(())))
    os.read(0, HEAD.size)
    os.write(1, ENDED.pack(BY_ITSELF, 0, 1 << 40))
    while True:
        os.write(1, bytes(1 << 16))


if __name__ == "__main__":
    end_with(main)
