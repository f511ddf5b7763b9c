"""The commands about models, members and scores, run as a person runs them against a real cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from ops.demo_data import DemoModel
from ops.demo_models import RECIPES, train
from ops.etcd_server import EtcdServer
from ops.local_cluster import LocalCluster
from ops.score import parse_rows, read_csv
from registry.errors import InvalidRequestError
from registry.etcd import TlsFiles
from tests.e2e.command import ENVIRONMENT, fails, invoke, succeeds

_USED = ("acme/tumour-small", "initech/iris", "umbrella/triage")
Run = Callable[..., str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path_factory.mktemp("local"), scorers=2, cluster="commands") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def exports(local: LocalCluster) -> dict[str, str]:
    return {
        "SCOREMESH_ETCD": ",".join(local.etcd_endpoints),
        "SCOREMESH_STORE": local.store_url,
        "SCOREMESH_ROUTER": local.router_addresses[0],
        "SCOREMESH_CLUSTER": "commands",
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DemoModel]:
    folder = tmp_path_factory.mktemp("trained")
    return {str(recipe.ref): train(recipe, folder) for recipe in RECIPES if str(recipe.ref) in _USED}


@pytest.fixture
def run(exports: dict[str, str], tmp_path: Path) -> Run:
    """The output of a command that must succeed."""
    return lambda *arguments: succeeds(*arguments, cwd=tmp_path, env=exports)


@pytest.fixture
def refuse(exports: dict[str, str], tmp_path: Path) -> Run:
    """The error line of a command that must fail."""
    return lambda *arguments: fails(*arguments, cwd=tmp_path, env=exports)


def test_help_names_every_command() -> None:
    text = invoke("--help").stdout
    commands = (
        *("up", "demo", "load", "catalogue"),
        *("publish", "publish-many", "ls", "describe", "alias", "rollback", "retire", "delete", "score"),
        *("rollout", "tenant", "application", "quarantine", "explain", "placement", "rebuild", "index", "nodes"),
    )
    for command in commands:
        assert f" {command} " in text
        assert f"Usage: root {command} " in invoke(command, "--help").stdout


def test_a_command_imports_what_it_needs(tmp_path: Path) -> None:
    """Not the other commands, and no registry where one runs: it would take twice as long to start."""
    code = "import sys; from ops.commands import command_line; command_line(['ls']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=True)
    imported = set(done.stdout.decode().split())
    assert "ops.models" in imported
    assert imported.isdisjoint({"ops.up", "ops.load.command", "registry.deployment"})


def test_the_life_of_a_model(run: Run, refuse: Run, models: dict[str, DemoModel]) -> None:
    small = models["acme/tumour-small"]
    to, breaking = ("--tenant", "phoenix", "--model", "life"), ("--allow-breaking",)
    assert run("publish", str(small.path), *to) == "published phoenix/life version 1 as live\n"
    version = json.loads(
        run(
            "publish",
            str(models["initech/iris"].path),
            *to,
            "--version",
            "b",
            "--alias",
            "candidate",
            "-o",
            "json",
            *breaking,
        )
    )
    assert (version["name"], version["runtime"]) == ("tenants/phoenix/models/life/versions/b", "onnx")
    again = run("publish", str(models["initech/iris"].path), *to, "--version", "b", "--alias", "candidate", *breaking)
    assert again == "published phoenix/life version b as candidate\n"
    assert "VERSION_EXISTS" in refuse("publish", str(small.path), *to, "--version", "b")

    [listed] = json.loads(run("ls", "phoenix", "-o", "json"))
    assert (listed["model"], listed["aliases"]) == ("phoenix/life", {"candidate": "b", "live": "1"})
    assert re.search(r"^phoenix/life +candidate=b live=1 ", run("ls"), re.MULTILINE)
    assert re.search(r"^phoenix/life +candidate=b live=1 +lightgbm,onnx ", run("index"), re.MULTILINE)
    assert run("alias", "phoenix/life", "live=b") == "phoenix/life: live -> b\n"
    assert "has no version '9'" in refuse("alias", "phoenix/life", "live=9")
    described = json.loads(run("describe", "phoenix/life", "-o", "json"))
    assert described["aliases"] == {"candidate": "b", "live": "b"}
    assert [version["name"].rpartition("/")[2] for version in described["versions"]] == ["1", "b"]
    text = run("describe", "phoenix/life")
    assert "live -> b" in text
    assert "probabilities: class_probabilities" in text


def test_scores_are_the_library_s_own(run: Run, models: dict[str, DemoModel], tmp_path: Path) -> None:
    small = models["acme/tumour-small"]
    run("publish", str(small.path), "--tenant", "acme", "--model", "exact")
    table = tmp_path / "rows.csv"
    header = ",".join(f"feature {number}" for number in range(small.rows.shape[1]))
    np.savetxt(table, small.rows, delimiter=",", header=header, comments="", fmt="%.17g")
    answer = json.loads(run("score", "acme/exact", "--csv", str(table), "-o", "json"))
    [output] = answer["outputs"].values()
    assert output["kind"] == "class_probabilities"
    assert (np.array(output["values"]) == small.expected[0]).all()
    assert answer["residency"] == "cold"
    assert answer["served_by"] in {"local-0", "local-1"}


def test_a_ranking_shows_its_order(run: Run, models: dict[str, DemoModel], tmp_path: Path) -> None:
    triage = models["umbrella/triage"]
    run("publish", str(triage.path), "--tenant", "umbrella", "--model", "triage")
    rows = ";".join(",".join(map(repr, row.tolist())) for row in triage.rows[:4])
    order = np.argsort(-triage.expected[0][:4], kind="stable")
    text = run("score", "umbrella/triage", "--rows", rows)
    assert f"best first: {', '.join(map(str, order))}" in text
    assert "scores (ranking)" in text
    assert "version 1, scored by local-" in text
    answer = json.loads(run("score", "umbrella/triage", "--rows", rows, "-o", "json"))
    assert answer["outputs"]["scores"]["order"] == list(order)


def test_nodes_lists_the_members(run: Run, local: LocalCluster) -> None:
    members = json.loads(run("nodes", "-o", "json"))
    *members, router = members
    assert (router["kind"], router["address"], router["state"]) == ("router", local.routers[0].address, "ready")
    assert [member["id"] for member in members] == ["local-0", "local-1"]
    assert [member["address"] for member in members] == [scorer.address for scorer in local.scorers]
    assert {member["capacity_mib"] for member in members} == {256.0}
    header, *lines = run("nodes").splitlines()
    assert header.split() == ["kind", "id", "address", "host", "zone", "pool", "state", "capacity_mib"]
    assert [line.split()[:2] for line in lines] == [
        ["scorer", "local-0"],
        ["scorer", "local-1"],
        ["router", router["id"]],
    ]


def test_rebuild_makes_etcd_anew_from_the_store(
    run: Run, refuse: Run, models: dict[str, DemoModel], tmp_path: Path
) -> None:
    store = f"file://{tmp_path / 'elsewhere'}"
    one = ("--store", store, "--tenant", "hooli", "--model")
    run("publish", str(models["initech/iris"].path), *one, "first", "--cluster", "lost")
    run("publish", str(models["initech/iris"].path), *one, "second", "--cluster", "lost")
    fresh = ("--cluster", "rebuilt")
    assert run("index", *fresh) == "no models\n"
    assert json.loads(run("index", *fresh, "-o", "json")) == []
    assert (
        run("rebuild", "hooli/second", "--store", store, *fresh)
        .lstrip()
        .startswith("1 models in object storage: 1 entries written")
    )
    assert [row["model"] for row in json.loads(run("index", *fresh, "-o", "json"))] == ["hooli/second"]
    assert (
        run("rebuild", "--store", store, *fresh)
        .lstrip()
        .startswith("2 models in object storage: 1 entries written, 0 removed")
    )
    assert [row["model"] for row in json.loads(run("index", *fresh, "-o", "json"))] == ["hooli/first", "hooli/second"]
    assert "MODEL_NOT_FOUND" in refuse("rebuild", "hooli/third", "--store", store, *fresh)


async def test_ls_shows_a_damaged_entry_and_the_others(exports: dict[str, str], tmp_path: Path) -> None:
    from registry.etcd import Etcd

    etcd = Etcd(exports["SCOREMESH_ETCD"].split(","))
    await etcd.put(b"/scoremesh/damaged/models/acme/broken", b"{not json")
    await etcd.aclose()
    text = succeeds("index", "--cluster", "damaged", cwd=tmp_path, env=exports)
    assert "acme/broken (damaged entry: run `scoremesh rebuild`)" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "acme/nothing", "--rows", "1,2"], ["MODEL_NOT_FOUND", "'nothing'"]),
        (["score", "acme/nothing", "--rows", "1,x"], ["INVALID_REQUEST", "'x' is not a number"]),
        (["score", "acme/nothing", "--csv", "missing.csv"], ["INVALID_REQUEST", "missing.csv"]),
        (["score", "acme/nothing", "--rows", "1", "--router", "127.0.0.1:1"], ["UNAVAILABLE"]),
        (["publish", "missing.txt", "--tenant", "a", "--model", "b"], ["ARTIFACT_REJECTED", "missing.txt"]),
        (["publish", __file__, "--tenant", "a", "--model", "b"], ["ARTIFACT_REJECTED", "unknown format"]),
        (["publish", __file__, "--tenant", "a b", "--model", "b"], ["INVALID_REQUEST", "tenant 'a b'"]),
        (["describe", "acme/nothing"], ["MODEL_NOT_FOUND"]),
        (["describe", "acme/nothing", "--store", "ftp://x"], ["INVALID_REQUEST", "'ftp://x' is not a store"]),
        (["nodes", "--etcd", "127.0.0.1:1"], ["ETCD_UNAVAILABLE", "127.0.0.1:1"]),
    ],
)
def test_a_failure_is_one_line_and_status_1(refuse: Run, arguments: list[str], words: list[str]) -> None:
    line = refuse(*arguments)
    for word in words:
        assert word in line
    assert "Traceback" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["score", "acme", "--rows", "1"],
        ["score", "acme/x"],
        ["score", "acme/x", "--rows", "1", "--csv", "x.csv"],
        ["score", "acme/bad name", "--rows", "1"],
        ["alias", "acme/x", "live"],
        ["retire", "acme/x"],
        ["retire", "acme/x@"],
        ["rollout", "start", "acme/x"],
        ["rollout", "bulk", "--stages", "50,10"],
        ["rollout", "bulk", "--stages", "ten"],
        ["nodes", "-o", "yaml"],
        ["publish", "model.txt"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.output


def test_a_secured_etcd_is_set_by_the_environment(tls: TlsFiles, tmp_path: Path) -> None:
    only_known_callers = ["--client-cert-auth", "--trusted-ca-file", str(tls.ca)]
    server = EtcdServer(tmp_path / "secure", tls=tls, extra_args=only_known_callers)
    server.spawn()
    secured: dict[str, Any] = {"SCOREMESH_ETCD": server.endpoint, "SCOREMESH_ETCD_CA": str(tls.ca)}
    pair = {"SCOREMESH_ETCD_CERT": str(tls.cert), "SCOREMESH_ETCD_KEY": str(tls.key)}
    try:
        assert succeeds("index", cwd=tmp_path, env={**secured, **pair}) == "no models\n"
        assert "ETCD_UNAVAILABLE" in fails("index", cwd=tmp_path, env=secured)
        missing = {**secured, "SCOREMESH_ETCD_CA": "missing.pem"}
        assert "there is no certificate file missing.pem" in fails("index", cwd=tmp_path, env=missing)
    finally:
        server.terminate()


def test_rows_on_the_command_line() -> None:
    np.testing.assert_array_equal(parse_rows("1,2.5;,-3e2;"), [[1, 2.5], [np.nan, -300]])


@pytest.mark.parametrize("text", ["1,2;3", "1,two", ";;1", "0x10"])
def test_rows_that_make_no_matrix_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_rows(text)


@pytest.mark.parametrize("content", ["a,b\n1,\nNaN,4\n\n", "1,\nNA,4\n", '"a","b"\r\n"1",""\r\n"null","4"\r\n'])
def test_csv_with_and_without_header(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, newline="")
    np.testing.assert_array_equal(read_csv(path), [[1, np.nan], [np.nan, 4]])


@pytest.mark.parametrize("content", [b"", b"a,b\n", b"1,2\n3\n", b"\xff\xfe1", b"1,2\n3,x\n"])
def test_csv_that_makes_no_matrix_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError):
        read_csv(path)
