"""Virtual environments of the servers that are compared: one each, with pinned versions, made when first needed.

Contract: `ensure` makes one or says why it can't be; one that is complete is left alone. They live in a cache directory
of the user's (`$XDG_CACHE_HOME/scoremesh/peers`), not in the repository: together they take about 4 GB.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PINS: dict[str, Sequence[str]] = {
    "mlserver": ("mlserver==1.7.1", "mlserver-lightgbm==1.7.1", "lightgbm==4.7.0", "numpy==2.4.6"),
    "ray": ("ray[serve]==2.60.0", "lightgbm==4.7.0", "numpy==2.4.6", "grpcio==1.85.3", "protobuf==7.36.2"),
    # The wheel has Triton 2.51 with its Python backend; it also runs where there is no GPU.
    "triton": ("nvidia-pytriton==0.7.0", "lightgbm==4.7.0", "numpy==1.26.4"),
    "bentoml": ("bentoml==1.4.40", "lightgbm==4.7.0", "numpy==2.4.6"),
}
_STAMP = "complete.txt"
_INSTALL_TIMEOUT_S = 1800


def cache_dir() -> Path:
    """Where they live."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "scoremesh" / "peers"


def python(name: str) -> Path:
    """The interpreter of one."""
    return cache_dir() / name / "bin" / "python"


def packages(name: str) -> Path:
    """Where the packages of one are."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return cache_dir() / name / "lib" / version / "site-packages"


def ensure(name: str, say: Callable[[str], None]) -> str:
    """Make one where it is missing or has other versions. Returns why that isn't possible, "" if it is there."""
    home, wanted = cache_dir() / name, "\n".join(PINS[name])
    stamp = home / _STAMP
    if stamp.is_file() and stamp.read_text() == wanted:
        return ""
    say(f"installing {', '.join(PINS[name])}")
    home.parent.mkdir(parents=True, exist_ok=True)
    steps = ([sys.executable, "-m", "venv", str(home)], [str(python(name)), "-m", "pip", "install", "-q", *PINS[name]])
    for argv in steps:
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return done.stderr.strip()[-300:]
    stamp.write_text(wanted)
    return ""


def versions(name: str) -> dict[str, str]:
    """Of what was asked for, as installed."""
    return {pin.partition("==")[0]: pin.partition("==")[2] for pin in PINS[name]}
