"""A small sample of `make fuzz`, the same at each run, and that the fuzzing sees what it looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry.model import ModelSchema, OutputKind, OutputSchema, Runtime
from registry.offer import Admitted
from tests.fuzz.corruptions import Case, Corruptions
from tests.fuzz.fuzz_admission import KILLED, SCORED, UNUSABLE, Run
from tests.fuzz.originals import lightgbm_originals

COUNT = 60


@pytest.mark.parametrize("runtime", list(Runtime))
def test_no_admitted_model_ends_a_scorer(runtime: Runtime, tmp_path: Path) -> None:
    options = ["--seed", "7", "--count", str(COUNT), "--runtime", runtime.value, "--keep", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz.fuzz_admission", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sums = next(
        line.split() for line in ended.stdout.splitlines() if line.startswith(f"{runtime.value} ") and "-" not in line
    )
    cases, checked, engine, crashed, hung, admitted, scored, unusable, killed, broken = map(int, sums[1:])
    assert cases == COUNT == checked + engine + crashed + hung + admitted
    assert admitted == scored + unusable > 0
    assert checked > 0
    assert killed == broken == 0


def test_a_case_is_made_again_from_its_number() -> None:
    first, second = Corruptions(3), Corruptions(3)
    for number in range(20):
        assert first.case(Runtime.LIGHTGBM, number) == second.case(Runtime.LIGHTGBM, number)
    assert first.case(Runtime.LIGHTGBM, 0) != Corruptions(4).case(Runtime.LIGHTGBM, 0)


async def test_the_end_of_a_scorer_is_seen(tmp_path: Path) -> None:
    """Text that no check has seen is handed to a scorer, between two sound ones."""
    sound = lightgbm_originals()[0]
    broken = sound.replace(b"left_child=", b"left_child=99999", 1)
    schema = ModelSchema(
        features=("a", "b", "c", "d"), outputs=(OutputSchema("p", OutputKind.CLASS_PROBABILITIES, ("0", "1")),)
    )
    run = Run(tmp_path / "keep", tmp_path)
    for name, data in {"before": sound, "broken": broken, "after": sound, "no model": b"tree\n"}.items():
        case = Case(name, Runtime.LIGHTGBM, "by hand", data)
        run.hand_over(case, Admitted(data, schema, 1, {}))
    await run.score_all()
    assert {verdict.case.name: verdict.outcome for verdict in run.verdicts} == {
        "before": SCORED,
        "broken": KILLED,
        "after": SCORED,
        "no model": UNUSABLE,
    }
    assert run.failed()
    assert (tmp_path / "keep" / "broken").read_bytes() == broken
