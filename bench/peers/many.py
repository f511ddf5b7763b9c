"""Many models, few of them popular, and memory for a fifth: servers that page against servers that hold all.

All get the same sequence of requests over the same models, 32 in flight, after a warm-up of as many requests as the
measured run of the slowest has. Servers run at the same time on one core and take turns.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import lightgbm
import numpy as np

from bench import fleet
from bench.fleet import pins
from bench.load import BadRunError
from bench.models import BenchModel
from bench.peers import venvs
from bench.peers.fleet import started
from bench.peers.measure import check
from bench.peers.processes import cpu_between_s, cpu_s, rss_mib
from bench.peers.protocols import SCORE, row_of
from bench.peers.servers import Served, Site, mlserver, ray
from registry.model import ModelRef
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest

STREAMS = 32
SHARE = 5
WARM_UP_REQUESTS = 3000
CHECKED = 20
_LOAD_TIMEOUT_S = 300


class ManyRun(NamedTuple):
    """One run. `where`: answers by where our scorer had the model. CPU in microseconds a request, of all processes."""

    server: str
    round: int
    models: int
    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failures: dict[str, int]
    where: dict[str, int]
    cpu_us: float
    rss_mib: float
    generator_share: float


def vary(base: BenchModel, directory: Path, count: int) -> list[BenchModel]:
    """Models of the same shape with other leaves, each a few percent off, so that no two predict alike."""
    booster = lightgbm.Booster(model_file=str(base.path))
    random = np.random.default_rng(3)
    row = np.array([row_of(base)])
    trees = [tree["num_leaves"] for tree in booster.dump_model()["tree_info"]]
    leaves = [[booster.get_leaf_output(tree, leaf) for leaf in range(size)] for tree, size in enumerate(trees)]
    made = []
    for number in range(count):
        for tree, values in enumerate(leaves):
            for leaf, value in enumerate(values):
                booster.set_leaf_output(tree, leaf, value * (1 + 0.03 * random.standard_normal()))
        ref = ModelRef("bench", f"many-{number:04}")
        path = directory / f"{ref.model}.txt"
        booster.save_model(path)
        # Read back: the text is what all servers load.
        positive = float(lightgbm.Booster(model_file=str(path)).predict(row, num_threads=1)[0])
        request = ScoreRequest(tenant=ref.tenant, model=ref.model, row_count=1, dense_double=row[0])
        made.append(BenchModel(ref, path, request.SerializeToString(), Path(), (1.0 - positive, positive)))
    return made


def run(
    base: BenchModel, count: int, rounds: int, run_s: float, only: Sequence[str], say: Callable[[str], None]
) -> list[ManyRun]:
    """All runs. `only`: names of environments, () for all."""
    with tempfile.TemporaryDirectory(prefix="many-") as name:
        directory = Path(name)
        say(f"making {count} models")
        models = vary(base, directory, count)
        with _running(directory, models, only, say) as servers:
            return list(_rounds(servers, models, rounds, run_s, directory, say))


def _rounds(
    servers: Sequence[Served],
    models: Sequence[BenchModel],
    rounds: int,
    run_s: float,
    directory: Path,
    say: Callable[[str], None],
) -> Iterator[ManyRun]:
    """A server that fails is said and left out from then on."""
    takers = [_Taker(served, models, run_s, directory) for served in servers]
    for number in range(rounds):
        shift = number % len(takers)
        for taker in (*takers[shift:], *takers[:shift]):
            say(f"round {number + 1} of {rounds}, {len(models)} models: {taker.served.name}")
            try:
                yield taker.turn(number)
            except (BadRunError, RuntimeError, grpc.RpcError, subprocess.TimeoutExpired) as error:
                say(f"{taker.served.name} is left out from now on: {error}")
                takers = [other for other in takers if other is not taker]


class _Taker:
    """A server's turns, each of which goes on in the sequence of requests where the one before ended."""

    def __init__(self, served: Served, models: Sequence[BenchModel], run_s: float, directory: Path) -> None:
        self.served = served
        self._models, self._run_s, self._directory = models, run_s, directory
        self._sent = 0
        self._rate = 0.0

    def turn(self, number: int) -> ManyRun:
        if not self._sent:
            self._rate = self._load(WARM_UP_REQUESTS, number).requests_per_s
        check(self.served, self._models[:CHECKED])
        run = self._load(max(int(self._rate * self._run_s), 200), number)
        check(self.served, self._models[-CHECKED:])
        return run

    def _load(self, requests: int, number: int) -> ManyRun:
        run = _load(self.served, self._models, requests, self._sent, number, self._directory)
        self._sent += requests
        return run


@contextlib.contextmanager
def _running(
    directory: Path, models: Sequence[BenchModel], only: Sequence[str], say: Callable[[str], None]
) -> Iterator[list[Served]]:
    room = len(models) // SHARE
    with contextlib.ExitStack() as stack:
        servers = []
        for name, resident in ((f"scoremesh, memory for {room}", room), ("scoremesh, all in memory", len(models) * 2)):
            folder = directory / f"ours-{resident}"
            folder.mkdir()
            say(f"publishing {len(models)} models: {name}")
            running = fleet.running(folder, models, [fleet.OURS], scorers=1, resident_models=resident)
            own = stack.enter_context(running)
            target = own.targets[0]
            servers.append(Served(name, SCORE, target.port, [*([target.pid] if target.pid else []), *own.scorer_pids]))
        site = Site(stack, directory, models)
        for needs, start, name in (
            ("ray", lambda: ray(site, multiplexed=room), f"Ray Serve, multiplexed, {room} models"),
            ("mlserver", lambda: mlserver(site), "MLServer, all in memory"),
        ):
            missing = "not asked for" if only and needs not in only else venvs.ensure(needs, say)
            if missing:
                say(f"{needs} is left out: {missing}")
                continue
            servers += started(start()._replace(name=name), models[:CHECKED], say)
        yield servers


def _load(
    served: Served, models: Sequence[BenchModel], requests: int, skip: int, number: int, directory: Path
) -> ManyRun:
    given, out = directory / f"given-{served.port}.json", directory / "many.json"
    if not given.exists():
        bodies = [base64.b64encode(served.speech.request(model)).decode() for model in models]
        given.write_text(json.dumps({"requests": bodies, "names": [model.ref.model for model in models]}))
    options = {"--port": served.port, "--path": served.speech.path, "--models": given, "--out": out}
    options |= {"--streams": STREAMS, "--requests": requests, "--skip": skip, "--metadata": served.metadata}
    words = [str(word) for option in options.items() for word in option]
    tells = ["--tells"] if served.speech is SCORE else []
    before = cpu_s(served.roots)
    done = subprocess.run(
        [*pins()[1], sys.executable, "-m", "bench.peers.many_load", *words, *tells],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LOAD_TIMEOUT_S,
    )
    if done.returncode:
        raise BadRunError((done.stdout + done.stderr)[-800:])
    used_s = cpu_between_s(before, cpu_s(served.roots))
    figures = json.loads(out.read_text())
    cpu_us = used_s * 1e6 / requests
    return ManyRun(served.name, number, len(models), cpu_us=cpu_us, rss_mib=rss_mib(served.roots), **figures)
