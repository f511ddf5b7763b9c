"""The command line: all commands, and how a failure is told.

Exit status: 0 done; 1 it failed, and one line on standard error says why; 2 the command line is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from client import ScoreError
from ops import applications, explain, placement, quarantine, rollouts, tenants
from ops.catalogue import command as catalogue
from ops.demo import demo
from ops.index import index
from ops.load.command import load
from ops.models import alias, delete, describe, ls, retire, rollback
from ops.nodes import nodes
from ops.publish import publish
from ops.publish_many import many
from ops.rebuild import rebuild
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
    "Try it": (up, demo, load),
    "Models": (publish, ls, describe, alias, rollback, retire, delete, score),
    "Cluster": (nodes, index, rebuild),
}
_GROUPS = {
    "catalogue": (catalogue.app, "Try it"),
    "rollout": (rollouts.app, "Models"),
    "tenant": (tenants.app, "Cluster"),
    "application": (applications.app, "Cluster"),
    "quarantine": (quarantine.app, "Cluster"),
    "explain": (explain.app, "Cluster"),
    "placement": (placement.app, "Cluster"),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.command("publish-many", rich_help_panel="Models")(many)
for _name, (_group, _panel) in _GROUPS.items():
    app.add_typer(_group, name=_name, rich_help_panel=_panel)


def run() -> None:
    """Run the command line of this process."""
    try:
        app()
    except ScoreMeshError as error:
        sys.exit(f"error: {error.reason}: {error.message}")
    except ScoreError as error:
        sys.exit(f"error: {error.reason}: {error.message}")
