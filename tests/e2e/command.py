"""The `scoremesh` command as a process, the way a person runs it: from another directory than the source's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from typer.testing import CliRunner, Result

from ops.commands import command_line
from tests.e2e.cluster import ROOT, wait_until

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("SCOREMESH_")},
    "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}",
    "COLUMNS": "200",
    "TERMINAL_WIDTH": "200",
}


def scoremesh(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ops", *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **(env or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def succeeds(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """The standard output of a command that must succeed."""
    done = scoremesh(*arguments, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """The one line on standard error of a command that must fail."""
    done = scoremesh(*arguments, cwd=cwd, env=env)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def invoke(*arguments: str) -> Result:
    """Run a command inside this process."""
    return CliRunner().invoke(command_line(arguments), arguments)


class Up:
    """A running `scoremesh up`; `output` is what it wrote, its errors too."""

    def __init__(self, place: Path, *arguments: str) -> None:
        self._log = place / "up.out"
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "ops", "up", *arguments], cwd=place, env=ENVIRONMENT, stdout=log, stderr=log
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_up(self) -> Up:
        """Wait until it says that it's up."""

        def is_up() -> bool:
            assert self.process.poll() is None, self.output
            return "Ctrl-C stops everything" in self.output

        wait_until(is_up, "`scoremesh up` to be up")
        return self

    @property
    def exports(self) -> dict[str, str]:
        """The variables that it tells the user to export."""
        lines = [line.split() for line in self.output.splitlines() if line.startswith("  export ")]
        return dict(word.split("=", 1) for words in lines for word in words[1:])

    def children(self) -> list[psutil.Process]:
        """Every process that it started, and those that these started."""
        return list(self.process.children(recursive=True))

    def child(self, *words: str) -> psutil.Process:
        """The one child whose command line has all these words."""
        [found] = [child for child in self.children() if set(words) <= set(child.cmdline())]
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send the signal and return the exit status."""
        self.process.send_signal(number)
        return int(self.process.wait(60))

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_all_gone(processes: list[psutil.Process]) -> None:
    """Wait until all have ended; one that has ended but is not yet reaped counts as ended."""

    def is_gone(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(lambda: all(map(is_gone, processes)), f"the end of {processes}")
