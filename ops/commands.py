"""The command line: all commands, and how a failure is told.

A command's module is imported when the command is asked for: all of them together take a second, mostly for what one
command alone needs. Exit status: 0 done; 1 it failed, and one line on standard error says why; 2 the command line is
wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from client import ScoreError
from registry.errors import ScoreMeshError

# By name: where it is, as module:attribute, and the panel of the help that it's in.
_COMMANDS = {
    "up": ("ops.up:up", "Try it"),
    "demo": ("ops.demo:demo", "Try it"),
    "load": ("ops.load.command:load", "Try it"),
    "publish": ("ops.publish:publish", "Models"),
    "ls": ("ops.models:ls", "Models"),
    "describe": ("ops.models:describe", "Models"),
    "alias": ("ops.models:alias", "Models"),
    "rollback": ("ops.models:rollback", "Models"),
    "retire": ("ops.models:retire", "Models"),
    "delete": ("ops.models:delete", "Models"),
    "score": ("ops.score:score", "Models"),
    "nodes": ("ops.nodes:nodes", "Cluster"),
    "index": ("ops.index:index", "Cluster"),
    "rebuild": ("ops.rebuild:rebuild", "Cluster"),
    "publish-many": ("ops.publish_many:many", "Models"),
    "catalogue": ("ops.catalogue.command:app", "Try it"),
    "rollout": ("ops.rollouts:app", "Models"),
    "tenant": ("ops.tenants:app", "Cluster"),
    "application": ("ops.applications:app", "Cluster"),
    "quarantine": ("ops.quarantine:app", "Cluster"),
    "explain": ("ops.explain:app", "Cluster"),
    "placement": ("ops.placement:app", "Cluster"),
}


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """The command line for these arguments: the command that they begin with or, where they begin with none, all."""
    app = typer.Typer(
        help="Scores hundreds of thousands of small models of many tenants on shared CPU machines.",
        epilog="Exit status: 0 done, 1 failed (one line says why), 2 wrong usage. docs/operating.md has more.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # Without one, a single command would be the whole command line.
    for name in [name for name in arguments[:1] if name in _COMMANDS] or _COMMANDS:
        _add(app, name)
    return app


def _add(app: typer.Typer, name: str) -> None:
    place, panel = _COMMANDS[name]
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name, rich_help_panel=panel)
    else:
        app.command(name, rich_help_panel=panel)(found)


def run() -> None:
    """Run the command line of this process."""
    arguments = sys.argv[1:]
    try:
        command_line(arguments)(arguments)
    except (ScoreMeshError, ScoreError) as error:
        sys.exit(f"error: {error.reason}: {error.message}")
