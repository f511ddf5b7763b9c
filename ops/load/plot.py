"""Plots as SVG, drawn here so that a page of them needs nothing from anywhere. Pure.

Colours are classes (`c0` to `c7`, `grid`, `title`) for the page's style sheet, so that they fit light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 900, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 170, 34, 44
COLOURS = 8


class Series(NamedTuple):
    """One line; points whose y is NaN (or 0 on a logarithmic axis) are left out."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class Axis(NamedTuple):
    """`ticks`: value and label. `to_unit`: a value as a share of the axis."""

    ticks: Sequence[tuple[float, str]]
    to_unit: Callable[[float], float]


def plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log_y: bool = False,
    x_axis: Axis | None = None,
    y_axis: Axis | None = None,
) -> str:
    """Lines over one axis of x. Without an axis one is made that fits."""
    points = [(x, y) for line in series for x, y in zip(line.xs, line.ys, strict=True) if _is_shown(y, log_y)]
    if not points:
        return f"<p>{escape(title)}: nothing to show</p>"
    x_axis = x_axis or linear([x for x, _y in points])
    ys = [y for _x, y in points]
    y_axis = y_axis or (logarithmic(ys) if log_y else linear([0.0, *ys]))
    title = f"{title}, {y_label}" if y_label else title
    parts = _frame(title, x_label, x_axis, y_axis)
    for number, line in enumerate(series):
        parts += _line(line, number, x_axis, y_axis, log_y)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def fixed(ticks: Sequence[tuple[float, str]]) -> Axis:
    """An axis with these ticks, from the first to the last."""
    low, high = ticks[0][0], ticks[-1][0]
    return Axis(ticks, lambda value: (value - low) / (high - low))


def linear(values: Sequence[float]) -> Axis:
    """An axis from the smallest to the largest value, with about five round ticks."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / 5 or 1.0)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    high = high if high > low else low + step
    count = round((high - low) / step)
    return fixed([(low + step * number, f"{low + step * number:,.6g}") for number in range(count + 1)])


def logarithmic(values: Sequence[float]) -> Axis:
    """An axis with ticks at 1, 2 and 5 times powers of ten; at the powers alone where these are many."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) < 5 else (1,)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    first = max((number for number, tick in enumerate(ticks) if tick <= low), default=0)
    last = min((number for number, tick in enumerate(ticks) if tick >= high), default=len(ticks) - 1)
    chosen = ticks[first : max(last, first + 1) + 1]
    bottom, top = math.log10(chosen[0]), math.log10(chosen[-1])
    labels = [(tick, f"{tick:,g}") for tick in chosen]
    return Axis(labels, lambda value: (math.log10(value) - bottom) / (top - bottom))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= step * 0.999)


def _is_shown(y: float, log_y: bool) -> bool:
    return math.isfinite(y) and (y > 0 or not log_y)


def _x(unit: float) -> float:
    return _LEFT + unit * (_WIDTH - _LEFT - _RIGHT)


def _y(unit: float) -> float:
    return _HEIGHT - _BOTTOM - unit * (_HEIGHT - _TOP - _BOTTOM)


def _frame(title: str, x_label: str, x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = [f'<text x="0" y="16" class="title">{escape(title)}</text>']
    for value, label in y_axis.ticks:
        y = _y(y_axis.to_unit(value))
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    for value, label in x_axis.ticks:
        x, bottom = _x(x_axis.to_unit(value)), _HEIGHT - _BOTTOM
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(label)}</text>')
    middle = (_WIDTH - _RIGHT + _LEFT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    return parts


def _line(line: Series, number: int, x_axis: Axis, y_axis: Axis, log_y: bool) -> list[str]:
    colour = f"c{number % COLOURS}"
    places = [
        (_x(x_axis.to_unit(x)), _y(y_axis.to_unit(y)))
        for x, y in zip(line.xs, line.ys, strict=True)
        if _is_shown(y, log_y)
    ]
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" class="{colour}"/>' for x, y in places if len(places) < 30]
    y = _TOP + 6 + 18 * number
    key = f'<line x1="{_WIDTH - _RIGHT + 14}" x2="{_WIDTH - _RIGHT + 32}" y1="{y}" y2="{y}" class="{colour}"/>'
    name = f'<text x="{_WIDTH - _RIGHT + 38}" y="{y + 4}">{escape(line.name)}</text>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return [f'<polyline points="{path}" class="{colour}"/>', *dots, key, name]
