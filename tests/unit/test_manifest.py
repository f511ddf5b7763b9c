"""The records in object storage and where they lie."""

from __future__ import annotations

import msgspec
import pytest

from registry import layout, manifest
from registry.errors import InvalidRequestError, ModelUnusableError
from registry.manifest import FORMAT, AliasRecord, GoldenRows, Manifest, RolloutSpec
from registry.model import ModelRef, ModelSchema, ModelVersion, OutputKind, OutputSchema, Rollout, Runtime

REF = ModelRef("acme", "fraud")
DIGEST = "ab" + "0" * 62
SCHEMA = ModelSchema(("age", "income"), (OutputSchema("value", OutputKind.REGRESSION),))


def _manifest() -> Manifest:
    return Manifest(
        tenant="acme",
        model="fraud",
        version="7",
        runtime=Runtime.ONNX,
        source="cd" + DIGEST[2:],
        source_bytes=20,
        artifact=DIGEST,
        artifact_bytes=10,
        schema=manifest.schema_digest(SCHEMA),
        resident_bytes=1000,
        predict_us={"1": 2.5, "64": 40.0},
        created_at="2026-11-23T23:00:00Z",
        nonce="n1",
        labels={"team": "risk"},
    )


def _version(name: str, artifact: str = DIGEST) -> ModelVersion:
    package = manifest.package_of(artifact, "c" * 64)
    return ModelVersion(name, package, "acme", artifact, "c" * 64, Runtime.ONNX, 10, 1000)


def test_manifest_survives_its_encoding() -> None:
    assert manifest.decode(Manifest, manifest.encode(_manifest()), "p") == _manifest()


def test_manifest_keeps_all_that_its_publisher_said() -> None:
    golden = GoldenRows(((1.0, None),), {"value": (0.1, None)}, {"city": ("Ulm",)}, 1e-6)
    full = msgspec.structs.replace(_manifest(), golden=golden, training={"auc": "0.9"})
    assert manifest.decode(Manifest, manifest.encode(full), "p") == full


def test_transforms_stay_what_their_writer_meant() -> None:
    said = msgspec.structs.replace(_manifest(), transforms=msgspec.Raw(b'[{"log":"income","base":1e1}]'))
    read = manifest.decode(Manifest, manifest.encode(said), "p")
    assert msgspec.json.decode(read.transforms) == [{"log": "income", "base": 10.0}]


def test_manifest_tells_a_scorer_what_it_needs() -> None:
    version = _manifest().to_version()
    assert (version.version, version.tenant, version.runtime) == ("7", "acme", Runtime.ONNX)
    assert (version.artifact, version.artifact_bytes, version.resident_bytes) == (DIGEST, 10, 1000)
    assert version.schema == manifest.schema_digest(SCHEMA)
    assert version.rollout is None


def test_what_is_loaded_is_named_by_artifact_and_schema() -> None:
    same = msgspec.structs.replace(_manifest(), version="8", tenant="globex", resident_bytes=1)
    assert same.to_version().package == _manifest().to_version().package
    for changed in ({"artifact": "0" * 64}, {"schema": "0" * 64}):
        assert msgspec.structs.replace(_manifest(), **changed).to_version().package != same.to_version().package


def test_equal_schemas_have_equal_digests_whatever_their_order_of_building() -> None:
    one = ModelSchema(("a", "b"), (), dtypes={"a": "int", "b": "bool"}, categories={"a": ("x",), "b": ("y",)})
    other = ModelSchema(("a", "b"), (), dtypes={"b": "bool", "a": "int"}, categories={"b": ("y",), "a": ("x",)})
    assert manifest.schema_digest(one) == manifest.schema_digest(other)
    assert manifest.schema_digest(one) != manifest.schema_digest(msgspec.structs.replace(one, dtypes={"a": "int"}))


def test_alias_record_survives_its_encoding() -> None:
    record = AliasRecord(
        revision=3,
        previous=2,
        aliases={"live": "7"},
        versions={"7": _version("7"), "8": _version("8")},
        rollouts={"live": RolloutSpec(id="r", canary="8", percent=5.0)},
        before={"live": "6"},
        requests=(("request", "7"),),
        created_at="2026-11-23T23:00:00Z",
        nonce="n",
    )
    assert manifest.decode(AliasRecord, manifest.encode(record), "p") == record


