"""Stands in for `scorer.probe` on a system that offers less after the start than at it."""

from __future__ import annotations

from typing import NoReturn

from registry.process import end_with, prepare
from scorer import probe, sandbox

_missing_at_first = probe._missing


def _refuse() -> NoReturn:
    raise OSError(12, "Cannot allocate memory")


def _missing() -> list[str]:
    missing = _missing_at_first()
    sandbox._filter_calls = _refuse
    return missing


def main() -> None:
    prepare()
    probe._missing = _missing
    probe.serve(probe.try_model)


if __name__ == "__main__":
    end_with(main)
