"""`scoremesh catalogue make` into a real etcd and real stores, scored by real scorers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import pytest

from client import AsyncClient
from ops.catalogue.making import make
from ops.catalogue.spec import CatalogueSpec, TreeShare
from ops.catalogue.writing import Maker, Order
from ops.load.options import read_models
from ops.local_cluster import LocalCluster
from registry.errors import ConflictError, UnavailableError
from registry.keys import Keys, decode_model
from registry.layout import artifact_path, registration_path
from registry.library import Library
from registry.manifest import Manifest, Registration, encode
from registry.model import LIVE, ModelRef, Runtime
from registry.offer import Facts
from registry.probing import ProbePool
from registry.rebuild import rebuild
from registry.store_urls import open_store
from tests.e2e.command import fails, succeeds
from tests.integration.publishing import open_ledger, publisher
from tests.integration.s3_server import S3Server, running_s3

_MODELS = 200
_ARGUMENTS = ("--tenants", "7", "--bases", "6", "--trees", "10:0.8,30:0.2", "--onnx-share", "0.2", "--sample", "10")
_SPEC = CatalogueSpec(
    models=_MODELS, tenants=7, bases=6, trees=(TreeShare(10, 0.8), TreeShare(30, 0.2)), onnx_share=0.2
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def _order(cluster: LocalCluster, spec: CatalogueSpec = _SPEC) -> Order:
    etcd = ",".join(cluster.etcd_endpoints)
    return Order(
        spec=spec,
        bases=(),
        store=cluster.store_url,
        etcd=etcd,
        cluster=cluster.cluster,
        published_by="test",
        processes=2,
    )


def _quiet(_what: str, _done: int, _of: int) -> None:
    """Nobody watches."""


@contextlib.asynccontextmanager
async def _cluster(folder: Path, store: str = "", scorers: int = 0) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(
        folder, scorers=scorers, routers=1 if scorers else 0, cluster="catalogue", store=store
    ) as made:
        yield made


@pytest.mark.parametrize("kind", ["file", "s3"])
async def test_every_model_is_scored_as_its_own_library_does(kind: str, s3: S3Server, tmp_path: Path) -> None:
    async with _cluster(tmp_path / "cluster", s3.url("catalogue") if kind == "s3" else "", scorers=1) as cluster:
        named = {
            "SCOREMESH_ETCD": ",".join(cluster.etcd_endpoints),
            "SCOREMESH_STORE": cluster.store_url,
            "SCOREMESH_CLUSTER": "catalogue",
            **s3.environment(),
        }
        await open_store(cluster.store_url).create("bucket", b"is there")
        arguments = ("catalogue", "make", str(_MODELS), *_ARGUMENTS, "--models-file", "models.jsonl")
        told = succeeds(*arguments, cwd=tmp_path, env=named)
        assert told.startswith("made 200 models, 0 were there: 200 of 7 tenants in ")
        assert "; 10 of them admitted again, " in told
        models = read_models(tmp_path / "models.jsonl")
        assert len(models) == _MODELS
        assert len({model.tenant for model in models}) == 7
        library = Library(open_store(cluster.store_url))
        async with AsyncClient(cluster.router_addresses[0]) as client:
            digests = [
                await _check_scores(client, library, ModelRef(model.tenant, model.model), model.features)
                for model in models
            ]
        assert len({*digests}) == _MODELS
        again = succeeds(*arguments, cwd=tmp_path, env=named)
        assert again.startswith("made 0 models, 200 were there")


async def _check_scores(client: AsyncClient, library: Library, ref: ModelRef, features: int) -> str:
    """That the cluster answers what the library does, and the golden rows as the manifest says. Returns the digest."""
    manifest = await library.resolve(ref)
    artifact = await library.store.get(artifact_path(ref.tenant, manifest.artifact))
    rows = np.random.default_rng(1).normal(size=(4, features)) * 10
    scores = await client.score(*ref, rows, timeout_s=60.0)
    [output] = scores.outputs.values()
    if manifest.runtime is Runtime.LIGHTGBM:
        raw = np.asarray(lightgbm.Booster(model_str=artifact.decode()).predict(rows, num_threads=1))
        expected = np.column_stack([1.0 - raw, raw]) if output.values.shape == (4, 2) else raw
        assert np.array_equal(output.values, expected)
    else:
        assert np.allclose(output.values, _onnx(artifact, rows), rtol=1e-5, atol=1e-6)
    assert manifest.golden is not None
    golden = await client.score(*ref, np.array(manifest.golden.dense, np.float64), timeout_s=60.0)
    [numbers] = manifest.golden.outputs.values()
    assert next(iter(golden.outputs.values())).values.ravel() == pytest.approx(
        numbers, rel=manifest.golden.tolerance, abs=manifest.golden.tolerance
    )
    return manifest.artifact


def _onnx(artifact: bytes, rows: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows.astype(np.float32)})[-1])


async def test_what_is_written_is_what_publishing_writes(tmp_path: Path) -> None:
    """The same bytes, published by the real publisher under another name: manifest, model record and index differ in
    names, times, nonces and what admission measures alone.
    """
    async with _cluster(tmp_path) as cluster:
        made = await make(_order(cluster), 0, _quiet)
        maker, runtimes = Maker(made.order), set[Runtime]()
        for number in range(0, _MODELS, 20):
            await _compare(made.order, maker, number, cluster, tmp_path)
            runtimes.add(maker.base_of(number).runtime)
        assert runtimes == {Runtime.LIGHTGBM, Runtime.ONNX}
        await _check_index(cluster)
        rebuilt = await rebuild(open_ledger(open_store(cluster.store_url), cluster.etcd, Keys("catalogue")))
        assert (rebuilt.written, rebuilt.removed, rebuilt.failed) == (0, 0, 0)


async def _compare(order: Order, maker: Maker, number: int, cluster: LocalCluster, folder: Path) -> None:
    ref, base = order.spec.ref(number), maker.base_of(number)
    other = ModelRef(ref.tenant, f"published-{number}")
    keys, library = Keys("catalogue"), Library(open_store(cluster.store_url))
    file = folder / f"{number}.model"
    file.write_bytes(maker.artifact(number))
    ours = await library.resolve(ref)
    facts = Facts(training=ours.training, golden=ours.golden)
    async with ProbePool(1) as pool:
        real = publisher(library.store, cluster.etcd, keys, pool.admit, published_by="test")
        theirs = await real.publish(file, other, facts=facts)
    measured = {"model", "created_at", "nonce", "resident_bytes", "predict_us"}
    if base.runtime is Runtime.ONNX:
        measured |= {"artifact"}  # The same but for the order of its metadata.
    assert _differences(ours, theirs) <= measured
    records = await library.newest_aliases(ref), await library.newest_aliases(other)
    assert _differences(*records) <= {"versions", "created_at", "nonce"}
    assert records[0] is not None
    assert records[0].versions == {"1": ours.to_version()}
    begun = await library.find_registration(ref, "1"), await library.find_registration(other, "1")
    assert _differences(*begun) <= {"created_at", "nonce"}
    _, entry = await cluster.etcd.get(keys.model(ref))
    assert entry is not None
    assert decode_model(entry.value).aliases == {LIVE: ours.to_version()}


def _differences(one: object, other: object) -> set[str]:
    assert type(one) is type(other)
    fields: tuple[str, ...] = type(one).__struct_fields__  # type: ignore[attr-defined]
    return {name for name in fields if getattr(one, name) != getattr(other, name)}


async def test_a_run_that_was_broken_off_is_finished(tmp_path: Path) -> None:
    async with _cluster(tmp_path) as cluster:

        def break_off(what: str, _done: int, _of: int) -> None:
            if what == "make models":
                raise _BrokenOffError

        larger = msgspec.structs.replace(_SPEC, models=1000)
        with pytest.raises(ExceptionGroup):  # It's no error of ours.
            await make(_order(cluster, larger), 0, break_off)
        made = await make(_order(cluster, larger), 5, _quiet)
        assert made.present + made.made == 1000
        assert made.present > 0
        await _check_index(cluster, larger)


async def test_half_a_model_is_finished_and_a_lost_index_is_told_again(tmp_path: Path) -> None:
    async with _cluster(tmp_path) as cluster:
        await make(_order(cluster), 0, _quiet)
        store, keys = open_store(cluster.store_url), Keys("catalogue")
        half, lost = _SPEC.ref(3), _SPEC.ref(_MODELS - 2)
        await store.delete_folder(f"tenants/{half.tenant}/models/{half.model}/aliases")
        await store.delete_folder(f"tenants/{half.tenant}/models/{half.model}/versions")
        await cluster.etcd.delete(keys.model(half))
        await cluster.etcd.delete(keys.model(lost))
        made = await make(_order(cluster), 0, _quiet)
        assert (made.made, made.present) == (1, _MODELS - 1)
        await _check_index(cluster)


async def _check_index(cluster: LocalCluster, spec: CatalogueSpec = _SPEC) -> None:
    """That every model is complete, and etcd knows it."""
    keys, library = Keys("catalogue"), Library(open_store(cluster.store_url))
    for number in range(spec.models):
        ref = spec.ref(number)
        manifest: Manifest = await library.resolve(ref)
        assert await library.store.exists(artifact_path(ref.tenant, manifest.artifact))
        assert await library.read_schema(ref.tenant, manifest.schema)
        _, found = await cluster.etcd.get(keys.model(ref))
        assert found is not None
        assert decode_model(found.value).aliases[LIVE] == manifest.to_version()


async def test_other_models_of_the_same_names_are_left_alone(tmp_path: Path) -> None:
    async with _cluster(tmp_path) as cluster:
        await make(_order(cluster), 0, _quiet)
        with pytest.raises(ConflictError, match=r"there is another model load-.* already"):
            await make(_order(cluster, msgspec.structs.replace(_SPEC, seed=2)), 0, _quiet)
        store = open_store(cluster.store_url)
        ref = _SPEC.ref(5)
        await store.delete_folder(f"tenants/{ref.tenant}/models/{ref.model}/aliases")
        path = registration_path(ref, "1")
        other = Registration(version="1", source="0" * 64, created_at="", nonce="another")
        await store.delete(path)
        await store.create(path, encode(other))
        with pytest.raises(UnavailableError, match=f"there is another model {ref} already"):
            await make(_order(cluster), 0, _quiet)


async def test_more_models_of_a_larger_catalogue_come_beside_those_of_another_prefix(tmp_path: Path) -> None:
    async with _cluster(tmp_path) as cluster:
        small = msgspec.structs.replace(_SPEC, models=30)
        await make(_order(cluster, small), 0, _quiet)
        other = await make(_order(cluster, msgspec.structs.replace(small, prefix="more")), 30, _quiet)
        assert (other.made, other.present, other.tried) == (30, 0, 30)
        assert 0.8 < other.most_resident < 1.3


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    make_one = ("catalogue", "make", "1")
    store = ("--store", f"file://{tmp_path / 'store'}")
    assert "name the object store" in fails(*make_one, cwd=tmp_path)
    assert "is not a store" in fails(*make_one, "--store", "ftp://x", cwd=tmp_path)
    assert "prefix" in fails(*make_one, *store, "--prefix", "a/b", cwd=tmp_path)
    assert "trees 'many'" in fails(*make_one, *store, "--trees", "many", cwd=tmp_path)
    assert "bases are too few" in fails(*make_one, *store, "--bases", "2", cwd=tmp_path)
    assert "can't write" in fails(*make_one, *store, "--models-file", "/nowhere/models", cwd=tmp_path)


class _BrokenOffError(Exception):
    """As if the process had been killed there."""
