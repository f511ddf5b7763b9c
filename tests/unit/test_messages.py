from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from registry.errors import InvalidRequestError
from registry.manifest import AliasRecord, GoldenRows, Manifest, Registration, RolloutSpec, VersionState, package_of
from registry.model import (
    ApplicationRecord,
    ModelRef,
    ModelSchema,
    OutputKind,
    OutputSchema,
    QuarantineRecord,
    Runtime,
    TenantRecord,
)
from registry.service import messages, plan, schemas
from scoremesh.registry.v1 import registry_pb2 as pb

REF = ModelRef("acme", "churn")
SCHEMA = ModelSchema(
    features=("age", "plan", "calls"),
    outputs=(
        OutputSchema("probabilities", OutputKind.CLASS_PROBABILITIES, ("no", "yes")),
        OutputSchema("value", OutputKind.REGRESSION),
    ),
    string_columns=("city",),
    dtypes={"plan": "category", "calls": "int"},
    categories={"plan": ("free", "paid")},
)
GOLDEN = GoldenRows(
    dense=((1.0, 2.0, None), (4.0, 5.0, 6.0)),
    outputs={"value": (0.5, None)},
    strings={"city": ("Ulm", "")},
    tolerance=1e-6,
)
MANIFEST = Manifest(
    tenant="acme",
    model="churn",
    version="3",
    application="retention",
    runtime=Runtime.ONNX,
    runtime_version="1.22",
    source="a" * 64,
    source_bytes=1000,
    artifact="b" * 64,
    artifact_bytes=900,
    schema="c" * 64,
    resident_bytes=5000,
    predict_us={"1": 2.5, "64": 40.0},
    golden=GOLDEN,
    transforms=msgspec.Raw(b'{"a":1}'),
    transforms_digest="e" * 64,
    training={"run": "7"},
    labels={"team": "risk"},
    signature="sig",
    created_at="2026-01-02T03:04:05Z",
    nonce="n",
    published_by="ann",
)


def test_a_version_has_all_of_its_manifest() -> None:
    version = messages.to_version(MANIFEST, VersionState.LIVE, SCHEMA)
    assert version.name == "tenants/acme/models/churn/versions/3"
    assert version.state == pb.VERSION_STATE_LIVE
    assert version.package == package_of("b" * 64, "c" * 64, "e" * 64)
    assert (version.transforms_json, dict(version.predict_us)) == ('{"a":1}', {"1": 2.5, "64": 40.0})
    assert schemas.from_schema(version.schema) == SCHEMA
    assert schemas.from_golden(version.golden) == GOLDEN
    filled = {field.name for field, _ in version.ListFields()}
    assert filled == {field.name for field in pb.Version.DESCRIPTOR.fields}


def test_lists_leave_out_what_is_large() -> None:
    version = messages.to_version(MANIFEST, VersionState.RETIRED)
    assert not version.HasField("schema")
    assert not version.HasField("golden")
    assert version.labels == {"team": "risk"}


def test_no_transforms_are_no_text() -> None:
    plain = msgspec.structs.replace(MANIFEST, transforms=msgspec.Raw(b"null"), transforms_digest="")
    assert messages.to_version(plain, VersionState.LIVE, SCHEMA).transforms_json == ""
    assert messages.to_version(MANIFEST, VersionState.LIVE).transforms_json == ""  # as lists show it


def test_a_registered_version() -> None:
    found = messages.to_registered(REF, Registration(version="4", source="d" * 64, created_at="then", nonce="n"))
    assert found == pb.Version(
        name="tenants/acme/models/churn/versions/4",
        state=pb.VERSION_STATE_REGISTERED,
        source_sha256="d" * 64,
        create_time="then",
    )


@pytest.mark.parametrize("state", VersionState)
def test_every_state_has_a_name(state: VersionState) -> None:
    shown = pb.VersionState.Name(messages.to_version(MANIFEST, state).state)
    assert shown == f"VERSION_STATE_{state.name}"


def test_a_model() -> None:
    spec = RolloutSpec(id="r", canary="4", percent=5.0, created_at="then")
    record = AliasRecord(
        revision=12,
        aliases={"live": "3"},
        rollouts={"live": spec},
        application="retention",
        created_at="then",
        nonce="n",
    )
    model = messages.to_model(REF, record)
    assert (model.name, model.application, model.etag) == ("tenants/acme/models/churn", "retention", "12")
    assert dict(model.aliases) == {"live": "3"}
    [rollout] = model.rollouts
    assert (rollout.alias, rollout.canary, rollout.percent, rollout.guarded) == ("live", "4", 5.0, True)
    assert (rollout.max_error_ratio, rollout.max_drift, rollout.min_requests) == (0.01, 0.25, 200)


