"""Arrivals from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.load.spec import LoadModel, LoadSpec, TenantClass
from ops.load.trace import read_trace
from registry.errors import InvalidRequestError
from tests.unit.load_specs import spec_of

_MODELS = (LoadModel("acme", "a", 3), LoadModel("globex", "b", 3, "others"))


def _spec(folder: Path, text: str, **more: object) -> LoadSpec:
    path = folder / "trace.csv"
    path.write_text(text)
    classes = (TenantClass(name="acme", rate=1.0, tenants="acme"), TenantClass(name="others", rate=1.0))
    return spec_of(*classes, models=_MODELS, trace=str(path), **more)


def test_lines_are_replayed_as_they_are(tmp_path: Path) -> None:
    spec = _spec(tmp_path, "seconds,tenant,model,rows\n0,acme,a,1\n0.5,globex,b,16\n\n0.5,acme,a,2\n")
    found = read_trace(spec, 0)
    assert found.due_s.tolist() == [0.0, 0.5, 0.5]
    assert found.model.tolist() == [0, 1, 0]
    assert found.rows.tolist() == [1, 16, 2]
    assert found.group.tolist() == [0, 1, 0]


def test_processes_share_the_lines(tmp_path: Path) -> None:
    text = "".join(f"{number / 10},acme,a,{number + 1}\n" for number in range(7))
    parts = [read_trace(_spec(tmp_path, text, processes=3), process).rows.tolist() for process in range(3)]
    assert parts == [[1, 4, 7], [2, 5], [3, 6]]


def test_what_comes_after_the_run_is_left_out(tmp_path: Path) -> None:
    spec = _spec(tmp_path, "0,acme,a,1\n1,acme,a,1\n9,acme,a,1\n", duration_s=3.0)
    assert read_trace(spec, 0).due_s.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0,acme,a,1\n1,acme,c,1\n", "line 2 of .*: acme/c isn't among the models"),
        ("1,acme,a,1\n0.5,acme,a,1\n", "line 2 of .*: it isn't in order of time"),
        ("0,acme,a\n", "line 1 of .*: wanted seconds,tenant,model,rows"),
        ("soon,acme,a,1\n", "line 1 of .*: wanted seconds"),
        ("nan,acme,a,1\n", "line 1 of .*: wanted seconds from 0 on"),
        ("0,acme,a,0\n", "line 1 of .*: wanted seconds from 0 on, and at least one row"),
        ("seconds,tenant,model,rows\n", "has no request"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        read_trace(_spec(tmp_path, text), 0)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"can't read .*nothing"):
        read_trace(spec_of(trace=str(tmp_path / "nothing")), 0)
