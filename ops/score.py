"""The command `score`: rows typed or in a file, scored through a router with the client library."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from client import Client, Scores
from client.scores import Contributions, Output
from ops.connection import ModelArgument
from ops.show import OutputFormat, OutputOption, console, show_json, table
from registry.errors import InvalidRequestError

_TIMEOUT_S = 10.0
_MOST_SHOWN = 10
_MISSING = {"", "nan", "na", "null"}


def score(
    model: ModelArgument,
    router: Annotated[
        str, typer.Option("--router", envvar="SCOREMESH_ROUTER", metavar="HOST:PORT", help="A router's address.")
    ] = "127.0.0.1:7100",
    rows: Annotated[str, typer.Option(help='Rows of numbers: "1,2,3;4,5,6"; nothing between commas is missing.')] = "",
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="A file with one row a line; a line of names on top is skipped.")
    ] = None,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Also tell what each input adds to each score.")
    ] = False,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Score rows with a model and print the answer."""
    if bool(rows) == (csv_file is not None):
        raise typer.BadParameter("give either --rows or --csv")
    matrix = parse_rows(rows) if csv_file is None else read_csv(csv_file)
    with Client(router) as client:
        scores = client.score(model.tenant, model.model, matrix, timeout_s=_TIMEOUT_S, contributions=contributions)
    if output is OutputFormat.JSON:
        show_json(_as_json(scores))
    else:
        _show(scores)


def parse_rows(text: str) -> list[list[float]]:
    """The rows in "1,2;3,4". Raises InvalidRequestError: a cell is no number, or rows differ in length."""
    rows = text.strip().removesuffix(";").split(";")
    if not all(row.strip() for row in rows):
        raise InvalidRequestError("a row is empty")
    return _matrix(row.split(",") for row in rows)


def read_csv(path: Path) -> list[list[float]]:
    """The rows of a CSV file, without a header. Raises InvalidRequestError as `parse_rows`, or if it can't be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [cells for cells in csv.reader(file) if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequestError(f"can't read {path} as CSV") from error
    has_header = bool(lines) and not any(_is_number(cell) for cell in lines[0])
    return _matrix(lines[has_header:])


def _matrix(lines: Iterable[list[str]]) -> list[list[float]]:
    matrix = [[_number(cell, number) for cell in cells] for number, cells in enumerate(lines, start=1)]
    if not matrix:
        raise InvalidRequestError("there is no row to score")
    for number, row in enumerate(matrix, start=1):
        if len(row) != len(matrix[0]):
            raise InvalidRequestError(f"row {number} has {len(row)} values, the first one {len(matrix[0])}")
    return matrix


def _number(cell: str, row: int) -> float:
    text = cell.strip()
    if text.lower() in _MISSING:
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise InvalidRequestError(f"row {row}: {text[:40]!r} is not a number") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_json(scores: Scores) -> dict[str, Any]:
    return {
        "version": scores.version,
        "served_by": scores.served_by,
        "residency": scores.residency.name.lower(),
        "timing_us": vars(scores.timing),
        "outputs": {name: _output_json(output) for name, output in scores.outputs.items()},
        **(
            {"contributions": [_contributions_json(one) for one in scores.contributions]}
            if scores.contributions
            else {}
        ),
    }


def _contributions_json(one: Contributions) -> dict[str, Any]:
    return {"label": one.label, "names": one.names, "values": one.values.tolist()}


def _output_json(output: Output) -> dict[str, Any]:
    order = {} if output.order is None else {"order": output.order.tolist()}
    return {"kind": output.kind.value, "columns": output.columns, "values": output.values.tolist(), **order}


def _by_size(one: Contributions) -> list[list[Any]]:
    """A line an input: the largest ones first, and what every row begins with last."""
    sizes = np.abs(one.values[:, :-1]).max(axis=0)
    order = [*np.argsort(-sizes, kind="stable")[:_MOST_SHOWN].tolist(), len(one.names) - 1]
    return [[one.names[place], *map(float, one.values[:, place])] for place in order]


def _show(scores: Scores) -> None:
    for name, output in scores.outputs.items():
        columns = output.columns or (output.kind.value,)
        values = output.values.reshape(len(output.values), -1)
        rows = [[number, *(float(value) for value in row)] for number, row in enumerate(values)]
        typer.echo(f"{name} ({output.kind.value})")
        console().print(table(["row", *columns], rows))
        if output.order is not None:
            typer.echo(f"best first: {', '.join(map(str, output.order))}")
    for one in scores.contributions:
        typer.echo(f"contributions{f' to the raw score of {one.label}' if one.label else ' to the raw score'}")
        console().print(table(["input", *(f"row {row}" for row in range(len(one.values)))], _by_size(one)))
    where = {"HIT": "was in memory", "DISK": "came from its disk", "COLD": "came from the object store"}
    came = where.get(scores.residency.name, "came from somewhere")
    typer.echo(f"version {scores.version}, scored by {scores.served_by}; the model {came}")
