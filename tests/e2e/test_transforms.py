"""Pipelines of scikit-learn, published by the command as their owner has them, answer as scikit-learn does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import joblib
import numpy as np
import pytest
import pytest_asyncio
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from xgboost import XGBClassifier

from client import Client, Residency, ScoreError, ScoreItem
from ops.convert_columns import to_spec
from ops.demo_tables import passengers
from ops.local_cluster import LocalCluster
from registry.transforms import TransformSpec, encode_spec
from tests.e2e.cluster import wait_until
from tests.e2e.command import fails, scoremesh, succeeds

pytestmark = pytest.mark.filterwarnings("ignore")  # of scikit-learn and LightGBM on each other's arrays
TABLE = passengers()
LEARN, HELD = TABLE.split()
Run = Callable[..., str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    place = tmp_path_factory.mktemp("transforms")
    async with LocalCluster(place, scorers=2, cluster="transforms", registry=True) as cluster:
        yield cluster


@pytest.fixture
def environment(local: LocalCluster) -> dict[str, str]:
    assert local.registry is not None
    return {"SCOREMESH_REGISTRY": local.registry.address, "SCOREMESH_CLUSTER": "transforms"}


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


def trained(model: Any, words: int = 200) -> Pipeline:
    columns = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()),
                ["age", "fare", "sibsp", "parch"],
            ),
            ("class", OneHotEncoder(), ["pclass"]),
            (
                "port",
                make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")),
                ["embarked"],
            ),
            ("sex", OrdinalEncoder(), ["sex"]),
            ("cabin", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["cabin"]),
            ("name", TfidfVectorizer(max_features=words), "name"),
        ],
        sparse_threshold=0,
    )
    return make_pipeline(columns, model).fit(TABLE.frame(LEARN), TABLE.target[LEARN])


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return trained(LGBMClassifier(n_estimators=30, n_jobs=1, verbose=-1))


def sent(spec: TransformSpec, rows: np.ndarray) -> tuple[np.ndarray, dict[str, list[str]]]:
    """What a caller sends of these rows of the table."""
    dense = np.array([TABLE.columns[name] for name in spec.features]).T[rows]
    return dense, {name: [TABLE.columns[name][row] for row in rows] for name in spec.string_columns}


def score(client: Client, model: str, spec: TransformSpec, rows: np.ndarray) -> np.ndarray:
    dense, texts = sent(spec, rows)
    probabilities: np.ndarray = client.score("acme", model, dense, string_columns=texts, timeout_s=20).probabilities
    return probabilities


def save(pipeline: Pipeline, folder: Path) -> str:
    joblib.dump(pipeline, folder / "pipeline.joblib")
    return str(folder / "pipeline.joblib")


def test_a_pipeline_of_lightgbm_answers_the_same_bits(
    run: Run, client: Client, pipeline: Pipeline, tmp_path: Path
) -> None:
    file, to = save(pipeline, tmp_path), ("--tenant", "acme", "--model", "survival")
    TABLE.frame(HELD).to_csv(tmp_path / "rows.csv", index=False)
    told = run("publish", file, *to, "--sample", str(tmp_path / "rows.csv"))
    assert told == "published acme/survival version 1 as live\n"
    spec = to_spec(pipeline[0])
    wanted = pipeline.predict_proba(TABLE.frame(HELD))
    for count in (1, 3, 4, 5, 16, 100, len(HELD)):
        assert np.array_equal(score(client, "survival", spec, HELD[:count]), wanted[:count])

    parts = [sent(spec, part) for part in np.split(HELD[:30], 3)]
    answers = client.score_batch(
        [ScoreItem("acme", "survival", dense, string_columns=texts) for dense, texts in parts], timeout_s=20
    )
    together = np.concatenate([answer.probabilities for answer in answers])  # type: ignore[union-attr]
    assert np.array_equal(together, wanted[:30])

    manifest = json.loads(run("publish", file, *to, "--version", "named", "-o", "json"))
    assert manifest["runtime"] == "lightgbm"
    assert manifest["training"]["classes"] == "0, 1"
    described = json.loads(manifest["transforms_json"])
    assert described["features"] == list(spec.features)
    assert list(described["columns"][-1]["steps"][0]["vocabulary"]) == ["table"]
    done = scoremesh("publish", file, *to, "--transforms", file, cwd=tmp_path)
    assert done.returncode == 1
    assert "transforms of its own" in done.stderr


def test_a_bad_row_is_named_and_its_value_is_not(run: Run, client: Client, pipeline: Pipeline, tmp_path: Path) -> None:
    run("publish", save(pipeline, tmp_path), "--tenant", "acme", "--model", "careful")
    spec = to_spec(pipeline[0])
    for count in (3, 50):
        dense, texts = sent(spec, HELD[:count])
        texts["sex"][1] = "my secret"
        with pytest.raises(ScoreError) as refused:
            client.score("acme", "careful", dense, string_columns=texts, timeout_s=20)
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FEATURES")
        assert "feature 'sex', row 2: the category is unknown" in refused.value.message
        assert "secret" not in refused.value.message
    dense, texts = sent(spec, HELD[:2])
    del texts["sex"]
    with pytest.raises(ScoreError, match="string_columns are"):
        client.score("acme", "careful", dense, string_columns=texts, timeout_s=20)


def test_the_contract_is_what_callers_send(
    run: Run, environment: dict[str, str], pipeline: Pipeline, tmp_path: Path
) -> None:
    to = ("--tenant", "acme", "--model", "promised")
    run("publish", save(pipeline, tmp_path), *to)
    other = trained(LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1), words=50)
    assert run("publish", save(other, tmp_path), *to) == "published acme/promised version 2 as live\n"
    pipeline_without = make_pipeline(
        ColumnTransformer([("numbers", "passthrough", ["age", "fare", "sibsp", "parch", "pclass"])]),
        LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1),
    ).fit(TABLE.frame(LEARN), TABLE.target[LEARN])
    done = scoremesh("publish", save(pipeline_without, tmp_path), *to, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "CONTRACT_BROKEN" in done.stderr
    assert "text column sex: was sex, is missing" in done.stderr


@pytest.mark.parametrize(
    "model",
    [XGBClassifier(n_estimators=20, n_jobs=1), RandomForestClassifier(20, random_state=1)],
    ids=lambda model: type(model).__name__,
)
def test_other_models_behind_transforms(model: Any, run: Run, client: Client, tmp_path: Path) -> None:
    pipeline, name = trained(model, words=20), type(model).__name__.lower()
    run("publish", save(pipeline, tmp_path), "--tenant", "acme", "--model", name)
    wanted = pipeline.predict_proba(TABLE.frame(HELD))
    got = score(client, name, to_spec(pipeline[0]), HELD)
    assert np.abs(got - wanted).max() < 1e-5


def test_models_with_the_same_words_share_them_until_the_last_is_deleted(
    run: Run, client: Client, local: LocalCluster, pipeline: Pipeline, tmp_path: Path
) -> None:
    """Published many at once, with transforms in the list."""
    pipeline[-1].booster_.save_model(tmp_path / "model.txt")
    spec = to_spec(pipeline[0])
    lines = [
        {"path": "model.txt", "tenant": "twins", "model": f"m{number}", "transforms": json.loads(encode_spec(spec))}
        for number in range(3)
    ]
    lines[2]["transforms"]["columns"][0]["steps"][0]["value"] += 1.0  # other transforms, the same words
    (tmp_path / "models.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("publish-many", str(tmp_path / "models.jsonl")).startswith("published 3, unchanged 0, failed 0")
    dense, texts = sent(spec, HELD[:20])
    wanted = pipeline.predict_proba(TABLE.frame(HELD[:20]))
    for name in ("m0", "m1", "m2"):
        scores = client.score("twins", name, dense, string_columns=texts, timeout_s=20)
        assert np.array_equal(scores.probabilities, wanted) == (name != "m2")

    folder = Path(local.store_url.removeprefix("file://")) / "tenants" / "twins" / "artifacts"

    def objects() -> set[str]:
        return {path.name for path in folder.rglob("*") if path.is_file()}

    manifest = json.loads((folder.parent / "models" / "m0" / "versions" / "1.json").read_text())
    tables = {
        value["table"]
        for column in manifest["transforms"]["columns"]
        for step in column["steps"]
        for value in step.values()
        if isinstance(value, dict)
    }
    assert len(tables) == 3, "cabins, words and their weights"
    assert tables < objects()
    run("delete", "twins/m0", "--force")
    all_of_two = objects()
    assert manifest["transforms_digest"] in all_of_two, "m1 has the same"
    run("delete", "twins/m1", "--force")
    assert all_of_two - objects() == {manifest["transforms_digest"]}
    assert tables < objects()
    assert client.score("twins", "m2", dense, string_columns=texts, timeout_s=20).residency is Residency.HIT
    run("delete", "twins/m2", "--force")
    wait_until(lambda: objects() == set(), "the deletion of what nobody needs")


def test_a_spec_written_by_hand(run: Run, refuse: Run, client: Client, pipeline: Pipeline, tmp_path: Path) -> None:
    from lightgbm import Dataset, train

    rows = np.random.default_rng(0).normal(size=(300, 2))
    booster = train({"objective": "regression", "verbose": -1, "num_threads": 1}, Dataset(rows, rows.sum(axis=1)), 5)
    booster.save_model(tmp_path / "model.txt")
    spec: dict[str, Any] = {
        "features": ["income"],
        "string_columns": ["since"],
        "columns": [
            {"input": "income", "steps": [{"op": "impute", "value": 1}, {"op": "log1p"}]},
            {"input": "since", "steps": [{"op": "date_parts", "parts": ["month"]}]},
        ],
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    to = (
        str(tmp_path / "model.txt"),
        "--tenant",
        "acme",
        "--model",
        "hand",
        "--transforms",
        str(tmp_path / "spec.json"),
    )
    run("publish", *to)
    got = client.score("acme", "hand", [[3.0], [np.nan]], string_columns={"since": ["2026-11-24", ""]}, timeout_s=20)
    assert np.array_equal(got.values, booster.predict(np.array([[np.log1p(3.0), 11.0], [np.log1p(1.0), np.nan]])))
    spec["columns"][0]["steps"][1]["op"] = "teleport"
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert "ARTIFACT_REJECTED" in (told := refuse("publish", *to))
    assert "teleport" in told
    (tmp_path / "spec.json").write_text(json.dumps({**spec, "columns": spec["columns"][1:]}))
    assert "the transforms give 1 numbers, the model takes 2" in refuse("publish", *to)
