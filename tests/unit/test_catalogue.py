"""Catalogues: whose models there are, and copies that are other models than their base."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.catalogue.bases import Base, Draft, admit_base, train_all
from ops.catalogue.command import parse_trees
from ops.catalogue.copies import copier_of, in_order
from ops.catalogue.spec import CatalogueSpec, TreeShare
from registry.errors import ArtifactRejectedError, InvalidRequestError
from registry.lightgbm_slim import slim
from registry.lightgbm_text import check_lightgbm_text
from registry.model import Runtime
from registry.offer import Offer, sha256
from registry.onnx_graph import check_onnx
from registry.probing import ProbePool
from scorer.engine import Rows, engine_for
from tests.unit.conftest import TrainedModel

_SPEC = CatalogueSpec(models=100, tenants=5, bases=7, onnx_share=0.3)


@pytest.fixture(scope="module")
def drafts() -> list[Draft]:
    return list(train_all(_SPEC))


def _random(number: int) -> np.random.Generator:
    return _SPEC.random_of(number)


def _answers(runtime: Runtime, artifact: bytes, rows: np.ndarray) -> np.ndarray:
    engine = engine_for(runtime)
    model = engine.load(artifact, engine.describe(artifact))
    try:
        return np.concatenate([answer.ravel() for answer in model.predict(Rows(rows, {}))])
    finally:
        model.close()


@given(st.integers(1, 5000), st.integers(1, 300), st.floats(0, 3))
def test_every_tenant_has_models_and_the_first_ones_have_most(models: int, tenants: int, skew: float) -> None:
    spec = CatalogueSpec(models=models, tenants=min(models, tenants), skew=skew)
    sizes = np.diff(spec.begins)
    assert (spec.begins[0], spec.begins[-1]) == (0, models)
    assert sizes.min() >= 1
    assert all(first >= other - 1 for first, other in pairwise(sizes.tolist()))
    refs = [spec.ref(number) for number in range(models)]
    assert len({*refs}) == models
    assert refs[0].tenant == spec.tenant(0)
    assert refs[-1].tenant == spec.tenant(spec.tenants - 1)


def test_models_are_drawn_from_their_bases_by_weight() -> None:
    spec = CatalogueSpec(models=20_000, tenants=3)
    chosen = spec.choose_bases(np.array([3.0, 1.0]))
    assert (chosen == 0).mean() == pytest.approx(0.75, abs=0.02)
    assert np.array_equal(chosen, spec.choose_bases(np.array([3.0, 1.0])))


def test_bases_are_of_every_kind_and_the_same_at_each_training(drafts: list[Draft]) -> None:
    again = list(train_all(_SPEC))
    assert [in_order(draft.runtime, draft.data) for draft in drafts] == [
        in_order(draft.runtime, draft.data) for draft in again
    ]
    assert len({draft.data for draft in drafts}) == len(drafts)
    assert sum(draft.weight for draft in drafts) == pytest.approx(1)
    graphs = sum(draft.weight for draft in drafts if draft.runtime is Runtime.ONNX)
    assert graphs == pytest.approx(0.3)
    assert {re.sub(".*, ", "", draft.title) for draft in drafts} == {
        *("10 trees", "30 trees", "100 trees", "200 trees", "logistic regression", "network")
    }


def test_too_few_bases_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="3 bases are too few for 4 sizes"):
        list(train_all(CatalogueSpec(models=10, tenants=1, bases=3)))


@pytest.mark.parametrize(("onnx_share", "runtimes"), [(0.0, {Runtime.LIGHTGBM}), (1.0, {Runtime.ONNX})])
def test_all_of_one_engine(onnx_share: float, runtimes: set[Runtime]) -> None:
    spec = CatalogueSpec(models=10, tenants=1, bases=2, trees=(TreeShare(5, 1.0),), onnx_share=onnx_share)
    assert {draft.runtime for draft in train_all(spec)} == runtimes


@pytest.mark.parametrize(
    "kind", ["binary", "multiclass", "regression", "lambdarank", "random_forest", "one_leaf", "two_class_multiclass"]
)
def test_copies_of_trees_are_other_models_of_the_same_structure(
    lightgbm_models: dict[str, TrainedModel], kind: str
) -> None:
    trained = lightgbm_models[kind]
    base = slim(trained.artifact)
    copier = copier_of(Runtime.LIGHTGBM, base)
    copies = [copier.copy(_random(number)) for number in range(20)]
    assert len({sha256(each) for each in (base, *copies)}) == 21
    assert copier.copy(_random(3)) == copies[3]
    answers = [_answers(Runtime.LIGHTGBM, each, trained.rows[:5]).tobytes() for each in (base, *copies)]
    assert len({*answers}) == 21
    for each in copies[:5]:
        check_lightgbm_text(each)
        assert slim(each) == each  # In the very form that publishing writes.
        assert _structure(each) == _structure(base)


def _structure(text: bytes) -> bytes:
    return re.sub(rb"(?m)^(threshold|leaf_value|tree_sizes)=.*$", rb"\1", text)


def test_a_copy_answers_as_lightgbm_itself_does(lightgbm_models: dict[str, TrainedModel]) -> None:
    trained = lightgbm_models["multiclass"]
    copy = copier_of(Runtime.LIGHTGBM, slim(trained.artifact)).copy(_random(1))
    expected = np.asarray(lightgbm.Booster(model_str=copy.decode()).predict(trained.rows, num_threads=1))
    assert np.array_equal(_answers(Runtime.LIGHTGBM, copy, trained.rows), expected.ravel())
    assert not np.array_equal(expected, trained.predict(trained.rows))


def test_a_model_with_categories_is_not_copied(lightgbm_models: dict[str, TrainedModel]) -> None:
    with pytest.raises(ValueError, match="categorical features"):
        copier_of(Runtime.LIGHTGBM, slim(lightgbm_models["categorical"].artifact))


def test_copies_of_graphs_are_other_models_whose_probabilities_add_up(drafts: list[Draft]) -> None:
    for draft in (each for each in drafts if each.runtime is Runtime.ONNX):
        base = in_order(draft.runtime, draft.data)
        copies = [copier_of(draft.runtime, base).copy(_random(number)) for number in range(10)]
        assert len({sha256(each) for each in (base, *copies)}) == 11
        answers = [_answers(draft.runtime, each, draft.rows) for each in (base, *copies)]
        assert len({each.tobytes() for each in answers}) == 11
        for copy, answer in zip(copies, answers[1:], strict=True):
            check_onnx(copy)
            assert answer.reshape(len(draft.rows), -1).sum(1) == pytest.approx(1, abs=1e-5)


def test_order_is_all_that_changes(drafts: list[Draft]) -> None:
    import onnx

    data = drafts[0].data
    shuffled = onnx.ModelProto.FromString(data)
    shuffled.metadata_props.reverse()
    shuffled.opset_import.reverse()
    assert in_order(Runtime.ONNX, shuffled.SerializeToString()) == in_order(Runtime.ONNX, data)
    assert in_order(Runtime.LIGHTGBM, b"tree") == b"tree"


async def test_bases_and_their_copies_are_admitted_as_they_are(drafts: list[Draft]) -> None:
    """By the real sandbox. Memory is the base's, by what the structure takes."""
    async with ProbePool(1) as pool:
        for draft in drafts:
            base: Base = await admit_base(draft, pool.admit)
            assert len(base.golden.dense) == 2
            copy = copier_of(base.runtime, base.artifact).copy(_random(1))
            found = await pool.admit(Offer(copy, sha256(copy), base.runtime))
            assert in_order(base.runtime, found.artifact) == copy
            assert found.schema == base.schema
            assert found.resident_bytes == pytest.approx(base.resident_bytes, rel=0.15)
            assert not found.annotated


