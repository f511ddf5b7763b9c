"""Bounds that a run must keep, as "p99_ms<=20", "victims/p99_ms<=20", "cold/p99_ms<=800", "victims/warm/p50_ms<=2".
Pure.

A figure is of all requests unless a class is named, and of all places where the model may have been unless one of warm,
disk and cold is. A figure that there isn't (no cold request, say) keeps no bound.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ops.load.percentiles import QUANTILES, RESIDENCIES, GroupFigures, Latency
from ops.load.report import Report
from registry.errors import InvalidRequestError

_TEXT = re.compile(r"(?P<path>[^<>=\s]+)\s*(?P<sign><=|>=)\s*(?P<bound>[0-9]+(\.[0-9]+)?(e-?[0-9]+)?)")
_SIGNS = {"<=": operator.le, ">=": operator.ge}
_PLACES = {f"p{quantile * 100:g}_ms": place for place, quantile in enumerate(QUANTILES)}
_OF_LATENCY = (*_PLACES, "max_ms", "mean_ms")
_OF_GROUP: dict[str, Callable[[GroupFigures, Report], float]] = {
    "error_rate": lambda group, _report: group.error_rate if group.requests else math.nan,
    "hit_rate": lambda group, _report: group.hit_rate,
    "rate": lambda group, report: group.all.requests / report.spec.duration_s,
    "cpu_us": lambda _group, report: report.cpu_us,
}
_KINDS = tuple(RESIDENCIES.values())


class Bound(NamedTuple):
    """`text`: as it was written. `group`: a class, "all" for all requests. `kind`: warm, disk, cold, or "" for any."""

    text: str
    group: str
    kind: str
    figure: str
    sign: str
    limit: float


class Gate(NamedTuple):
    """A bound as it was written, and what the figure was; NaN, for none, keeps no bound."""

    text: str
    value: float
    is_met: bool


def parse_bound(text: str, classes: Sequence[str]) -> Bound:
    """A bound of the command line. Raises InvalidRequestError: says what it could be."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise InvalidRequestError(f"bound {text!r}: wanted FIGURE<=NUMBER or FIGURE>=NUMBER")
    *scope, figure = found["path"].split("/")
    kind = scope.pop() if scope and scope[-1] in _KINDS else ""
    group = scope.pop() if scope else "all"
    if scope or group not in ("all", *classes):
        raise InvalidRequestError(f"bound {text!r}: there is no class {'/'.join([*scope, group])!r}")
    known = _OF_LATENCY if kind else (*_OF_LATENCY, *_OF_GROUP)
    if figure not in known:
        raise InvalidRequestError(f"bound {text!r}: {figure!r} is unknown; there are {', '.join(known)}")
    return Bound(text.strip(), group, kind, figure, found["sign"], float(found["bound"]))


def gates(report: Report, bounds: Iterable[Bound]) -> list[Gate]:
    """Each bound, and what the figure was."""
    found = []
    for bound in bounds:
        value = _value(report, bound)
        found.append(Gate(bound.text, value, bool(_SIGNS[bound.sign](value, bound.limit))))
    return found


def _value(report: Report, bound: Bound) -> float:
    groups = {group.name: group for group in report.groups}
    group = groups.get(bound.group, report.groups[0])  # Of one class alone there are no figures but all.
    if bound.figure in _OF_GROUP:
        return _OF_GROUP[bound.figure](group, report)
    latency = group.residency.get(bound.kind, Latency(0)) if bound.kind else group.all
    if not latency.requests:
        return math.nan
    if bound.figure in _PLACES:
        return latency.quantiles_ms[_PLACES[bound.figure]]
    return latency.max_ms if bound.figure == "max_ms" else latency.mean_ms
