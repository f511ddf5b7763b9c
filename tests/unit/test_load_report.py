"""A run's figures, the bounds that it must keep, and whether the generator was the limit."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import msgspec
import pytest

from ops.load.gates import gates, parse_bound
from ops.load.outcomes import LoadRun, Outcomes
from ops.load.page import page
from ops.load.plot import Series, linear, logarithmic, plot
from ops.load.report import Report, make_report
from ops.load.screen import Screen, latency_table, summary
from ops.load.sending import Progress
from ops.load.spec import LoadSpec, TenantClass
from registry.errors import InvalidRequestError
from tests.unit.load_specs import outcomes_of, spec_of

_CLASSES = (TenantClass(name="victims", rate=50.0), TenantClass(name="greedy", rate=50.0))


def _run(outcomes: Outcomes, **more: object) -> LoadRun:
    given: dict[str, object] = {
        "outcomes": outcomes,
        "busiest": 0.2,
        "cpu_us": 30.0,
        "server_cpu_s": math.nan,
        "limit_per_s": 10_000.0,
        "examples": {},
    }
    return LoadRun(**{**given, **more})  # type: ignore[arg-type]


def _report(spec: LoadSpec | None = None, **more: object) -> Report:
    """A hundred requests of each class in ten seconds: victims take 1 ms, the greedy 10 ms, and every tenth time 200
    ms, as their model is cold.
    """
    due = [number / 20 for number in range(200)]
    taken = [1.0 if number % 2 == 0 else 200.0 if number % 20 == 1 else 10.0 for number in range(200)]
    residency = [3 if each == 200.0 else 1 for each in taken]
    outcomes = outcomes_of(due, taken, residency=residency, group=[number % 2 for number in range(200)])
    return make_report(spec or spec_of(*_CLASSES), _run(outcomes, **more), machine="m", at="now")


def _value(report: Report, bound: str) -> float:
    [gate] = gates(report, [parse_bound(bound, ["victims", "greedy"])])
    return gate.value


def test_figures_are_split_by_class_and_by_where_the_model_was() -> None:
    report = _report(server_cpu_s=0.004)
    assert [group.name for group in report.groups] == ["all", "victims", "greedy"]
    assert _value(report, "p50_ms<=1") == pytest.approx(1)
    assert _value(report, "victims/p99.9_ms<=1") == pytest.approx(1)
    assert _value(report, "greedy/warm/max_ms<=1") == pytest.approx(10)
    assert _value(report, "cold/p50_ms<=1") == pytest.approx(200)
    assert _value(report, "greedy/hit_rate>=0") == pytest.approx(0.9)
    assert _value(report, "rate>=0") == pytest.approx(20)
    assert _value(report, "error_rate<=0") == 0
    assert _value(report, "cpu_us<=0") == pytest.approx(20)


def test_the_warm_up_is_not_measured() -> None:
    outcomes = outcomes_of([0.1, 1.9, 2.1, 3.9, 4.1], [500.0, 500.0, 1.0, 1.0, 500.0])
    report = make_report(spec_of(warm_up_s=2.0, duration_s=2.0), _run(outcomes), machine="", at="")
    assert report.all.requests == 2
    assert report.all.all.max_ms == pytest.approx(1)
    assert [each.at_s for each in report.moments] == [0, 1]


def test_unanswered_requests_are_errors() -> None:
    outcomes = outcomes_of([0.1, 0.2, 0.3, 0.4], [1.0, math.nan, 2.0, 3.0], status=[0, -1, 5, 14])
    report = make_report(spec_of(), _run(outcomes, examples={5: "no model"}), machine="", at="")
    assert report.all.errors == {"UNFINISHED": 1, "NOT_FOUND": 1, "UNAVAILABLE": 1}
    assert report.all.error_rate == 0.75
    assert report.examples == {"NOT_FOUND": "no model"}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("p99_ms<=500", True),
        ("p99_ms <= 150", False),
        ("victims/p99_ms<=1.5", True),
        ("greedy/p99_ms<=1.5e1", False),
        ("cold/p99_ms<=250", True),
        ("disk/p99_ms<=1000", False),  # There was none.
        ("cpu_us<=1000", False),  # Nobody measured it.
        ("hit_rate>=0.9", True),
        ("hit_rate>=0.96", False),
        ("error_rate<=0", True),
    ],
)
def test_a_bound_is_kept_or_not(text: str, met: bool) -> None:
    [gate] = gates(_report(), [parse_bound(text, ["victims", "greedy"])])
    assert gate.is_met is met
    assert gate.text == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p99_ms", "wanted FIGURE<=NUMBER"),
        ("p99_ms<=fast", "wanted FIGURE<=NUMBER"),
        ("p98_ms<=1", "'p98_ms' is unknown; there are p50_ms"),
        ("nobody/p99_ms<=1", "there is no class 'nobody'"),
        ("victims/warm/hit_rate>=1", "'hit_rate' is unknown"),
        ("a/b/c/p99_ms<=1", "there is no class 'a/b/c'"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        parse_bound(text, ["victims"])


def test_a_bound_of_the_only_class_is_of_all() -> None:
    report = _report(spec_of(TenantClass(name="victims", rate=1.0)))
    assert [gate.is_met for gate in gates(report, [parse_bound("victims/rate>=20", ["victims"])])] == [True]


@pytest.mark.parametrize(
    ("more", "late_ms", "why"),
    [
        ({}, 0.1, ""),
        ({}, 30.0, "left 30.0 ms late"),
        ({"busiest": 0.97}, 0.1, "97% of a processor"),
        ({"limit_per_s": 12.0}, 0.1, "10 requests a second are near the 12"),
    ],
)
def test_a_run_that_the_generator_limited_says_so(more: dict[str, object], late_ms: float, why: str) -> None:
    outcomes = outcomes_of([number / 10 for number in range(100)], [100.0] * 100, late_ms=late_ms)
    report = make_report(spec_of(), _run(outcomes, **more), machine="", at="")
    assert why in report.limited_by_generator
    assert bool(report.limited_by_generator) is bool(why)
    assert any(line.startswith("LIMITED") for line in summary(report, [])) is bool(why)


def test_a_report_survives_json() -> None:
    told = msgspec.json.decode(msgspec.json.encode(_report(server_cpu_s=0.01)))
    assert told["groups"][1]["name"] == "victims"
    assert len(told["groups"][1]["all"]["quantiles_ms"]) == 5
    assert len(told["spec"]["models"]) == 3  # Enough to see what they were.
    assert told["models"] == 10


class _Checker(HTMLParser):
    """Whether all that is opened is closed."""

    _ALONE = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {name for name, _ in attrs} & {"src", "href"}, "the page needs something else"
        if tag not in self._ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("empty", [False, True])
def test_the_page_is_whole_and_needs_nothing_else(empty: bool) -> None:
    report = _report(examples={5: "<b>no</b> model"})
    if empty:
        report = make_report(spec_of(*_CLASSES), _run(outcomes_of([], [])), machine="m", at="now")
    made = page(report, gates(report, [parse_bound("victims/p99_ms<=20", ["victims"])]), "scoremesh load --x '<&'")
    checker = _Checker()
    checker.feed(made)
    checker.close()
    assert checker.open == []
    assert "scoremesh load --x '<&'" in checker.text
    assert "url(" not in made
    assert "@import" not in made
    if not empty:
        assert "<b>no</b> model" in checker.text
        assert made.count("<svg") == 4


def test_plots_are_xml_and_leave_out_what_cannot_be_drawn() -> None:
    ys = [1.0, math.nan, 0.0, 1000.0]
    made = plot("a < b", "s", "ms", [Series("p50", range(4), ys), Series("none", [], [])], log_y=True)
    root = ET.fromstring(made)  # noqa: S314 - our own text
    points = [each.get("points") for each in root.iter("polyline")]
    assert points[0] is not None
    assert len(points[0].split()) == 2
    assert points[1] == ""
    assert "nothing to show" in plot("a", "s", "ms", [Series("p50", [1], [math.nan])])


@pytest.mark.parametrize("axis", [linear, logarithmic])
@pytest.mark.parametrize("values", [[5.0], [0.001, 0.002], [1.0, 1.0], [0.3, 70_000.0], [1e-7, 1e9]])
def test_an_axis_has_room_for_its_values(axis: object, values: list[float]) -> None:
    made = (linear if axis is linear else logarithmic)(values)
    assert all(-1e-9 <= made.to_unit(value) <= 1 + 1e-9 for value in values)
    assert 2 <= len(made.ticks) <= 20
    assert made.to_unit(made.ticks[0][0]) == pytest.approx(0)
    assert made.to_unit(made.ticks[-1][0]) == pytest.approx(1)


def test_what_goes_on_is_the_sum_of_the_processes_and_the_slowest_of_them() -> None:
    screen = Screen(spec_of(warm_up_s=1.0))
    screen.draw([Progress(at_s=0.0), Progress(at_s=0.0)])
    drawn = screen.draw(
        [
            Progress(at_s=2.0, sent=1500, answered=900, failed=100, p99_ms=7.0),
            Progress(at_s=2.0, sent=1500, answered=1100, failed=0, p99_ms=9.0),
        ]
    )
    cells = [next(iter(column.cells)) for column in drawn.columns]
    assert cells == ["measured", "2.0 of 11", "3,000", "2,000", "1,000", "100", "900", "0.00", "9.00", "0.00"]


def test_the_table_has_a_line_for_each_class_and_place() -> None:
    made = latency_table(_report())
    names, kinds = ([*made.columns[place].cells] for place in (0, 1))
    assert list(zip(names, kinds, strict=True)) == [
        ("all", "any"),
        ("all", "warm"),
        ("all", "cold"),
        ("victims", "any"),
        ("victims", "warm"),
        ("greedy", "any"),
        ("greedy", "warm"),
        ("greedy", "cold"),
    ]
