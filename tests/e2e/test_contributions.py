"""Contributions through a router are those of the libraries themselves; XGBoost files are published as they are."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import lightgbm
import numpy as np
import pytest
import pytest_asyncio
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from client import Client, Residency, ScoreError, ScoreItem, Scores
from ops.local_cluster import LocalCluster
from registry.transforms import Column, Scale, TransformSpec, encode_spec
from tests.e2e.cluster import wait_until
from tests.e2e.command import fails, succeeds

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, on arrays without names
CANCER, DIABETES, IRIS = (load(return_X_y=True) for load in (load_breast_cancer, load_diabetes, load_iris))
ROUNDS = 12
Run = Callable[..., str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    place = tmp_path_factory.mktemp("contributions")
    async with LocalCluster(place, scorers=2, cluster="contributions", registry=True) as cluster:
        yield cluster


@pytest.fixture
def environment(local: LocalCluster) -> dict[str, str]:
    assert local.registry is not None
    return {"SCOREMESH_REGISTRY": local.registry.address, "SCOREMESH_CLUSTER": "contributions"}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    return lambda *arguments: succeeds(*arguments, cwd=tmp_path, env=environment)


@pytest.fixture
def refuse(environment: dict[str, str], tmp_path: Path) -> Run:
    return lambda *arguments: fails(*arguments, cwd=tmp_path, env=environment)


@pytest.fixture
def client(local: LocalCluster) -> Iterator[Client]:
    with Client(local.router_addresses) as client:
        yield client


def publish(run: Run, file: Path, model: str, *more: str) -> str:
    return run("publish", str(file), "--tenant", "acme", "--model", model, *more)


def explain(client: Client, model: str, rows: np.ndarray, version: str | None = None) -> Scores:
    return client.score("acme", model, rows, timeout_s=30, contributions=True, version=version)


def boosted(data: tuple[np.ndarray, np.ndarray], **parameters: object) -> xgboost.Booster:
    return xgboost.train({"nthread": 1, "max_depth": 4, **parameters}, xgboost.DMatrix(*data), ROUNDS)


def light(data: tuple[np.ndarray, np.ndarray], **parameters: object) -> lightgbm.Booster:
    settings = {"verbose": -1, "num_threads": 1, "num_leaves": 15, **parameters}
    return lightgbm.train(settings, lightgbm.Dataset(*data), ROUNDS)


@pytest.mark.parametrize("suffix", ["ubj", "json"])
def test_xgboost_of_two_classes(run: Run, client: Client, tmp_path: Path, suffix: str) -> None:
    booster = boosted(CANCER, objective="binary:logistic")
    booster.save_model(tmp_path / f"m.{suffix}")
    assert "published acme/tumour" in publish(run, tmp_path / f"m.{suffix}", f"tumour-{suffix}")
    rows = CANCER[0][:40]
    want = booster.inplace_predict(rows)
    for some in (slice(0, 1), slice(0, 40)):
        plain = client.score("acme", f"tumour-{suffix}", rows[some], timeout_s=30)
        np.testing.assert_array_equal(plain.probabilities, np.stack([1 - want, want], axis=1)[some].astype(np.float64))
    assert plain.contributions == ()
    scores = explain(client, f"tumour-{suffix}", rows)
    np.testing.assert_array_equal(scores.probabilities, plain.probabilities)
    (one,) = scores.contributions
    assert one.names == (*(f"x{number}" for number in range(30)), "bias")
    assert one.label == ""
    np.testing.assert_array_equal(one.values, booster.predict(xgboost.DMatrix(rows), pred_contribs=True))
    raw = booster.predict(xgboost.DMatrix(rows), output_margin=True)
    np.testing.assert_allclose(one.values.sum(axis=1), raw, rtol=1e-5, atol=1e-5)


def test_xgboost_needs_no_second_copy(run: Run, client: Client, tmp_path: Path) -> None:
    boosted(DIABETES, objective="reg:squarederror").save_model(tmp_path / "m.ubj")
    publish(run, tmp_path / "m.ubj", "once")
    served = {client.score("acme", "once", DIABETES[0][:1], timeout_s=30).served_by for _ in range(8)}
    explained = explain(client, "once", DIABETES[0][:1])
    assert explained.served_by not in served or explained.residency is Residency.HIT


def test_lightgbm_of_three_classes(run: Run, client: Client, tmp_path: Path) -> None:
    booster = light(IRIS, objective="multiclass", num_class=3)
    booster.save_model(tmp_path / "m.txt")
    publish(run, tmp_path / "m.txt", "iris")
    rows = IRIS[0][::5]
    scores = explain(client, "iris", rows)
    assert scores.residency is Residency.COLD
    assert explain(client, "iris", rows).residency is Residency.HIT
    np.testing.assert_array_equal(scores.probabilities, booster.predict(rows))
    assert [one.label for one in scores.contributions] == ["0", "1", "2"]
    want = np.asarray(booster.predict(rows, pred_contrib=True)).reshape(len(rows), 3, 5)
    for place, one in enumerate(scores.contributions):
        assert one.names == (*(f"Column_{number}" for number in range(4)), "bias")
        np.testing.assert_allclose(one.values, want[:, place], rtol=1e-12, atol=1e-12)


def test_behind_transforms_the_inputs_are_what_these_make(run: Run, client: Client, tmp_path: Path) -> None:
    rows = DIABETES[0][:, :2]
    booster = light((rows * 2.0, DIABETES[1]), objective="regression")
    booster.save_model(tmp_path / "m.txt")
    columns = tuple(
        Column(input=name, steps=(Scale(multiply=2.0),), outputs=(f"twice {name}",)) for name in ("age", "sex")
    )
    spec = TransformSpec(features=("age", "sex"), columns=columns)
    (tmp_path / "t.json").write_bytes(encode_spec(spec))
    publish(run, tmp_path / "m.txt", "scaled", "--transforms", str(tmp_path / "t.json"))
    (one,) = explain(client, "scaled", rows[:20]).contributions
    assert one.names == ("twice age", "twice sex", "bias")
    np.testing.assert_allclose(one.values, booster.predict(rows[:20] * 2.0, pred_contrib=True), rtol=1e-12, atol=1e-12)


def test_a_version_of_its_own_and_a_batch(run: Run, client: Client, tmp_path: Path) -> None:
    for number, rate in enumerate((0.1, 0.3), 1):
        boosted(DIABETES, eta=rate).save_model(tmp_path / f"{number}.ubj")
        publish(run, tmp_path / f"{number}.ubj", "two", "--version", str(number))
    rows = DIABETES[0][:3]
    first = explain(client, "two", rows, version="1")
    assert first.version == "1"
    items = [
        ScoreItem("acme", "two", rows),
        ScoreItem("acme", "two", rows, version="1", contributions=True),
        ScoreItem("acme", "nothing", rows, contributions=True),
    ]
    plain, explained, unknown = client.score_batch(items, timeout_s=30)
    assert isinstance(plain, Scores)
    assert isinstance(explained, Scores)
    assert plain.version == "2"
    assert not plain.contributions
    np.testing.assert_array_equal(explained.contributions[0].values, first.contributions[0].values)
    assert isinstance(unknown, ScoreError)
    assert unknown.code is grpc.StatusCode.NOT_FOUND


def test_a_canary_is_not_asked(run: Run, client: Client, tmp_path: Path) -> None:
    for number, more in enumerate(((), ("--alias", "")), 1):
        light(DIABETES, objective="regression", seed=number, learning_rate=0.1 * number).save_model(tmp_path / "m.txt")
        publish(run, tmp_path / "m.txt", "rolled", *more)
    run("rollout", "start", "acme/rolled", "--canary", "2", "--percent", "100")
    rows = DIABETES[0][:2]
    wait_until(lambda: client.score("acme", "rolled", rows, timeout_s=30).version == "2", "the canary")
    assert explain(client, "rolled", rows).version == "1"
    assert explain(client, "rolled", rows, version="2").version == "2"


def test_what_cannot_be_explained_says_why(run: Run, client: Client, tmp_path: Path) -> None:
    booster = boosted(DIABETES)
    booster.save_model(tmp_path / "m.ubj")
    publish(run, tmp_path / "m.ubj", "graph", "--runtime", "onnx")
    rows, counted = DIABETES[0][:1], light(DIABETES, objective="regression")
    counted.save_model(tmp_path / "c.txt")  # the same trees
    publish(run, tmp_path / "c.txt", "counts")
    for _ in range(8):
        assert explain(client, "counts", rows).contributions
    text = re.sub(r"\n(leaf|internal)_count=[^\n]*", "", counted.model_to_string())
    text = re.sub(r"\ntree_sizes=[^\n]*", "\ntree_sizes=" + " ".join(_sizes(text)), text)
    (tmp_path / "m.txt").write_text(text)
    publish(run, tmp_path / "m.txt", "no-counts")
    boosted(DIABETES).save_model(tmp_path / "m.json")
    publish(run, tmp_path / "m.json", "fine")
    for model, words in {"graph": "ONNX models", "no-counts": "how many rows came by each node"}.items():
        assert client.score("acme", model, rows, timeout_s=30).values.shape == (1,)
        with pytest.raises(ScoreError, match=words) as caught:
            explain(client, model, rows)
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_EXPLAINABLE")
    many = np.repeat(rows, 257, axis=0)
    for wrong, words in ((many, "at most 256 rows"), (rows[:, :3], "3 features"), (rows * np.inf, "infinite")):
        with pytest.raises(ScoreError, match=words) as caught:
            explain(client, "fine", wrong)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def _sizes(text: str) -> list[str]:
    trees = text[text.index("\nTree=0\n") + 1 : text.index("\nend of trees\n") + 1]
    return [str(len(block)) for block in re.split(r"(?<=\n)(?=Tree=\d+\n)", trees)]


def test_the_commands(run: Run, refuse: Run, local: LocalCluster, tmp_path: Path) -> None:
    boosted(DIABETES).save_model(tmp_path / "m.ubj")
    (tmp_path / "s.csv").write_text("a\n1\n")
    sample = (
        "publish",
        str(tmp_path / "m.ubj"),
        "--tenant",
        "acme",
        "--model",
        "x",
        "--sample",
        str(tmp_path / "s.csv"),
    )
    assert "--runtime onnx" in refuse(*sample)
    other = ("publish", str(tmp_path / "m.ubj"), "--tenant", "acme", "--model", "x", "--runtime", "lightgbm")
    assert "m.ubj is for xgboost" in refuse(*other)
    publish(run, tmp_path / "m.ubj", "shown")
    rows = ",".join(map(str, DIABETES[0][0]))
    asked = ("score", "acme/shown", f"--rows={rows}", "--contributions", "--router", local.router_addresses[0])
    assert "bias" in run(*asked)
    told = json.loads(run(*asked, "-o", "json"))
    (one,) = told["contributions"]
    assert len(one["names"]) == len(one["values"][0]) == 11
