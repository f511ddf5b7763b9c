"""How the commands print: a table for a person, JSON for a program.

Contract: JSON goes to standard output whole and alone. A table is as wide as it must be where standard output is not a
terminal, so that no log and no pipe gets a shortened id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

_WIDE = 200


class OutputFormat(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[OutputFormat, typer.Option("-o", "--output", help="How to print.")]


def console() -> Console:
    """Standard output. Numbers are not coloured and text is not taken for markup."""
    made = Console(highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_WIDE)


def show_json(value: Any) -> None:
    """Print as JSON, indented."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: OutputFormat, empty: str, prose: str = ""
) -> None:
    """Print records: a table of `columns`, or a JSON list of all they have. `empty`: said where a table has no row.
    `prose`: the column that is broken into lines, so that all others are whole.
    """
    if output is OutputFormat.JSON:
        show_json(rows)
    elif not rows:
        typer.echo(empty)
    else:
        console().print(table(columns, [[row[column] for column in columns] for row in rows], prose))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], prose: str = "") -> Table:
    """A plain table; numbers to the right. `prose`: a column that is broken into lines."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        made.add_column(column, justify="right" if numeric else "left", no_wrap=column != prose)
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def mib(nbytes: int) -> float:
    """MiB, to two places, for a person."""
    return round(nbytes / (1 << 20), 2)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={held}" for key, held in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
