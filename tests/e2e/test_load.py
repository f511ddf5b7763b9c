"""`scoremesh load` as a person runs it, against a real cluster."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ops.demo_data import DemoModel
from ops.demo_models import RECIPES, train
from ops.local_cluster import LocalCluster
from tests.e2e.command import fails, scoremesh, succeeds

_USED = ("acme/tumour-small", "initech/iris", "umbrella/triage")
_SHORT = ("--rate", "100", "--warm-up-s", "0.5", "--duration-s", "1.5", "--deadline-s", "60")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path_factory.mktemp("local"), scorers=2, cluster="loaded") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def exports(local: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the commands, for a cluster with three models."""
    named = {
        "SCOREMESH_ETCD": ",".join(local.etcd_endpoints),
        "SCOREMESH_STORE": local.store_url,
        "SCOREMESH_ROUTER": local.router_addresses[0],
        "SCOREMESH_CLUSTER": "loaded",
    }
    folder = tmp_path_factory.mktemp("trained")
    models: list[DemoModel] = [train(recipe, folder) for recipe in RECIPES if str(recipe.ref) in _USED]
    for model in models:
        to = ("--tenant", model.ref.tenant, "--model", model.ref.model)
        succeeds("publish", str(model.path), *to, cwd=folder, env=named)
    return named


@pytest.mark.parametrize("target", ["score", "batch", "client"])
def test_the_models_of_a_cluster_are_found_and_asked_for(exports: dict[str, str], tmp_path: Path, target: str) -> None:
    arguments = ("load", "--target", target, *_SHORT, "-o", "json", "--html", "page.html", "--json", "run.json")
    told = json.loads(succeeds(*arguments, cwd=tmp_path, env=exports))
    assert told["models"] == 3
    [every] = told["groups"]
    assert every["errors"] == {}
    assert every["requests"] > 50
    assert 0 < every["hit_rate"] <= 1
    assert {*every["residency"]} <= {"warm", "disk", "cold"}
    assert every["all"]["quantiles_ms"] == sorted(every["all"]["quantiles_ms"])
    assert told["limit_per_s"] > 0
    assert json.loads((tmp_path / "run.json").read_text()) == told
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "scoremesh load --target" in page


def test_classes_bounds_and_the_cost_of_the_servers(
    exports: dict[str, str], local: LocalCluster, tmp_path: Path
) -> None:
    pids = [server.process.pid for server in (*local.routers, *local.scorers)]
    arguments = ["load", *_SHORT, "--rows", "1:0.8,8:0.2", "--processes", "2"]
    arguments += ["--class", "victims,rate=60,tenants=acme", "--class", "greedy,rate=60,tenants=*i*,pattern=cycle"]
    arguments += [word for pid in pids for word in ("--server-pid", str(pid))]
    kept = ("--require", "victims/error_rate<=0", "--require", "p50_ms<=60000", "--require", "cpu_us<=1e7")
    shown = succeeds(*arguments, *kept, cwd=tmp_path, env=exports)
    assert "victims: " in shown
    assert "greedy: " in shown
    assert "CPU of the servers: " in shown
    assert "victims/error_rate<=0: 0, kept" in shown
    assert "the generator can send " in shown or "LIMITED BY THE GENERATOR" in shown
    broken = scoremesh(*arguments, "--require", "p50_ms<=0.0001", cwd=tmp_path, env=exports)
    assert broken.returncode == 3
    assert "p50_ms<=0.0001: " in broken.stdout
    assert "BROKEN" in broken.stdout


def test_a_trace_is_replayed_to_its_end(exports: dict[str, str], tmp_path: Path) -> None:
    lines = [f"{number / 50},acme,tumour-small,{1 + number % 3}\n" for number in range(100)]
    (tmp_path / "trace.csv").write_text("".join(lines))
    trace = ("--trace", "trace.csv", "--warm-up-s", "0", "--deadline-s", "60")
    told = json.loads(succeeds("load", *trace, "-o", "json", cwd=tmp_path, env=exports))
    assert told["groups"][0]["requests"] == 100
    assert told["groups"][0]["errors"] == {}
    assert told["spec"]["duration_s"] == pytest.approx(1.98, abs=0.01)


def test_what_a_server_does_not_serve_is_an_error_of_each_request(exports: dict[str, str], tmp_path: Path) -> None:
    """Our routers don't speak the Open Inference Protocol."""
    arguments = ("load", "--target", "oip", "--model", "iris:4", *_SHORT, "-o", "json")
    told = json.loads(succeeds(*arguments, cwd=tmp_path, env=exports))
    [every] = told["groups"]
    assert every["errors"] == {"UNIMPLEMENTED": every["requests"]}
    assert told["examples"]["UNIMPLEMENTED"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--models", "nothing.jsonl"), "can't read nothing.jsonl"),
        (("--model", "acme"), "wanted TENANT/MODEL:FEATURES"),
        (("--tenant", "nobody"), "nobody has no live model that takes numbers alone"),
        (("--tenant", "a/b"), "not a valid name"),
        (("--class", "a,rate=x"), "Expected `float`"),
        (("--class", "a,rate=1,tenants=nobody"), "there is no model of class 'a'"),
        (("--rows", "0"), "rows '0'"),
        (("--trace", "nothing.csv"), "can't read"),
        (("--require", "p42_ms<=1"), "'p42_ms' is unknown"),
        (("--html", "/nowhere/page.html"), "can't write /nowhere/page.html"),
        (("--tls-ca", "nothing.pem"), "there is no certificate file nothing.pem"),
        (("--server-pid", "99999999"), "there is no process 99999999"),
        (("--router", "somewhere"), "server 'somewhere': wanted HOST:PORT"),
        (("--store", "ftp://x"), "is not a store"),
    ],
)
def test_what_is_wrong_is_one_line(
    exports: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], why: str
) -> None:
    assert why in fails("load", *_SHORT, *arguments, cwd=tmp_path, env=exports)


def test_without_models_or_a_store_it_says_what_to_name(exports: dict[str, str], tmp_path: Path) -> None:
    assert "name models with --models or --model" in fails("load", cwd=tmp_path, env={**exports, "SCOREMESH_STORE": ""})