def test_a_rollouts_limits_of_0_are_the_defaults() -> None:
    spec = messages.from_rollout(pb.Rollout(canary="4", percent=5, max_drift=0.5), rollout_id="r", created_at="t")
    assert spec == RolloutSpec(id="r", canary="4", percent=5.0, guarded=False, max_drift=0.5, created_at="t")


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        (pb.Rollout(), "a canary or a shadow is missing"),
        (pb.Rollout(canary="4"), "percent: 0 is not"),
        (pb.Rollout(canary="4", percent=-1), "percent: -1 is not"),
        (pb.Rollout(canary="4", percent=100.5), "percent: 100.5 is not"),
        (pb.Rollout(canary="4", percent=math.nan), "percent: nan is not"),
        (pb.Rollout(shadow="4", percent=5), "percent: it belongs to a canary"),
        (pb.Rollout(canary="4", shadow="4", percent=5), "its own shadow"),
        (pb.Rollout(canary="4", percent=5, max_drift=-1), "max_drift"),
        (pb.Rollout(canary="4", percent=5, max_drift=math.nan), "max_drift"),
        (pb.Rollout(canary="4", percent=5, max_error_ratio=math.inf), "max_error_ratio"),
        (pb.Rollout(canary="4", percent=5, max_error_ratio=7), "max_error_ratio: 7 is more than 1"),
        (pb.Rollout(canary="4", percent=5, max_error_ratio=-0.1), "max_error_ratio"),
        (pb.Rollout(canary="4", percent=5, min_requests=1_000_001), "min_requests: 1000001 is more than 1000000"),
    ],
)
def test_rollouts_that_can_not_be(rollout: pb.Rollout, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        messages.from_rollout(rollout, rollout_id="r", created_at="t")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (pb.Schema(features=[pb.Feature(name="a"), pb.Feature(name="a")]), "features: 'a' is there twice"),
        (pb.Schema(features=[pb.Feature()]), "features: a name is missing"),
        (pb.Schema(features=[pb.Feature(name="a", dtype="float")]), "'a' has a wrong dtype 'float'"),
        (pb.Schema(features=[pb.Feature(name="a", categories=["x"])]), "wrong dtype ''"),
        (pb.Schema(string_columns=["s", "s"]), "string_columns"),
        (pb.Schema(outputs=[pb.OutputColumn(name="o", kind="number")]), "'o' is of kind 'number'; there are class_"),
    ],
)
def test_schemas_that_can_not_be(schema: pb.Schema, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        schemas.from_schema(schema)


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        (pb.GoldenRows(), "row_count: there are not 0 rows"),
        (pb.GoldenRows(row_count=4_000_000_000), "row_count"),
        (pb.GoldenRows(row_count=2, dense=[1, 2, 3]), "dense: 3 values can't be of 2 rows"),
        (
            pb.GoldenRows(row_count=2, dense=[1, 2], string_columns=[pb.StringColumn(name="s", values=["a"])]),
            "string_columns 's': 1 values",
        ),
        (
            pb.GoldenRows(row_count=2, dense=[1, 2], outputs=[pb.GoldenOutput(name="o", values=[1])]),
            "outputs 'o': 1 values",
        ),
        (pb.GoldenRows(row_count=1, dense=[1], tolerance=-1), "tolerance"),
    ],
)
def test_golden_rows_that_can_not_be(golden: pb.GoldenRows, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        schemas.from_golden(golden)


def test_a_golden_row_without_columns() -> None:
    assert schemas.from_golden(pb.GoldenRows(row_count=1)) == GoldenRows(dense=((),), outputs={})


def test_what_a_publisher_says() -> None:
    facts = plan.from_spec(
        pb.PublishSpec(
            application="retention",
            labels={"team": "risk"},
            training={"run": "7"},
            transforms_json='{"a": 1}',
            signature="sig",
            golden=schemas.to_golden(GOLDEN),
            allow_breaking=True,
        )
    )
    assert (facts.application, facts.labels, facts.training) == ("retention", {"team": "risk"}, {"run": "7"})
    assert (bytes(facts.transforms), facts.signature, facts.allow_breaking) == (b'{"a": 1}', "sig", True)
    assert facts.golden == GOLDEN
    assert bytes(plan.from_spec(pb.PublishSpec()).transforms) == b"null"


@pytest.mark.parametrize("text", ["{", "[" * 60_000, "NaN", "'a'"])
def test_transforms_that_are_not_json(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="transforms_json is not JSON"):
        plan.from_spec(pb.PublishSpec(transforms_json=text))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"labels": {"a": "x" * 70_000}}, "spec.labels: it has 70001 bytes"),
        ({"training": {"x" * 70_000: ""}}, "spec.training: it has 70000 bytes"),
        ({"training": {"log": "\u00e9" * 33_000}}, "spec.training: it has 66003 bytes"),
        ({"signature": "x" * 70_000}, "spec.signature"),
        ({"labels": {"a": "x" * 30_000}, "training": {"b": "x" * 40_000}}, "spec.training: it has 40001 bytes"),
    ],
)
def test_what_lists_show_of_a_version_is_small(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        plan.from_spec(pb.PublishSpec(**spec))
    assert field in caught.value.message
    assert "65536 together" in caught.value.message


def test_transforms_fit_into_a_message() -> None:
    with pytest.raises(InvalidRequestError, match=r"transforms_json: it has 3145730 characters"):
        plan.from_spec(pb.PublishSpec(transforms_json=f'"{"x" * (3 << 20)}"'))


def test_what_lists_show_of_a_version_may_be_just_so_large() -> None:
    spec = pb.PublishSpec(labels={"a": "x" * 32_767}, training={"b": "x" * 32_767})
    assert plan.from_spec(spec).training == {"b": "x" * 32_767}


def test_a_contract_fits_into_etcd() -> None:
    def application(count: int) -> pb.Application:
        features = [pb.Feature(name=f"{number:097}") for number in range(count)]  # 100 bytes each as JSON
        return pb.Application(name="applications/x", contract=pb.Schema(features=features))

    assert messages.from_application(application(5200)).contract is not None
    with pytest.raises(InvalidRequestError, match=r"application\.contract: 53\d+ bytes as JSON are more than 524288"):
        messages.from_application(application(5300))


def test_a_tenant_reads_back() -> None:
    record = TenantRecord(
        tenant="acme",
        shard_size=3,
        requests_per_s=10.5,
        concurrency=4,
        guaranteed_bytes=1,
        max_bytes=2**40,
        premium=True,
        dedicated_pool="acme",
        hedge=True,
    )
    held = msgspec.structs.replace(record, revision=7, created_at="then", nonce="n")
    shown = messages.to_tenant(held)
    assert (shown.name, shown.etag, shown.create_time) == ("tenants/acme", "7", "then")
    assert messages.from_tenant(shown) == record


@pytest.mark.parametrize(
    ("tenant", "words"),
    [
        ({"name": "acme"}, "tenant.name: 'acme' is not of the form tenants/{tenant}"),
        ({"name": "tenants/acme", "requests_per_s": -1.0}, "tenant.requests_per_s: -1"),
        ({"name": "tenants/acme", "requests_per_s": math.nan}, "tenant.requests_per_s: nan"),
        ({"name": "tenants/acme", "guaranteed_bytes": 2, "max_bytes": 1}, "guaranteed_bytes"),
        ({"name": "tenants/acme", "dedicated_pool": "a b"}, "tenant.dedicated_pool 'a b' is not a valid name"),
        ({"name": "tenants/acme", "dedicated_pool": "default"}, "tenant.dedicated_pool: 'default' is everybody's"),
    ],
)
def test_tenants_that_can_not_be(tenant: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        messages.from_tenant(pb.Tenant(**tenant))


def test_an_application_reads_back() -> None:
    record = ApplicationRecord(application="retention", pool="onnx-1", contract=SCHEMA, shared=REF)
    held = msgspec.structs.replace(record, revision=7, created_at="then", nonce="n")
    shown = messages.to_application(held)
    assert (shown.name, shown.etag, shown.shared_model) == ("applications/retention", "7", "tenants/acme/models/churn")
    assert messages.from_application(shown) == record
    assert messages.from_application(pb.Application(name="applications/x")) == ApplicationRecord(application="x")


def test_a_quarantined_package() -> None:
    record = QuarantineRecord("p", "crashed", "s-1", "then", "later", "acme", "churn", "3")
    assert messages.to_quarantined(record) == pb.QuarantinedPackage(
        name="quarantine/p",
        reason="crashed",
        by="s-1",
        create_time="then",
        expire_time="later",
        version="tenants/acme/models/churn/versions/3",
    )
    assert messages.to_quarantined(QuarantineRecord("p", "r", "b", "s")).version == ""


@pytest.mark.parametrize("etag", ["0", "x", "-1", "1.0", " 1", "٣", "9" * 21])
def test_etags_that_are_none(etag: str) -> None:
    with pytest.raises(InvalidRequestError, match="etag"):
        messages.from_etag(etag)


def test_etags_read_back() -> None:
    assert [messages.from_etag(messages.to_etag(revision)) for revision in (0, 1, 12345)] == [0, 1, 12345]


def test_request_ids_have_a_bound() -> None:
    assert messages.check_request_id("r" * 128) == "r" * 128
    with pytest.raises(InvalidRequestError, match="request_id"):
        messages.check_request_id("r" * 129)
