"""`scoremesh up`: a cluster that serves, that stops in order, and that leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ops.demo_data import DemoModel
from ops.demo_models import RECIPES, train
from ops.etcd_server import EtcdServer
from tests.e2e.cluster import wait_until
from tests.e2e.command import Up, fails, invoke, succeeds, wait_all_gone

StartUp = Callable[..., Up]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[StartUp]:
    """Starts `scoremesh up --port 0` with more arguments and waits until it's up."""
    started: list[Up] = []

    def start(*arguments: str) -> Up:
        started.append(Up(tmp_path, "--port", "0", "--registry-port", "0", *arguments))
        return started[-1].wait_up()

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DemoModel:
    [recipe] = [recipe for recipe in RECIPES if str(recipe.ref) == "acme/tumour-small"]
    return train(recipe, tmp_path_factory.mktemp("trained"))


def scored(up: Up, model: DemoModel, place: Path) -> np.ndarray:
    """The first three rows, scored through the command line with what `up` tells to export."""
    rows = ";".join(",".join(repr(float(value)) for value in row) for row in model.rows[:3])
    answer = succeeds("score", str(model.ref), "--rows", rows, "-o", "json", cwd=place, env=up.exports)
    return np.array(json.loads(answer)["outputs"]["probabilities"]["values"])


def test_serves_stops_in_order_and_keeps_its_directory(up: StartUp, model: DemoModel, tmp_path: Path) -> None:
    first = up("--dir", "kept", "--scorers", "2", "--routers", "2")
    assert len(re.findall(r"^  router-\d +127\.0\.0\.1:\d+$", first.output, re.MULTILINE)) == 2
    assert len(re.findall(r"^  local-\d +127\.0\.0\.1:\d+$", first.output, re.MULTILINE)) == 2
    ref = ["--tenant", model.ref.tenant, "--model", model.ref.model]
    assert "version 1 as live" in succeeds("publish", str(model.path), *ref, cwd=tmp_path, env=first.exports)
    assert (scored(first, model, tmp_path) == model.expected[0][:3]).all()
    children = first.children()
    assert len(children) >= 6  # etcd, two routers, two scorers, the registry, and what tries models for it
    assert first.stop(signal.SIGINT) == 0
    assert first.output.endswith("stopping ...\nstopped\n")
    wait_all_gone(children)
    drained = {log.stem: drain_times(log) for log in (tmp_path / "kept" / "logs").glob("[lr]o*.log")}
    assert all(len(times) == 1 for times in drained.values()), drained
    assert max(drained["router-0"] + drained["router-1"]) < min(drained["local-0"] + drained["local-1"])

    again = up("--dir", "kept", "--scorers", "1")
    assert (scored(again, model, tmp_path) == model.expected[0][:3]).all()
    assert again.stop(signal.SIGTERM) == 0


def drain_times(log: Path) -> list[str]:
    return re.findall(r"^(\S+ \S+) I \S+ draining", log.read_text(), re.MULTILINE)


def test_sigkill_leaves_no_process(up: StartUp) -> None:
    running = up("--dir", "kept", "--scorers", "2")
    children = running.children()
    assert len(children) == 5
    running.process.kill()
    wait_all_gone(children)


def test_a_dead_part_is_reported_and_the_rest_runs_on(up: StartUp, model: DemoModel, tmp_path: Path) -> None:
    running = up("--scorers", "2")
    ref = ["--tenant", model.ref.tenant, "--model", model.ref.model]
    succeeds("publish", str(model.path), *ref, cwd=tmp_path, env=running.exports)
    running.child("scorer", "local-1").kill()
    wait_until(lambda: "local-1 ended with status -9" in running.output, "the report")
    [line] = [line for line in running.output.splitlines() if line.startswith("local-1 ended")]
    assert Path(line.rpartition(" ")[2]).read_text().startswith("scorer local-1 listening on")
    assert (scored(running, model, tmp_path) == model.expected[0][:3]).all()
    assert running.stop() == 0
    assert running.output.count("local-1 ended") == 1


def test_a_fresh_directory_is_removed(up: StartUp) -> None:
    running = up("--scorers", "1")
    found = re.search(r"^  logs +(\S+)$", running.output, re.MULTILINE)
    assert found is not None
    place = Path(found[1]).parent
    assert place.is_dir()
    assert running.stop() == 0
    assert not place.exists()


def test_uses_a_given_etcd_store_and_cluster_name(up: StartUp, etcd_server: EtcdServer, tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'objects'}"
    running = up("--etcd", etcd_server.endpoint, "--store", store, "--cluster", "mine", "--scorers", "1")
    assert running.exports.keys() == {
        *("SCOREMESH_ROUTER", "SCOREMESH_ETCD", "SCOREMESH_STORE", "SCOREMESH_REGISTRY", "SCOREMESH_CLUSTER")
    }
    assert len(running.children()) == 3
    nodes = json.loads(succeeds("nodes", "-o", "json", cwd=tmp_path, env=running.exports))
    assert [(node["kind"], node["state"]) for node in nodes] == [("scorer", "ready"), ("router", "ready")]
    assert nodes[0]["id"] == "local-0"
    exports = running.exports
    assert running.stop() == 0
    assert etcd_server.is_healthy()
    assert "nobody is alive" in succeeds("nodes", cwd=tmp_path, env=exports)


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = fails("up", "--port", str(port), "--dir", "unused", cwd=tmp_path)
    assert f"port {port} of 127.0.0.1 is taken" in line
    assert "--port" in line
    assert not (tmp_path / "unused").exists()


def test_one_directory_serves_one_cluster(up: StartUp, tmp_path: Path) -> None:
    running = up("--dir", "shared", "--scorers", "1")
    assert "another `scoremesh up` uses shared" in fails("up", "--port", "0", "--dir", "shared", cwd=tmp_path)
    assert running.stop() == 0


def test_a_part_that_does_not_start_ends_it_with_its_last_words(tmp_path: Path) -> None:
    line = fails("up", "--port", "0", "--scorers", "1", "--store", "ftp://nowhere", cwd=tmp_path)
    assert "local-0 ended with status 1" in line
    assert "'ftp://nowhere' is not a store" in line


@pytest.mark.parametrize("arguments", [["--scorers", "0"], ["--port", "70000"], ["--no-such-flag"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = invoke("up", *arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.output
