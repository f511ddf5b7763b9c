"""A scorer that also takes memory for something else: 32 MiB at each SIGUSR1; at SIGUSR2 it gives it all back. Takes
the arguments of a scorer.
"""

from __future__ import annotations

import signal

from registry.process import end_with
from scorer.__main__ import main

_TAKEN_BYTES = 32 * 2**20
_taken: list[bytes] = []


def run() -> None:
    """See the module."""
    signal.signal(signal.SIGUSR1, lambda *_: _taken.append(b"x" * _TAKEN_BYTES))
    signal.signal(signal.SIGUSR2, lambda *_: _taken.clear())
    main()


if __name__ == "__main__":
    end_with(run)
