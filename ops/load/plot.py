"""Plots as SVG, drawn here so that a page of them needs nothing from anywhere. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 860, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 28, 36
_COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#475569")


class Series(NamedTuple):
    """One line; points whose y is NaN (or 0 on a logarithmic axis) are left out."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class Axis(NamedTuple):
    """`ticks`: value and label; else they are made. `to_unit`: a value as a share of the axis."""

    ticks: Sequence[tuple[float, str]]
    to_unit: Callable[[float], float]


def plot(title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_y: bool = False) -> str:
    """Lines over one axis of x."""
    points = [(x, y) for line in series for x, y in zip(line.xs, line.ys, strict=True) if _is_shown(y, log_y)]
    if not points:
        return f"<p>{escape(title)}: nothing to show</p>"
    x_axis = linear([x for x, _y in points])
    y_axis = logarithmic([y for _x, y in points]) if log_y else linear([0.0, *(y for _x, y in points)])
    parts = [*_frame(title, x_label, y_label, x_axis, y_axis)]
    for number, line in enumerate(series):
        parts += _line(line, number, x_axis, y_axis, log_y)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def linear(values: Sequence[float]) -> Axis:
    """An axis from the smallest to the largest value, with about five round ticks."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / 5 or 1.0)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step or step
    high = high if high > low else low + step
    count = round((high - low) / step)
    ticks = [(low + step * number, f"{low + step * number:g}") for number in range(count + 1)]
    return Axis(ticks, lambda value: (value - low) / (high - low))


def logarithmic(values: Sequence[float]) -> Axis:
    """An axis in powers of ten."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    ticks = [(10.0**power, f"{10.0**power:g}") for power in range(low, high + 1)]
    return Axis(ticks, lambda value: (math.log10(value) - low) / (high - low))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= step * 0.999)


def _is_shown(y: float, log_y: bool) -> bool:
    return math.isfinite(y) and (y > 0 or not log_y)


def _x(unit: float) -> float:
    return _LEFT + unit * (_WIDTH - _LEFT - _RIGHT)


def _y(unit: float) -> float:
    return _HEIGHT - _BOTTOM - unit * (_HEIGHT - _TOP - _BOTTOM)


def _frame(title: str, x_label: str, y_label: str, x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = [f'<text x="{_LEFT}" y="16" class="title">{escape(title)}</text>']
    for value, label in y_axis.ticks:
        y = _y(y_axis.to_unit(value))
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in x_axis.ticks:
        x, y = _x(x_axis.to_unit(value)), _HEIGHT - _BOTTOM
        parts.append(f'<text x="{x:.1f}" y="{y + 16}" text-anchor="middle">{label}</text>')
    middle = (_WIDTH - _RIGHT + _LEFT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 2}" text-anchor="end">{escape(y_label)}</text>')
    return parts


def _line(line: Series, number: int, x_axis: Axis, y_axis: Axis, log_y: bool) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    places = [
        f"{_x(x_axis.to_unit(x)):.1f},{_y(y_axis.to_unit(y)):.1f}"
        for x, y in zip(line.xs, line.ys, strict=True)
        if _is_shown(y, log_y)
    ]
    y = _TOP + 8 + 18 * number
    name = f'<text x="{_WIDTH - _RIGHT + 26}" y="{y + 4}">{escape(line.name)}</text>'
    key = f'<line x1="{_WIDTH - _RIGHT + 8}" x2="{_WIDTH - _RIGHT + 22}" y1="{y}" y2="{y}" stroke="{colour}"/>'
    return [f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}"/>', key, name]
