"""Who is suspected of what, and what counts as a hang."""

from __future__ import annotations

import math
import signal

import pytest

from scorer.crash_cause import Cause, Liveness, cause_of_end, cause_of_hang
from scorer.in_flight import LOAD, LOOP, PREDICT, Seen

_MAIN = 0x7F00
_BUSY = Seen(7, _MAIN, (0, 3, 4), ("looped", "loaded", "predicted"))
_IDLE = Seen(7, _MAIN, (0, 3, 4), ("", "", ""))


def _words(thread: int) -> str:
    return (
        "Fatal Python error: Segmentation fault\n\n"
        "Thread 0x0000000000009999 (most recent call first):\n  <no Python frame>\n\n"
        f"Current thread 0x{thread:016x} (most recent call first):\n"
    )


@pytest.mark.parametrize(
    ("words", "suspects"),
    [
        (_words(_MAIN), {"looped"}),
        (_words(0x1234), {"loaded", "predicted"}),
        ("", {"looped", "loaded", "predicted"}),
        ("Fatal Python error: Aborted\n\nThread 0x00000000000004d2 (most recent call first):\n", {*_BUSY.packages}),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE])
def test_the_thread_that_crashed_tells_the_suspects(words: str, suspects: set[str], number: signal.Signals) -> None:
    cause = cause_of_end(_BUSY, -number, words, 0)
    assert cause.suspects == suspects
    assert cause.text == f"crashed with {number.name}"
    assert cause_of_end(_IDLE, -number, words, 0).suspects == set()


@pytest.mark.parametrize(
    ("status", "oom_kills", "text", "suspects"),
    [
        (-signal.SIGKILL, 0, "was ended by SIGKILL", set()),
        (-signal.SIGKILL, 1, "was killed for want of memory", {"loaded"}),
        (-signal.SIGTERM, 1, "was ended by SIGTERM", set()),
        (-40, 0, "was ended by signal 40", set()),
        (1, 0, "ended with status 1", set()),
        (0, 3, "ended with status 0", set()),
    ],
)
def test_an_end_from_outside_accuses_nobody(status: int, oom_kills: int, text: str, suspects: set[str]) -> None:
    assert cause_of_end(_BUSY, status, "", oom_kills) == Cause(text, frozenset(suspects))


@pytest.mark.parametrize(
    ("packages", "slot", "suspects"),
    [
        (_BUSY.packages, LOOP, {"looped"}),
        (("", "loaded", "predicted"), LOOP, {"loaded", "predicted"}),
        (("", "", ""), LOOP, set()),
        (_BUSY.packages, LOAD, {"loaded"}),
        (_BUSY.packages, PREDICT, {"predicted"}),
    ],
)
def test_suspects_of_a_hang(packages: tuple[str, ...], slot: int, suspects: set[str]) -> None:
    assert cause_of_hang(_BUSY._replace(packages=packages), slot).suspects == suspects


def _seconds_until_hung(*looks: Seen, hang_s: float = 10.0, passed_s: float = 0.25) -> float:
    """How long a worker that shows this, and then goes on showing the last of it, lives; infinite for for ever."""
    liveness = Liveness(hang_s)
    for number in range(4000):
        if liveness.observe(looks[min(number, len(looks) - 1)], passed_s) is not None:
            return number * passed_s
    return math.inf


def test_a_loop_that_does_not_beat_hangs() -> None:
    assert _seconds_until_hung(_IDLE) == pytest.approx(10, abs=0.5)


def test_a_load_may_take_longer_than_a_beat() -> None:
    beating = [_IDLE._replace(beat=beat, packages=("", "loaded", "")) for beat in range(1, 4000)]
    assert _seconds_until_hung(*beating) == pytest.approx(60, abs=0.5)


def test_one_load_after_another_of_the_same_package_is_no_hang() -> None:
    looks = [Seen(n, _MAIN, (0, 1 + n // 100, 1 + n // 100), ("", "same", "same")) for n in range(1, 4000)]
    assert _seconds_until_hung(*looks) == math.inf


def test_what_was_loaded_once_and_is_gone_is_no_hang() -> None:
    assert _seconds_until_hung(*[_IDLE._replace(beat=beat) for beat in range(1, 4000)]) == math.inf


def test_a_worker_that_starts_or_is_stopped_does_not_hang() -> None:
    assert _seconds_until_hung(_IDLE._replace(beat=0)) == math.inf
    assert _seconds_until_hung(_BUSY, passed_s=0.0) == math.inf


def test_a_pause_is_no_part_of_a_hang() -> None:
    liveness = Liveness(10.0)
    assert all(liveness.observe(_BUSY, 0.25) is None for _ in range(30))
    assert all(liveness.observe(_BUSY, 0.0) is None for _ in range(1000))
    assert all(liveness.observe(_BUSY._replace(beat=8), 0.25) is None for _ in range(30))
