"""What a router does now and then, beside its requests: judges links, warns of a stale view, logs what is off.

Once a second links are judged. Once a minute one line tells what an operator should hear of, if there is anything; on
SIGUSR1 one line has all counters and gauges, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal

from router.admission import Admission
from router.cluster_view import ClusterView
from router.counters import Counters, what_is_off
from router.link_health import LinkHealth

_SWEEP_S = 1.0
_REPORT_S = 60.0
_log = logging.getLogger(__name__)


class HouseKeeping:
    """Runs from now until `close`. `stale_s`: a view of the cluster that is older is worth a warning."""

    def __init__(
        self, counters: Counters, admission: Admission, links: LinkHealth, view: ClusterView, *, stale_s: float
    ) -> None:
        self._counters, self._links, self._view, self._stale_s = counters, links, view, stale_s
        self._loop = asyncio.get_running_loop()
        counters.gauge("view_age_s", lambda: round(view.age_s, 3))
        counters.gauge("in_flight", lambda: admission.in_flight)
        counters.gauge("limit", lambda: admission.limit)
        self._reported = counters.snapshot()
        self._report_at = self._loop.time() + _REPORT_S
        self._was_stale = False
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: somebody else's process
            self._loop.add_signal_handler(signal.SIGUSR1, self._tell_all)

    def close(self) -> None:
        """Stop."""
        self._timer.cancel()
        with contextlib.suppress(ValueError, RuntimeError):
            self._loop.remove_signal_handler(signal.SIGUSR1)

    def _sweep(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_at(now + _SWEEP_S, self._sweep)
        self._links.sweep()
        is_stale = self._view.age_s > self._stale_s
        if is_stale and not self._was_stale:
            self._warn_of_age()
        self._was_stale = is_stale
        if now >= self._report_at:
            self._report_at = now + _REPORT_S
            self._report()

    def _warn_of_age(self) -> None:
        _log.warning("nothing heard from etcd for %.0f s; the router goes on by what it last knew", self._view.age_s)

    def _report(self) -> None:
        if self._was_stale:
            self._warn_of_age()
        before, self._reported = self._reported, self._counters.snapshot()
        off = what_is_off(before, self._reported)
        if off:
            told = ", ".join(f"{name} {count:g}" for name, count in off.items())
            _log.warning("in the last %.0f s: %s", _REPORT_S, told)

    def _tell_all(self) -> None:
        _log.info("counters: %s", json.dumps(self._counters.snapshot()))
