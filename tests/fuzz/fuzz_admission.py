"""Damages thousands of models, tries to publish each, and scores what is admitted: `make fuzz SEED=1 COUNT=2000`.

Every case goes through admission as a publisher's file does. What is admitted is then loaded and scored by a plain
process without a sandbox, as scorers are. Fails when such a process ends, hangs or runs out of memory, or when
admission answers with anything but a model or a refusal. A crash or a hang inside the sandbox is what the sandbox is
for; it is counted, since each is a hole in the checks before it.

Each case of that kind is written to the folder `--keep`; its name has the seed and the number that make it again, and
`--replay FILE` runs it alone.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from registry.offer import Admitted, Offer
from registry.probing import ProbePool
from scorer.formats import FORMATS
from tests.fuzz.corruptions import Case, Corruptions
from tests.fuzz.score_admitted import ANNOTATED, Artifact

_WORKERS = 2
_ADMISSION_S = 15.0
_BATCH = 25
_BATCH_S = 120.0

CHECKED, ENGINE, CRASHED, HUNG, ADMITTED = "by checks", "by engine", "crashed", "hung", "admitted"
SCORED, UNUSABLE, KILLED, BROKEN = "scored", "unusable", "SCORER DIED", "NO VERDICT"
_COLUMNS = (CHECKED, ENGINE, CRASHED, HUNG, ADMITTED, SCORED, UNUSABLE, KILLED, BROKEN)
_FAILURES = (KILLED, BROKEN)


class Verdict(NamedTuple):
    """How a case ended, and what was said about it."""

    case: Case
    outcome: str
    told: str


class Run:
    """Tries cases and remembers how they ended. `keep`: where those worth a look are written."""

    def __init__(self, keep: Path, scratch: Path) -> None:
        self._keep, self._scratch = keep, scratch
        self._admitted: list[Case] = []
        self.verdicts: list[Verdict] = []
        self.most_resident_mb = 0  # of a scoring process, after a case

    def _note(self, case: Case, outcome: str, told: str = "") -> None:
        self.verdicts.append(Verdict(case, outcome, told))
        if outcome in {CRASHED, HUNG, UNUSABLE, *_FAILURES}:
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / case.name).write_bytes(case.data)
            print(f"{outcome}: {case.name}: {told}", flush=True)

    async def admit_all(self, cases: Iterable[Case]) -> None:
        """Several at once, as many as there are workers."""
        waiting = iter(cases)
        async with ProbePool(_WORKERS, timeout_s=_ADMISSION_S) as pool, asyncio.TaskGroup() as tasks:
            for _ in range(_WORKERS):
                tasks.create_task(self._admit_each(pool, waiting))

    async def _admit_each(self, pool: ProbePool, waiting: Iterable[Case]) -> None:
        for case in waiting:
            offer = Offer(case.data, hashlib.sha256(case.data).hexdigest(), case.runtime)
            try:
                admitted = await pool.admit(offer)
            except ArtifactRejectedError as error:
                self._note(case, _refusal(case, error.message), error.message)
            except Exception as error:  # whatever it is, it is what this program looks for
                self._note(case, BROKEN, repr(error))
            else:
                self._note(case, ADMITTED)
                self.hand_over(case, admitted)

    def hand_over(self, case: Case, admitted: Admitted) -> None:
        self._admitted.append(case)
        (self._scratch / case.name).write_bytes(admitted.artifact)
        if admitted.annotated:
            (self._scratch / f"{case.name}{ANNOTATED}").write_bytes(admitted.annotated)
        told = msgspec.json.encode(Artifact(case.runtime, admitted.schema))
        (self._scratch / f"{case.name}.json").write_bytes(told)

    async def score_all(self) -> None:
        """Score what was admitted, many in one process; after a crash go on behind the case that did it."""
        left = list(self._admitted)
        while left:
            batch = left[:_BATCH]
            outcomes = await self._score(batch)
            for case, outcome in zip(batch, outcomes, strict=False):
                told, _, resident_mb = outcome.rpartition(" ")
                self.most_resident_mb = max(self.most_resident_mb, int(resident_mb))
                kind = SCORED if told == "ok" else UNUSABLE if told.startswith("unusable") else KILLED
                self._note(case, kind, told)
            left = left[max(1, len(outcomes)) :]

    async def _score(self, batch: list[Case]) -> list[str]:
        """One outcome a case and the megabytes then taken, as far as the process came; its end where it ended early."""
        names = [case.name for case in batch]
        command = [sys.executable, "-m", "tests.fuzz.score_admitted", str(self._scratch), *names]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        reading = asyncio.create_task(process.stdout.read())
        try:
            async with asyncio.timeout(_BATCH_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        outcomes = (await reading).decode().splitlines()[1::2]
        return outcomes if len(outcomes) == len(batch) else [*outcomes, f"ended with {process.returncode} 0"]

    def failed(self) -> bool:
        return any(verdict.outcome in _FAILURES for verdict in self.verdicts)

    def report(self) -> str:
        """A line for each kind of damage, and sums: who refused how many, what the sandbox held, what was admitted, and
        how that was scored.
        """
        counts: dict[str, Counter[str]] = {}
        for case, outcome, _ in self.verdicts:
            for row in (f"  {case.damage}", case.runtime.value):
                counts.setdefault(f"{case.runtime.value} {row}" if row[0] == " " else row, Counter())[outcome] += 1
        head = _row("", ("cases", *_COLUMNS))
        foot = f"highest resident set of a scoring process: {self.most_resident_mb} MB"
        return "\n".join([head, *(_line(name, counts[name]) for name in sorted(counts)), foot])


def _line(name: str, count: Counter[str]) -> str:
    cases = sum(count[column] for column in (CHECKED, ENGINE, CRASHED, HUNG, ADMITTED, BROKEN))
    return _row(name, (cases, *(count[column] for column in _COLUMNS)))


def _row(name: str, cells: Iterable[object]) -> str:
    return f"{name:30}" + "".join(f"{cell!s:>12}" for cell in cells)


def _refusal(case: Case, message: str) -> str:
    if "crashed with" in message or "no result" in message or "no sense" in message or "be true" in message:
        return CRASHED
    if "did not finish" in message or "SIGXCPU" in message:
        return HUNG
    try:
        FORMATS[case.runtime].check(case.data)
    except ArtifactRejectedError:
        return CHECKED
    return ENGINE


async def _run(cases: Iterable[Case], keep: Path) -> Run:
    with tempfile.TemporaryDirectory(prefix="scoremesh-fuzz-") as scratch:
        run = Run(keep, Path(scratch))
        await run.admit_all(cases)
        await run.score_all()
        return run


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="cases of each format")
    parser.add_argument("--runtime", type=Runtime, action="append", help="only this format")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "scoremesh-fuzz")
    parser.add_argument("--replay", type=Path, help="one file that was kept")
    return parser.parse_args()


def _replayed(path: Path) -> Case:
    runtime, _, damage = path.name.partition("-")
    return Case(path.name, Runtime(runtime), damage, path.read_bytes())


def main() -> None:
    """Run and print the table; exits with 1 if anything failed."""
    chosen = _arguments()
    if chosen.replay:
        cases: Iterable[Case] = [_replayed(chosen.replay)]
    else:
        corruptions = Corruptions(chosen.seed)
        cases = (corruptions.case(runtime, n) for runtime in chosen.runtime or Runtime for n in range(chosen.count))
    run = asyncio.run(_run(cases, chosen.keep))
    if chosen.replay:
        print(*(f"{outcome}: {told}" for _, outcome, told in run.verdicts), sep="\n")
    print(f"seed {chosen.seed}\n{run.report()}")
    sys.exit(1 if run.failed() else 0)


if __name__ == "__main__":
    main()
