"""The command line: all commands, and how a failure is told.

Exit status: 0 done; 1 it failed, and one line on standard error says why; 2 the command line is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from client import ScoreError
from ops.demo import demo
from ops.models import alias, describe, ls, publish, sync
from ops.nodes import nodes
from ops.score import score
from ops.up import up
from registry.errors import ScoreMeshError

app = typer.Typer(
    help="Scores hundreds of thousands of small models of many tenants on shared CPU machines.",
    epilog="Exit status: 0 done, 1 failed (one line says why), 2 wrong usage. docs/operating.md has more.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Try it": (up, demo),
    "Models": (publish, ls, describe, alias, sync),
    "Cluster": (nodes, score),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


def run() -> None:
    """Run the command line of this process."""
    try:
        app()
    except ScoreMeshError as error:
        sys.exit(f"error: {error.reason}: {error.message}")
    except ScoreError as error:
        sys.exit(f"error: {error.reason}: {error.message}")
