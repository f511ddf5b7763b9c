"""What every engine is held to, on real models: see `scorer.engine` and docs/engines.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from registry.errors import ArtifactRejectedError, InvalidFeaturesError, ModelUnusableError
from registry.model import ModelSchema, Runtime
from registry.probe_wire import least_resident_bytes
from scorer.contributions import BIAS, contributions_of
from scorer.engine import Explains, LoadedModel, Rows, engine_for, predict_unlocked
from scorer.formats import FORMATS
from scorer.memory import allocated_bytes, measure_load
from tests.conformance.entries import ENTRIES, Entry, Trained

_COPIES = 4
_DAMAGED = 40
_LEAST_BYTES = 16_384
_NOISE_BYTES = 100_000  # what else the process allocates meanwhile


class Case:
    """One model of one engine, as a scorer gets it."""

    def __init__(self, entry: Entry, trained: Trained) -> None:
        self.entry, self.trained = entry, trained
        self.engine = engine_for(entry.runtime)
        self.schema = self.engine.describe(trained.offered)
        rewritten = FORMATS[entry.runtime].rewrite(trained.offered, None)
        self.artifact, self.annotated = rewritten.artifact, rewritten.annotated
        self.rows = trained.rows[::5]

    def load(self, artifact: bytes = b"") -> LoadedModel:
        return self.engine.load(artifact or self.artifact, self.schema)

    def near(self, got: np.ndarray, want: np.ndarray) -> None:
        if self.entry.tolerance:
            np.testing.assert_allclose(got, want, rtol=self.entry.tolerance, atol=self.entry.tolerance)
        else:
            np.testing.assert_array_equal(got, want)


def _cases() -> list[tuple[Runtime, str]]:
    return [(runtime, name) for runtime, entry in ENTRIES.items() for name in entry.models()]


@pytest.fixture(params=_cases(), ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    runtime, name = request.param
    entry = ENTRIES[runtime]
    return Case(entry, entry.models()[name])


@pytest.fixture
def model(case: Case) -> Iterator[LoadedModel]:
    model = case.load()
    yield model
    model.close()


def as_output(answer: np.ndarray, schema: ModelSchema) -> np.ndarray:
    """What a library answers, in the shape that the schema says; a lone probability is that of the second class."""
    columns = len(schema.outputs[0].columns)
    if columns == 2 and answer.ndim == 1:
        answer = np.stack([1 - answer, answer], axis=1)
    return answer.reshape(len(answer), columns) if columns else answer.reshape(len(answer))


def test_every_runtime_has_an_entry() -> None:
    assert set(ENTRIES) == set(FORMATS) == set(Runtime)


def test_the_schema_is_read_from_the_file(case: Case) -> None:
    (output,) = case.schema.outputs
    assert len(case.schema.features) == case.rows.shape[1]
    assert output.kind is case.trained.kind
    assert case.engine.describe(case.artifact).outputs == case.schema.outputs


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_answers_are_the_librarys_own(case: Case, model: LoadedModel, dtype: type) -> None:
    rows: np.ndarray = case.rows.astype(dtype)
    (got,) = model.predict(Rows(rows, {}))
    assert got.dtype == np.float64
    assert got.flags.writeable
    case.near(got, as_output(case.trained.predict(rows), case.schema).astype(np.float64))


def test_a_row_alone_is_a_row_among_others(case: Case, model: LoadedModel) -> None:
    (together,) = model.predict(Rows(case.rows, {}))
    for count in (1, 2, 7):
        parts = [case.rows[start : start + count] for start in range(0, len(case.rows), count)]
        case.near(np.concatenate([model.predict(Rows(part, {}))[0] for part in parts]), together)
    case.near(predict_unlocked(model, Rows(case.rows, {}))[0], together)


def test_rows_that_are_a_view_are_read_right(case: Case, model: LoadedModel) -> None:
    wide = np.repeat(case.rows, 2, axis=1)[:, ::2]
    case.near(model.predict(Rows(wide, {}))[0], model.predict(Rows(case.rows, {}))[0])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -0.0])
def test_any_number_has_an_answer(case: Case, model: LoadedModel, value: float, count: int) -> None:
    rows = np.full((count, case.rows.shape[1]), value)
    (answer,) = model.predict(Rows(rows, {}))
    columns = len(case.schema.outputs[0].columns)
    assert answer.shape == ((count, columns) if columns else (count,))


def test_rows_that_do_not_fit_are_refused(case: Case, model: LoadedModel) -> None:
    width = case.rows.shape[1]
    shapes = [(1, width - 1), (2, width + 1), (0, width), (width,), (1, 1, width)]
    wrong = [*map(np.zeros, shapes), np.zeros((1, width), np.int64), np.zeros((2, width), ">f8")]
    for dense in wrong:
        with pytest.raises(InvalidFeaturesError):
            model.predict(Rows(dense, {}))
        with pytest.raises(InvalidFeaturesError):
            predict_unlocked(model, Rows(dense, {}))


def test_threads_do_not_disturb_each_other(case: Case, model: LoadedModel) -> None:
    (want,) = model.predict(Rows(case.rows, {}))

    def work(start: int) -> bool:
        for number in range(start, start + 150):
            first = number % (len(case.rows) - 9)
            part = case.rows[first : first + (1 if number % 3 else 9)]
            predict = model.predict if number % 2 else lambda rows: predict_unlocked(model, rows)
            case.near(predict(Rows(part, {}))[0], want[first : first + len(part)])
        return True

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, (0, 17)))


def test_no_thread_is_started(case: Case) -> None:
    before = len(list(Path("/proc/self/task").iterdir()))
    model = case.load()
    model.predict(Rows(np.repeat(case.rows, 20, axis=0), {}))
    assert len(list(Path("/proc/self/task").iterdir())) <= before
    model.close()


def test_another_schema_is_refused(case: Case) -> None:
    fewer = msgspec.structs.replace(case.schema, features=case.schema.features[:-1], dtypes={}, categories={})
    output = msgspec.structs.replace(case.schema.outputs[0], columns=("a", "b", "c", "d", "e"))
    for schema in (fewer, msgspec.structs.replace(case.schema, outputs=(output,))):
        with pytest.raises(ModelUnusableError):
            case.engine.load(case.artifact, schema).predict(Rows(case.rows[:1], {}))  # ONNX finds out by the second


def test_memory_is_known_and_given_back(case: Case) -> None:
    case.load().close()  # what the first one leaves is all models'
    before = allocated_bytes()
    copies = [measure_load(case.load) for _ in range(_COPIES)]
    for model, _ in copies:
        model.predict(Rows(case.rows, {}))
    held = allocated_bytes() - before
    for model, taken in copies:
        bound = max(model.resident_bytes, least_resident_bytes(len(case.artifact)))
        assert bound / 3 - _LEAST_BYTES < taken < 2 * bound  # the engine's guess; admission measures
        model.close()
    assert allocated_bytes() - before < 0.1 * held + _NOISE_BYTES


def test_nothing_of_the_artifact_is_kept(case: Case) -> None:
    artifact = bytes(bytearray(case.artifact))
    held = sys.getrefcount(artifact)
    model = case.load(artifact)
    assert sys.getrefcount(artifact) == held
    model.close()


def test_contributions_add_up_to_the_raw_score(case: Case) -> None:
    if case.trained.raw is None:
        model = case.load()
        assert not isinstance(model, Explains)
        model.close()
        return
    model, plain = case.load(case.annotated), case.load()
    (output,) = case.schema.outputs
    case.near(model.predict(Rows(case.rows, {}))[0], plain.predict(Rows(case.rows, {}))[0])
    plain.close()
    found = contributions_of(model, Rows(case.rows, {}), output)
    raw = case.trained.raw(case.rows).reshape(len(case.rows), -1)
    assert [one.label for one in found] == (list(output.columns) if len(found) > 1 else [""])
    for column, one in enumerate(found):
        assert one.names == (*case.schema.features, BIAS)
        size = np.abs(raw).max()
        np.testing.assert_allclose(one.values.sum(axis=1), raw[:, column], rtol=0, atol=case.entry.raw_tolerance * size)
    model.close()


@pytest.mark.parametrize("runtime", list(ENTRIES))
def test_damage_is_refused_and_never_a_crash(runtime: Runtime) -> None:
    """Some damage leaves a sound model, such as another threshold: then it scores."""
    entry, form = ENTRIES[runtime], FORMATS[runtime]
    models = list(entry.models().values())
    refused = 0
    for number in range(_DAMAGED):
        chance = Random(number)
        trained = models[number % len(models)]
        data = chance.choice(entry.damages)(trained.damaged, chance)
        try:
            form.check(data)
            artifact, schema = form.rewrite(data, None).artifact, engine_for(runtime).describe(data)
            model = engine_for(runtime).load(artifact, schema)
        except (ArtifactRejectedError, ModelUnusableError):
            refused += 1
            continue
        model.predict(Rows(np.zeros((3, len(schema.features))), {}))
        model.close()
    assert refused > _DAMAGED // 4


@pytest.mark.parametrize("runtime", list(ENTRIES))
@pytest.mark.parametrize("data", [b"", b"{", b"\x08\x08", b"tree\n", b"\0" * 1000], ids=repr)
def test_no_model_at_all(runtime: Runtime, data: bytes) -> None:
    schema = engine_for(runtime).describe(next(iter(ENTRIES[runtime].models().values())).offered)
    with pytest.raises(ModelUnusableError):
        engine_for(runtime).load(data, schema)
    with pytest.raises(ArtifactRejectedError):
        FORMATS[runtime].check(data)
