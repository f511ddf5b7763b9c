"""Nobody else's package may be called router, scorer, registry, client or ops where the project is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NAMES = ("router", "scorer", "registry", "client", "ops")

_CHECK = f"""
from importlib.metadata import packages_distributions
owners = packages_distributions()
intruders = {{name: sorted(set(owners.get(name, [])) - {{"scoremesh"}}) for name in {NAMES!r}}}
print({{name: found for name, found in intruders.items() if found}})
"""


def _intruders(*more_path: Path) -> str:
    """Runs the check in an interpreter of its own, with more folders on its path."""
    path = os.pathsep.join([*map(str, more_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", _CHECK],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_no_other_distribution_has_a_package_of_these_names() -> None:
    assert _intruders() == "{}"


def test_an_intruder_would_be_seen(tmp_path: Path) -> None:
    info = tmp_path / "intruder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1.0\n")
    (info / "RECORD").write_text("router/__init__.py,,\n")
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "__init__.py").write_text("")
    assert _intruders(tmp_path) == "{'router': ['intruder']}"


def test_each_name_is_imported_from_this_project() -> None:
    root = Path(__file__).parents[2]
    for name in NAMES:
        module = __import__(name)
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(root)
