from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ops.sample_rows import MAX_ROWS, Column, make_rows, read_sample_rows
from registry.errors import ArtifactRejectedError


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('code,target,"size, cm",paid\n007,1,1.5,True\n\n008,0,,false\n')
    found = read_sample_rows(path).select([Column("size, cm"), Column("code", is_text=True), Column("paid")])
    np.testing.assert_array_equal(found.dense, [[1.5, 1.0], [np.nan, 0.0]])
    assert found.strings == {"code": ["007", "008"]}


def test_columns_without_names_are_taken_in_order(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2\n3,4\n")
    np.save(tmp_path / "rows.npy", np.array([[1, 2], [3, 4]]))
    for name in ("rows.csv", "rows.npy"):
        found = read_sample_rows(tmp_path / name).select([Column("a"), Column("b")])
        np.testing.assert_array_equal(found.dense, [[1, 2], [3, 4]])
        with pytest.raises(ArtifactRejectedError, match="2 columns without names, the model has 1"):
            read_sample_rows(tmp_path / name).select([Column("a")])


def test_numbers_survive(tmp_path: Path) -> None:
    numbers = np.array([[0.1, 1e300, -1e-300, np.nan, np.inf]])
    np.save(tmp_path / "rows.npy", numbers)
    columns = [Column(str(i)) for i in range(5)]
    np.testing.assert_array_equal(read_sample_rows(tmp_path / "rows.npy").select(columns).dense, numbers)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.csv", b"a,b\n", "have no rows"),
        ("rows.csv", b"", "have no rows"),
        ("rows.csv", b"a,b\n1,2\n3\n", "row 1 of the sample rows .* has 1 cells, wanted 2"),
        ("rows.csv", b"\xff\xfe\x00", "no .csv table"),
        ("rows.npy", b"no array", "no .npy matrix"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactRejectedError, match=told):
        read_sample_rows(tmp_path / name)


def test_what_the_model_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRejectedError, match="can't read the sample rows"):
        read_sample_rows(tmp_path / "none.csv")
    (tmp_path / "rows.csv").write_text("a,b\n1,red\n")
    rows = read_sample_rows(tmp_path / "rows.csv")
    with pytest.raises(ArtifactRejectedError, match="lack 2 of the model's columns: c, d"):
        rows.select([Column("a"), Column("c"), Column("d")])
    with pytest.raises(ArtifactRejectedError, match="row 0 of the sample rows has no number in column 'b'"):
        rows.select([Column("a"), Column("b")])


def test_no_more_than_the_first_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n" + "1\n" * 3 * MAX_ROWS)
    np.save(tmp_path / "rows.npy", np.zeros((3 * MAX_ROWS, 1)))
    assert len(read_sample_rows(tmp_path / "rows.csv").rows) == MAX_ROWS
    assert len(read_sample_rows(tmp_path / "rows.npy").rows) == MAX_ROWS


def test_made_rows_know_the_columns() -> None:
    columns = [
        Column("a", points=(1.0, 2.0)),
        Column("t", is_text=True, texts=("x", "y")),
        Column("gaps", takes_missing=True),
    ]
    rows = make_rows(columns)
    assert {1.0, 2.0} < set(rows.dense[:, 0].tolist())
    assert (rows.dense[:, 0] < 1).any()
    assert (rows.dense[:, 0] > 2).any()
    assert set(rows.strings["t"]) == {"x", "y"}
    assert 0 < np.isnan(rows.dense[:, 1]).sum() < len(rows.dense) / 2
    again = make_rows(columns)
    np.testing.assert_array_equal(rows.dense, again.dense)
    assert rows.strings == again.strings


def test_made_rows_of_text_alone() -> None:
    rows = make_rows([Column("t", is_text=True)])
    assert rows.dense.shape == (len(rows.strings["t"]), 0)