def test_an_alias_means_its_version_and_what_runs_beside_it() -> None:
    versions = {name: _version(name) for name in ("7", "8", "9")}
    rollouts = {"live": RolloutSpec(id="r", canary="8", percent=5.0), "old": RolloutSpec(id="s", shadow="9")}
    aliases = {"live": "7", "old": "7", "plain": "7"}
    record = AliasRecord(revision=1, aliases=aliases, versions=versions, rollouts=rollouts, created_at="", nonce="")
    assert record.target("live").rollout == Rollout("r", versions["8"], 5.0, None)
    assert record.target("old").rollout == Rollout("s", None, 0.0, versions["9"])
    assert record.target("plain") == versions["7"]
    with pytest.raises(KeyError):
        record.target("nobody")


def test_fields_of_a_newer_writer_are_ignored() -> None:
    fields = msgspec.json.decode(manifest.encode(_manifest())) | {"colour": "red"}
    assert manifest.decode(Manifest, msgspec.json.encode(fields), "p") == _manifest()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"revision": "x"}', b"\xff\xfe"])
def test_damaged_record_is_refused_and_named(data: bytes) -> None:
    with pytest.raises(ModelUnusableError, match=r"tenants/acme/x\.json"):
        manifest.decode(AliasRecord, data, "tenants/acme/x.json")


def test_unknown_format_is_refused() -> None:
    data = manifest.encode(msgspec.structs.replace(_manifest(), format=FORMAT + 1))
    with pytest.raises(ModelUnusableError, match=f"p has a format that is unknown here; this program knows {FORMAT}"):
        manifest.decode(Manifest, data, "p")


def test_paths() -> None:
    assert layout.artifact_path("acme", DIGEST) == f"tenants/acme/artifacts/ab/{DIGEST}"
    assert layout.schema_path("acme", DIGEST) == f"tenants/acme/schemas/{DIGEST}.json"
    assert layout.registration_path(REF, "12") == "tenants/acme/models/fraud/registered/12.json"
    assert layout.manifest_path(REF, "1.2") == "tenants/acme/models/fraud/versions/1.2.json"
    assert (
        layout.record_path(layout.aliases_folder(REF), 12)
        == "tenants/acme/models/fraud/aliases/00000000000000000012.json"
    )


@pytest.mark.parametrize("name", ["", "..", "a/b", "a#1", "é", "x" * 129])
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        layout.manifest_path(REF, name)
    with pytest.raises(InvalidRequestError):
        layout.aliases_folder(ModelRef("acme", name))
    with pytest.raises(InvalidRequestError):
        layout.tenant_folder(name)
    with pytest.raises(InvalidRequestError):
        layout.application_folder(name)


@pytest.mark.parametrize("digest", ["", "AB" + "0" * 62, "0" * 63, "../" + "0" * 61])
def test_only_a_sha256_names_an_artifact(digest: str) -> None:
    with pytest.raises(InvalidRequestError):
        layout.artifact_path("acme", digest)
    with pytest.raises(InvalidRequestError):
        layout.schema_path("acme", digest)


def test_names_turn_back_into_what_they_stand_for() -> None:
    assert layout.version_of("1.2.json") == "1.2"
    assert layout.version_of("1.2.json#1") is None
    assert layout.revision_of("00000000000000000012.json") == 12
    assert [layout.revision_of(name) for name in ("12.json", "x" * 20 + ".json", "0" * 20)] == [None, None, None]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], "1"),
        (["1", "2", "10"], "11"),
        (["2024-01-01", "v3", "007"], "1"),
        (["9" * 128, "3"], "4"),
    ],
)
def test_next_version_counts_plain_numbers_only(versions: list[str], expected: str) -> None:
    assert layout.next_version(versions) == expected


def test_versions_sort_by_their_numbers() -> None:
    versions = ["10", "9", "v10", "v9", "1.10", "1.9"]
    assert sorted(["1a", "01", "1", "0", "1.0", "2"], key=layout.version_order) == ["0", "01", "1", "1.0", "1a", "2"]
    assert layout.version_order("01") != layout.version_order("1"), "a page that ends at the one has the other next"
    assert sorted(versions, key=layout.version_order) == ["1.9", "1.10", "9", "10", "v9", "v10"]
