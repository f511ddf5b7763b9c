"""Whether a model may be expected to be quick with some rows, by what it took for others. Pure.

Contract: a model takes a time of its own for each call and a time for each row. So a call of more rows takes at most in
proportion longer than one that was seen, and one of fewer rows at most as long; what a later call contradicts is
forgotten. A call that is expected to be slow is tried nevertheless, at once and then after longer and longer pauses, as
long as it is: what was seen may have been the machine's fault.
"""

from __future__ import annotations

_FIRST_PAUSE_S = 5.0
_LAST_PAUSE_S = 60.0


class Pace:
    """Of one model. `limit_us`: what is slow. Remembers the last call of each order of magnitude."""

    __slots__ = ("_again_at", "_limit_us", "_pause_s", "_seen", "_trying")

    def __init__(self, limit_us: float) -> None:
        self._limit_us = limit_us
        self._seen: list[tuple[int, float]] = []  # rows and microseconds
        self._trying = False
        self._again_at = 0.0
        self._pause_s = _FIRST_PAUSE_S

    def allows(self, rows: int, now: float) -> bool:
        """Whether a call may be made now; if so, it's made."""
        self._trying = min((_most_us(each, rows) for each in self._seen), default=0.0) > self._limit_us
        if self._trying:
            if now < self._again_at:
                return False
            self._again_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)
        return True

    def saw(self, rows: int, took_us: float) -> None:
        """Tell what the allowed call took."""
        if self._trying and took_us <= self._limit_us:
            self._pause_s = _FIRST_PAUSE_S
        magnitude = rows.bit_length()
        agreeing = (each for each in self._seen if _most_us(each, rows) >= took_us)
        self._seen = [each for each in agreeing if each[0].bit_length() != magnitude]
        self._seen.append((rows, took_us))


def _most_us(seen: tuple[int, float], rows: int) -> float:
    return seen[1] * max(1.0, rows / seen[0])
