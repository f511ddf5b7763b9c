"""The command `demo`: real models of five tenants on a whole cluster, checked against their own libraries.

It trains, publishes, scores held-out rows with concurrent callers, kills a scorer with SIGKILL under this load, starts
it again, and shows what happened. It fails if one score was wrong or one request got no answer.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Raw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client import AsyncClient, Residency
from ops.demo_data import DemoModel
from ops.demo_models import RECIPES, train
from ops.demo_tally import Tally, percentile
from ops.demo_traffic import CALLERS, Traffic
from ops.local_cluster import LocalCluster
from ops.server_process import ScorerProcess
from ops.show import console, table
from ops.task_group import task_group
from registry.alias_moves import AliasMoves
from registry.ledger import Ledger
from registry.library import Library
from registry.offer import Facts
from registry.probing import probe
from registry.publish import Publisher
from registry.store_urls import open_store

_PHASES = ("all alive", "one killed", "back again")
_PLACES = {
    Residency.HIT: "in memory",
    Residency.DISK: "on the scorer's disk",
    Residency.COLD: "in the object store",
}
_SHOWN_FAILURES = 5
_RETURN_LIMIT_S = 20.0


def demo(
    requests: Annotated[int, typer.Option(min=30, help="How many requests to send at least.")] = 6000,
) -> None:
    """Train real models, serve them on a cluster, kill a scorer, and check every score. Takes about a minute."""
    screen = console()
    with tempfile.TemporaryDirectory(prefix="scoremesh-demo-") as place:
        with _progress(screen) as progress:
            models = list(_train(Path(place), progress))
        tally = asyncio.run(_serve(Path(place), models, requests, screen))
    if not tally.passed:
        raise typer.Exit(1)


def _train(place: Path, progress: Progress) -> Iterator[DemoModel]:
    folder = place / "trained"
    folder.mkdir()
    yield from progress.track((train(recipe, folder) for recipe in RECIPES), len(RECIPES), description="train models")


async def _serve(place: Path, models: Sequence[DemoModel], requests: int, screen: Console) -> Tally:
    tally = Tally()
    screen.print("start etcd, 3 scorers and a router, each a process of its own")
    async with LocalCluster(place) as cluster:
        with _progress(screen) as progress:
            await _publish(cluster, models, progress)
            async with AsyncClient(cluster.router_addresses) as client:
                victim = await _score(cluster, Traffic(client, models, tally), tally, requests, progress)
        _report(screen, tally, cluster, victim)
    return tally


async def _publish(cluster: LocalCluster, models: Sequence[DemoModel], progress: Progress) -> None:
    """Publish all, some at once: each is tried out in a process of its own, which takes half a second of a core."""
    ledger = Ledger(Library(open_store(cluster.store_url)), cluster.etcd, cluster.keys)
    publisher = Publisher(ledger, AliasMoves(ledger), probe, published_by="demo")
    row, turns = progress.add_task("publish models", total=len(models)), asyncio.Semaphore(os.cpu_count() or 1)

    async def publish(model: DemoModel) -> None:
        async with turns:
            await publisher.publish(model.path, model.ref, facts=Facts(transforms=Raw(model.transforms or b"null")))
        progress.advance(row)

    async with task_group() as tasks:
        for model in models:
            tasks.create_task(publish(model))


async def _score(
    cluster: LocalCluster, traffic: Traffic, tally: Tally, requests: int, progress: Progress
) -> ScorerProcess:
    """Three phases under one uninterrupted load; returns the scorer that was killed, the busiest one."""
    async with traffic.flowing():
        await _send(traffic, tally, requests // 3, progress)
        victim = max(cluster.scorers, key=lambda scorer: tally.served[(0, scorer.id)])
        victim.kill()
        traffic.phase = 1
        await _send(traffic, tally, requests // 3, progress)
        traffic.phase = 2  # before the restart: it serves as soon as it's announced
        await victim.restart()
        await _send(traffic, tally, requests // 3, progress)
        await _wait_for_return(traffic, tally, victim)
    return victim


async def _send(traffic: Traffic, tally: Tally, requests: int, progress: Progress) -> None:
    """Wait until so many requests of this phase have an answer."""
    row = progress.add_task(f"score, {_PHASES[traffic.phase]}", total=requests)

    def is_enough() -> bool:
        done = tally.in_phase(traffic.phase)
        progress.update(row, completed=min(done, requests))
        return done >= requests or bool(tally.failures)

    await traffic.wait_for(is_enough)


async def _wait_for_return(traffic: Traffic, tally: Tally, scorer: ScorerProcess) -> None:
    """Go on until the scorer that is back serves again: the router tries it anew after a short pause."""
    try:
        async with asyncio.timeout(_RETURN_LIMIT_S):
            await traffic.wait_for(lambda: tally.served[(traffic.phase, scorer.id)] > 0)
    except TimeoutError:
        tally.failures.append(f"{scorer.id} is back, and got no request in {_RETURN_LIMIT_S:g} s")


def _report(screen: Console, tally: Tally, cluster: LocalCluster, victim: ScorerProcess) -> None:
    places = [place for place in _PLACES if place in tally.latencies_ms]
    latencies = [[_PLACES[place], *_latencies(tally, place)] for place in places]
    screen.print(f"\nLatency of single requests, seen by {CALLERS} callers at once on this machine")
    screen.print(table(["model was", "requests", "p50 ms", "p99 ms", "p50 predict us"], latencies))
    rows = [
        [scorer.id + (" (killed)" if scorer is victim else ""), *_served(tally, scorer)] for scorer in cluster.scorers
    ]
    screen.print("\nRequests served")
    screen.print(table(["scorer", *_PHASES], rows))
    screen.print()
    for line in (*tally.failures[:_SHOWN_FAILURES], *tally.wrong[:_SHOWN_FAILURES]):
        screen.print(line)
    screen.print(
        f"{'passed' if tally.passed else 'FAILED'}: {tally.answered} requests answered, {len(tally.failures)} failed; "
        f"{tally.predictions} predictions checked, {len(tally.wrong)} wrong; hit rate {tally.hit_rate:.1%}"
    )


def _latencies(tally: Tally, place: Residency) -> list[float]:
    latencies, predicts = tally.latencies_ms[place], tally.predict_us[place]
    return [
        len(latencies),
        *(round(percentile(latencies, percent), 1) for percent in (50, 99)),
        percentile(predicts, 50),
    ]


def _served(tally: Tally, scorer: ScorerProcess) -> list[int]:
    return [tally.served[(phase, scorer.id)] for phase in range(len(_PHASES))]


def _progress(screen: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=screen
    )