async def test_a_base_that_admission_changes_again_and_again_is_refused(drafts: list[Draft]) -> None:
    async with ProbePool(1) as pool:
        draft = next(each for each in drafts if each.runtime is Runtime.LIGHTGBM)
        calls = 0

        async def restless(offer: Offer):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            found = await pool.admit(offer)
            return found._replace(artifact=copier_of(draft.runtime, found.artifact).copy(_random(calls)))

        with pytest.raises(ArtifactRejectedError, match="makes another model of its own"):
            await admit_base(draft, restless)


def test_digests_of_copies_do_not_meet() -> None:
    """What tells one copy from the next is its number, also far from each other."""
    draft = next(each for each in train_all(_SPEC) if each.runtime is Runtime.LIGHTGBM)
    copier = copier_of(draft.runtime, draft.data)
    numbers = [*range(500), *range(10**6, 10**6 + 500), 2**31, 2**32]
    assert len({hashlib.sha256(copier.copy(_random(number))).digest() for number in numbers}) == len(numbers)


def test_sizes_of_trees_are_read() -> None:
    assert parse_trees("10:0.75,200:0.25") == (TreeShare(10, 0.75), TreeShare(200, 0.25))
    assert parse_trees("5") == (TreeShare(5, 1.0),)
    for text in ("", "0:1", "10:0", "10:-1", "ten:1", "10:1,,", "99999:1", "5:nan"):
        with pytest.raises(InvalidRequestError, match="trees"):
            parse_trees(text)
