"""The pure parts of the comparison with other servers, and of the benchmark of scale."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from bench.models import BenchModel
from bench.peers.fleet import OURS
from bench.peers.loads import Fixed, Saturated
from bench.peers.many import ManyRun
from bench.peers.many_load import sequence
from bench.peers.measure import Turn
from bench.peers.processes import cpu_between_s
from bench.peers.protocols import JSON, OIP, SCORE, row_of, wire_fields
from bench.peers.report import (
    goal_table,
    goals,
    insert,
    many_table,
    page_parts,
    plain,
    ratios,
    spread,
    table,
)
from bench.scale.crowd import simulated
from bench.scale.etcd_metrics import parse
from registry.model import ModelRef
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest, ScoreResponse
from scorer.wire import field, number_field

ROW = [0.5, -2.0, 1e-9]


def model() -> BenchModel:
    request = ScoreRequest(tenant="t", model="m", row_count=1, dense_double=ROW).SerializeToString()
    return BenchModel(ModelRef("t", "m"), Path("m.txt"), request, Path("m.body"), (0.25, 0.75))


def test_an_oip_request_has_the_models_name_and_its_row() -> None:
    fields = dict(wire_fields(OIP.request(model())))
    tensor = dict(wire_fields(fields[5]))
    assert (fields[1], tensor[1], tensor[2]) == (b"m", b"input-0", b"FP64")
    assert list(struct.unpack("<3d", fields[7])) == ROW == row_of(model())


def test_an_oip_answer_is_read_raw_and_typed() -> None:
    raw = field(1, b"m") + field(5, field(1, b"predict")) + field(6, struct.pack("<d", 0.75)) + field(6, b"")
    contents = field(7, struct.pack("<2d", 0.75, 0.5))
    typed = field(1, b"m") + field(5, field(1, b"predict") + number_field(3, 1) + field(5, contents))
    assert OIP.positive(raw) == OIP.positive(typed) == 0.75


def test_our_answer_and_one_in_json_are_read() -> None:
    answer = ScoreResponse(model_version="1")
    answer.outputs.add().class_probabilities.probabilities.extend((0.25, 0.75))
    assert SCORE.positive(answer.SerializeToString()) == JSON.positive(b"[0.75]") == 0.75


def test_fields_of_other_types_are_passed_over() -> None:
    mixed = number_field(1, 300) + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + field(9, b"last")
    assert list(wire_fields(mixed)) == [(9, b"last")]
    with pytest.raises(ValueError, match="wire type 3"):
        list(wire_fields(b"\x0b"))


def test_a_sequence_goes_on_where_it_was_left() -> None:
    whole = sequence(50, 1.0, 400, 0)
    assert np.array_equal(np.concatenate([sequence(50, 1.0, 150, 0), sequence(50, 1.0, 250, 150)]), whole)
    counts = np.sort(np.bincount(sequence(50, 1.0, 20_000, 0), minlength=50))[::-1]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.1)


def test_cpu_time_counts_what_came_meanwhile_and_not_what_went() -> None:
    assert cpu_between_s({1: 5.0, 2: 1.0}, {1: 7.0, 3: 0.5}) == 2.5


def turn(server: str, number: int, rate: float, cpu_us: float) -> Turn:
    fixed = Fixed(rate / 2, 10, 1.0, 2.0, {}, "")
    return Turn(server, number, Saturated(10, rate, 1.0, 2.0), (1, 32), cpu_us, fixed, fixed, 0.0, 50.0)


def test_a_ratio_is_taken_within_a_round_and_its_median_decides() -> None:
    turns = [turn(OURS, 0, 1000, 10), turn("MLServer", 0, 50, 200), turn(OURS, 1, 3000, 10)]
    turns += [turn("MLServer", 1, 600, 100), turn("MLServer", 2, 1, 1)]
    assert ratios(turns, "MLServer", lambda each: each.best.requests_per_s) == [20, 5]
    (goal,) = goals(turns)
    assert (goal["ratio"], goal["spread"], goal["met"]) == (12.5, [5.0, 20.0], True)
    assert [each["met"] for each in goals([turn(OURS, 0, 1000, 10), turn("MLServer", 0, 50, 90)])] == [False]
    assert goal["cpu_ratio"] == spread([20.0, 10.0], 1) == "15.0 (10.0-20.0)"


def test_the_page_is_made_of_the_file(tmp_path: Path) -> None:
    turns = [turn(OURS, 0, 1000, 10), turn("MLServer", 0, 50, 200)]
    run = ManyRun(
        "MLServer", 0, 60, 200, 500.0, 1.0, 2.0, {"14 gone": 3}, {"memory": 150, "disk": 50}, 90.0, 100.0, 0.1
    )
    head = {"command": "c", "when": "w", "facts": {"cores": 2}}
    document = {**head, "turns": [plain(each) for each in turns], "many_run": head, "many": [run._asdict()]}
    parts = page_parts(json.loads(json.dumps(document)))
    assert parts == ["`c`, w. cores 2.", table(turns), goal_table(turns), "`c`, w. cores 2.", many_table([run])]
    assert "| 75% | 3 |" in parts[-1]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    insert(page, parts)
    text = page.read_text()
    assert (text.startswith("before\n"), text.endswith("<!-- results: end -->\nafter\n")) == (True, True)
    assert "old" not in text


def test_metrics_without_labels_are_read() -> None:
    text = '# HELP a b\na_total 3001\nb{c="d"} 5\nbytes 1.5e+06\n'
    assert parse(text) == {"a_total": 3001.0, "bytes": 1.5e6}


def test_simulated_members_share_the_scorers_addresses_and_nothing_else() -> None:
    made = [simulated(number, ["h:1", "h:2"]) for number in range(6)]
    assert [each.address for each in made] == ["h:1", "h:2"] * 3
    assert len({each.id for each in made}) == len({each.host for each in made}) == 6
    assert {each.zone for each in made} == {"zone-0", "zone-1", "zone-2"}
