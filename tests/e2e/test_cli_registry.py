"""The commands of the registry as a person types them: through a running registry and, the same, without one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ops.demo_data import DemoModel
from ops.demo_models import RECIPES, train
from ops.local_cluster import LocalCluster
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.model import QuarantineRecord
from tests.e2e.command import fails, scoremesh, succeeds

Run = Callable[..., str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    place = tmp_path_factory.mktemp("registry")
    async with LocalCluster(place, scorers=2, cluster="registered", registry=True) as cluster:
        yield cluster


@pytest.fixture(params=["running registry", "own registry"])
def exports(local: LocalCluster, request: pytest.FixtureRequest) -> dict[str, str]:
    common = {"SCOREMESH_ROUTER": local.router_addresses[0], "SCOREMESH_CLUSTER": "registered"}
    etcd = {"SCOREMESH_ETCD": ",".join(local.etcd_endpoints)}
    if request.param == "own registry":
        return {**common, **etcd, "SCOREMESH_STORE": local.store_url}
    assert local.registry is not None
    return {**common, "SCOREMESH_REGISTRY": local.registry.address}


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """Another tenant for each way and test."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[-60:].strip("-")


@pytest.fixture(scope="module")
def tumour(tmp_path_factory: pytest.TempPathFactory) -> DemoModel:
    [recipe] = [recipe for recipe in RECIPES if str(recipe.ref) == "acme/tumour-small"]
    return train(recipe, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(exports: dict[str, str], tmp_path: Path) -> Run:
    return lambda *arguments: succeeds(*arguments, cwd=tmp_path, env=exports)


@pytest.fixture
def refuse(exports: dict[str, str], tmp_path: Path) -> Run:
    return lambda *arguments: fails(*arguments, cwd=tmp_path, env=exports)


def publish(run: Run, model: DemoModel, tenant: str, name: str, *more: str) -> None:
    run("publish", str(model.path), "--tenant", tenant, "--model", name, *more)


def test_versions_come_and_go(run: Run, refuse: Run, tumour: DemoModel, tenant: str) -> None:
    ref = f"{tenant}/risk"
    for label in "ab":
        publish(run, tumour, tenant, "risk", "--label", f"build={label}", "--request-id", label)
    publish(run, tumour, tenant, "risk", "--request-id", "a")  # repeated: no third version
    assert run("rollback", ref) == f"{ref}: live -> 1\n"
    assert "MODEL_IN_USE" in refuse("retire", f"{ref}@1")
    assert "alias live" in refuse("delete", f"{ref}@1")
    assert run("retire", f"{ref}@2") == f"{ref}@2 is retired\n"
    assert "MODEL_IN_USE" in refuse("alias", ref, "live=2")
    found = json.loads(run("describe", ref, "-o", "json"))
    states = [version["state"] for version in found["versions"]]
    assert states == ["VERSION_STATE_LIVE", "VERSION_STATE_RETIRED"]
    assert found["versions"][1]["labels"] == {"build": "b"}
    assert run("delete", f"{ref}@2").startswith(f"deleted {ref}@2: 0 models, 1 versions, ")
    assert "MODEL_NOT_FOUND" in refuse("alias", ref, "live=2")
    assert "MODEL_IN_USE" in refuse("delete", ref)
    assert run("delete", ref, "--force").startswith(f"deleted {ref}: 1 models, 1 versions, ")
    assert "MODEL_NOT_FOUND" in refuse("describe", ref)
    assert json.loads(run("ls", tenant, "-o", "json")) == []


def test_a_rollout_from_start_to_end(run: Run, refuse: Run, tumour: DemoModel, tenant: str) -> None:
    ref = f"{tenant}/risk"
    publish(run, tumour, tenant, "risk")
    publish(run, tumour, tenant, "risk", "--alias", "")
    text = run("rollout", "start", ref, "--canary", "2", "--percent", "20")
    assert text.startswith(f"{ref}: beside live -> 1 runs canary 2 at 20 % (rollout ")
    rows = ";".join(",".join(repr(float(value)) for value in row) for row in tumour.rows[:3])
    for _ in range(3):
        run("score", ref, "--rows", rows)
    status = json.loads(run("rollout", "status", ref, "-o", "json"))
    seen = [int(status.get(arm, {}).get("requests", 0)) for arm in ("stable_stats", "canary_stats")]
    assert sum(seen) == 3
    assert status["verdict"].startswith("wait")
    assert "beside live" in run("describe", ref)
    assert "CONFLICT" not in run("rollout", "start", ref, "--canary", "2", "--percent", "50")
    assert run("rollout", "promote", ref) == f"{ref}: live -> 2, nothing beside it\n"
    run("rollout", "start", ref, "--shadow", "1")
    assert run("rollout", "abort", ref) == f"{ref}: live -> 2, nothing beside it\n"
    assert "MODEL_NOT_FOUND" in refuse("rollout", "abort", ref)


def test_many_models_move_at_once(run: Run, tumour: DemoModel, tenant: str) -> None:
    for name in ("one", "two", "three"):
        publish(run, tumour, tenant, name)
        publish(run, tumour, tenant, name, "--alias", "", "--training", "run=nightly")
    chosen = ("--tenant", tenant, "--training", "run=nightly", "--stages", "50,100")
    assert "would move" in run("rollout", "bulk", *chosen, "--dry-run")
    assert "moved 3 of 3 models, 0 failed" in run("rollout", "bulk", *chosen)
    rows = json.loads(run("ls", tenant, "-o", "json"))
    assert [row["aliases"] for row in rows] == [{"live": "2"}] * 3


def test_a_broken_contract_shows_the_difference(
    run: Run, refuse: Run, tumour: DemoModel, tenant: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    text = tumour.path.read_text()
    names = next(line for line in text.splitlines() if line.startswith("feature_names=")).split("=")[1].split(" ")
    other.write_text(text.replace(f"={names[0]} ", "=renamed ", 1))
    publish(run, tumour, tenant, "risk")
    line = refuse("publish", str(other), "--tenant", tenant, "--model", "risk")
    for word in ("CONTRACT_BROKEN", names[0], "renamed"):
        assert word in line
    run("publish", str(other), "--tenant", tenant, "--model", "risk", "--allow-breaking")


def test_the_life_of_a_tenant(run: Run, refuse: Run, tumour: DemoModel, tenant: str) -> None:
    created = json.loads(run("tenant", "create", tenant, "--shard-size", "4", "--guaranteed-mib", "8", "-o", "json"))
    assert (created[0]["shard_size"], created[0]["guaranteed_mib"], created[0]["premium"]) == (4, 8.0, False)
    assert "TENANT_EXISTS" in refuse("tenant", "create", tenant)
    assert json.loads(run("tenant", "update", tenant, "--premium", "-o", "json"))[0]["shard_size"] == 4
    assert json.loads(run("tenant", "show", tenant, "-o", "json"))[0]["premium"] is True
    publish(run, tumour, tenant, "risk")
    run("score", f"{tenant}/risk", "--rows", ",".join(["1"] * tumour.rows.shape[1]))
    assert tenant in [row["tenant"] for row in json.loads(run("tenant", "ls", "-o", "json"))]
    removed = json.loads(run("tenant", "delete", tenant, "--yes", "-o", "json"))
    assert (int(removed["models"]), int(removed["versions"])) == (1, 1)
    assert int(removed["resident_models"]) >= 1  # and what other tests have in memory of the same bytes
    assert "MODEL_NOT_FOUND" in refuse("score", f"{tenant}/risk", "--rows", "1")
    assert tenant not in [row["tenant"] for row in json.loads(run("tenant", "ls", "-o", "json"))]


def test_an_application_shares_its_model(run: Run, refuse: Run, tumour: DemoModel, tenant: str) -> None:
    application = f"app-{tenant}"[:100]
    publish(run, tumour, tenant, "base")
    shared = ("--shared", f"{tenant}/base", "--contract-of", f"{tenant}/base@1")
    made = json.loads(run("application", "set", application, *shared, "-o", "json"))
    assert (made[0]["shared_model"], made[0]["contract_features"]) == (f"{tenant}/base", tumour.rows.shape[1])
    assert application in run("application", "ls")
    rows = ",".join(["1"] * tumour.rows.shape[1])
    assert "version 1" in run("score", f"newcomer/{application}", "--rows", rows)
    line = refuse("delete", f"{tenant}/base")
    assert "MODEL_IN_USE" in line
    assert application in line
    assert "contract" in run("application", "show", application)
    assert run("application", "delete", application) == f"deleted application {application}\n"
    assert "NOT_FOUND" in refuse("application", "show", application)


def test_a_command_with_a_request_id_can_be_repeated(run: Run, refuse: Run, tumour: DemoModel, tenant: str) -> None:
    application = f"app-{tenant}"[:100]
    create = ("tenant", "create", tenant, "--shard-size", "4", "--request-id", "r1", "-o", "json")
    assert run(*create) == run(*create)
    update = ("tenant", "update", tenant, "--shard-size", "5", "--request-id", "r2", "-o", "json")
    assert run(*update) == run(*update)
    put = ("application", "set", application, "--pool", "fast", "--request-id", "r3", "-o", "json")
    assert run(*put) == run(*put)
    gone = ("application", "delete", application, "--request-id", "r4")
    assert run(*gone) == run(*gone)
    publish(run, tumour, tenant, "risk")
    delete = ("delete", f"{tenant}/risk", "--force", "--request-id", "r5", "-o", "json")
    assert [int(json.loads(run(*delete))["models"]) for _ in range(2)] == [1, 0]
    end = ("tenant", "delete", tenant, "--yes", "--request-id", "r6", "-o", "json")
    assert [int(json.loads(run(*end))["objects"]) > 0 for _ in range(2)] == [True, False]
    assert run("quarantine", "lift", "nothing", "--request-id", "r7") == "package nothing may be loaded again\n"
    assert "NOT_FOUND" in refuse("tenant", "delete", tenant, "--yes")


def test_the_models_that_a_contract_breaks_are_told(
    exports: dict[str, str], run: Run, tumour: DemoModel, tenant: str, tmp_path: Path
) -> None:
    application = f"app-{tenant}"[:100]
    run("application", "set", application)
    publish(run, tumour, tenant, "risk", "--application", application)
    contract = tmp_path / "contract.json"
    contract.write_text('{"features": [{"name": "other"}], "outputs": [{"name": "value", "kind": "regression"}]}')
    ended = scoremesh(
        "application", "set", application, "--contract", str(contract), "--check-models", cwd=tmp_path, env=exports
    )
    assert (ended.returncode, ended.stderr) == (0, f"the live version of {tenant}/risk breaks the contract\n")


async def test_quarantine_is_listed_and_lifted(run: Run, refuse: Run, local: LocalCluster, tenant: str) -> None:
    package = f"p-{tenant}"[:100]
    etcd = Etcd(local.etcd_endpoints)
    record = QuarantineRecord(package, "crashed two workers", "local-0", "2026-01-01T00:00:00Z")
    await etcd.put(Keys("registered").quarantine(package), encode(record))
    await etcd.aclose()
    assert package in run("quarantine", "ls")
    assert run("quarantine", "lift", package) == f"package {package} may be loaded again\n"
    assert "NOT_FOUND" in refuse("quarantine", "lift", package)


def test_many_files_in_one_command(
    run: Run, refuse: Run, exports: dict[str, str], tumour: DemoModel, tenant: str, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / tenant
    folder.mkdir(parents=True)
    for number in range(5):
        (folder / f"m{number}.txt").write_bytes(tumour.path.read_bytes())
    run("publish-many", str(tmp_path / "models"), "--training", "run=nightly")
    assert [row["aliases"] for row in json.loads(run("ls", tenant, "-o", "json"))] == [{"live": "1"}] * 5
    (folder / "m5.txt").write_text("no model")
    again = scoremesh("publish-many", str(tmp_path / "models"), cwd=tmp_path, env=exports)
    assert again.returncode == 1
    assert "m5.txt: " in again.stderr
    assert "failed 1: 6 models in " in again.stdout
    assert [row["aliases"] for row in json.loads(run("ls", tenant, "-o", "json"))] == [{"live": "1"}] * 5
    assert "INVALID_REQUEST" in refuse("publish-many", str(tmp_path / "nowhere"))
